"""Commands that were recorded early or late."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.lag_words import lag_words
from hf_ptr.detection.parabola import vertex
from hf_ptr.detection.planting import resample
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import MIDDLE, SHORT, WHOLE, Windows, running_sums

# Largest lag that is searched, seconds and frames.
LONGEST = 0.5
LEAST_LONGEST = 8
# Commands are compared relative to their mean over so many seconds either way: the model errs slowly, and slow errors
# hide the lag.
FAST = 0.2
LEAST_FAST = 2
# Share of a dimension's variance that the model must explain for it to have a part. Little is enough: all dimensions
# have the same lag.
LEAST_EXPLAINED = 0.3
# Least standard deviation of a fast residual, units.
LEAST_SIGMA = 0.02
# Residuals above this many standard deviations count as this.
CAP = 6.0
# A window is shifted by at most this part of its frames, or by `LEAST_LONGEST`.
SHIFTED = 4
# Least share of a window's frames that a shift must leave to be compared.
LEAST_SHARE = 0.6
# The squared residuals at a lag must be at most this share of those at the usual one: of commands that do not belong
# to the state at any lag, some always fit a little better.
MOST_LEFT = 0.7
# Share of the variance of slow residuals that a lag may leave: over a whole episode other errors of the model remain.
MOST_LEFT_SLOWLY = {SHORT: 0.5, MIDDLE: 0.5, WHOLE: 1.0}
# Least lag that counts, frames.
MATERIAL = 1.5
# Gain of a lag, summed over the frames of a window, below which it is not sure: `LEAST_GAIN` and multiples of the
# median of the task's episodes and of the spread of all episodes around it, at each scale by itself.
LEAST_GAIN = 5.0
MEDIANS, SPREADS = 2.0, 4.0
# The larger a lag, the rarer it is, and the more shifts have a chance to fit: gain that each factor of e needs more.
RARE = 2.0
# Quantile of the gains that sets their spread, and episodes that those of all count as against those of a task.
UPPER = 0.67
SHRINKAGE = 4.0


class Lag(Check):
    """
    Commands recorded early or late relative to the state, compared with the other episodes.

    Why it harms: the policy learns to act before or after the moment that needs the action.

    Example: after a restart of the recorder, commands arrive six frames late in eleven of eighty episodes.

    What to do: shift the action column of these frames by the lag, or leave the episodes out.

    Limits: a lag that all episodes share cannot be seen, nor one below 1.5 frames. Where the robot rests, or moves
    slowly and evenly, there is nothing to align.
    """

    name, unit = "action/lag", "frames"
    reads = ("state", "action")
    action = "shift the actions of these frames by the lag, or leave them out"

    material = MATERIAL
    # A lag is measured to a fraction of a frame, and where it is not sure it counts as none.
    least_tail = 0.12

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = np.flatnonzero(context.model.explained > LEAST_EXPLAINED)
        self._longest = max(LEAST_LONGEST, round(LONGEST * context.fps))
        self._around = max(LEAST_FAST, round(FAST * context.fps))
        self._sigma = np.ones(len(self._used))
        pairs = [pair for pair in map(self._fast, context.views) if len(pair[0])]
        if pairs:
            spread = [1.4826 * np.median(np.abs(action - expected), axis=0) for action, expected in pairs]
            self._sigma = np.maximum(np.median(spread, axis=0), LEAST_SIGMA)
        self._usual = 0.0
        estimates = [self._estimates(view) for view in context.views]
        whole = [(float(one[WHOLE][0][0]), float(one[WHOLE][1][0])) for one in estimates if WHOLE in one]
        # A large lag that nothing speaks for is none.
        positions = [place for place, gain in whole if abs(place) < MATERIAL or gain > LEAST_GAIN]
        self._usual = float(np.median(positions)) if len(positions) > len(whole) / 2 else 0.0
        if round(self._usual):
            # The gains were those over no lag.
            estimates = [self._estimates(view) for view in context.views]
        self._least_gain = {scale: self._gains_of_sound(estimates, scale) for scale in (SHORT, MIDDLE, WHOLE)}

    def _gains_of_sound(
        self, estimates: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]], scale: str
    ) -> dict[int, float]:
        """By task, the gain from which a lag is sure, from the estimates of all episodes over the usual lag."""
        tasks = np.array([episode.task for episode in self.context.signals.episodes])
        gains = np.zeros(len(estimates))
        for number, one in enumerate(estimates):
            position, gain = one.get(scale, (np.zeros(1), np.zeros(1)))
            gains[number] = np.where(np.abs(position - self._usual) >= MATERIAL, gain, 0.0).max(initial=0.0)
        # Episodes that the model was not fitted to say nothing of the others, unless hardly any are left.
        sound = np.asarray(self.context.model.follows[:, self._used].all(axis=1))
        if 2 * sound.sum() < len(estimates):
            sound[:] = True
        gains, of_sound = gains[sound], tasks[sound]
        median = {}
        for task in np.unique(tasks).tolist():
            own = gains[of_sound == task]
            if not len(own):
                own = gains
            median[task] = float((len(own) * np.median(own) + SHRINKAGE * np.median(gains)) / (len(own) + SHRINKAGE))
        away = gains - np.array([median[task] for task in of_sound.tolist()])
        spread = max(0.0, float(np.quantile(away, UPPER)))
        return {task: LEAST_GAIN + MEDIANS * middle + SPREADS * spread for task, middle in median.items()}

    def measure(self, view: View) -> Measurement:
        estimates = self._estimates(view)
        trust = self.context.model.trust(view.episode)[self._used].min(initial=1.0)
        found: Measurement = {}
        for windows in view.windows:
            position, gain = estimates.get(windows.scale, (np.zeros(len(windows.first)),) * 2)
            lag = position - self._usual
            rare = RARE * np.log(np.maximum(np.abs(lag), MATERIAL) / MATERIAL)
            sure = gain * trust > self._least_gain[windows.scale][view.episode.task] + rare
            if (np.abs(lag[sure]) >= MATERIAL).any():
                sure &= self._fits_slowly(view, windows, np.where(sure, np.round(position), 0).astype(int))
            lag = np.where(sure, lag, 0.0)
            found[windows.scale] = Candidates.of(windows, np.abs(lag), lag)
        return found

    def _fits_slowly(self, view: View, windows: Windows, shifts: np.ndarray) -> np.ndarray:
        """
        Whether the commands of each window are clearly closer to the expected ones at its shift, `(W,)` frames, than
        at the usual one, in their slow changes too.

        A lag moves everything alike. Another speed, or another response, moves what is quick against what is slow.
        """
        action, expected = view.prediction.action[:, self._used], view.prediction.expected[:, self._used]
        usual, length = round(self._usual), len(action)
        closer = np.zeros(len(shifts), dtype=bool)
        for shift in np.unique(shifts).tolist():
            rows = np.arange(max(0, -shift, -usual), length - max(0, shift, usual))
            compared = np.zeros((length, 1))
            compared[rows] = 1.0
            share = np.maximum(windows.mean(compared), 1e-9)
            variance = []
            for at in (usual, shift):
                residual = np.zeros(action.shape)
                residual[rows] = action[rows + at] - expected[rows]
                mean = windows.mean(residual) / share
                variance.append((windows.mean(residual**2) / share - mean**2).sum(axis=1))
            closer |= (shifts == shift) & (variance[1] < MOST_LEFT_SLOWLY[windows.scale] * variance[0])
        return closer

    def _fast(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Command and expected command relative to their means over the frames around, `(T, d)`."""
        action, expected = view.prediction.action[:, self._used], view.prediction.expected[:, self._used]
        row = np.arange(len(action))
        around = Windows("", np.maximum(row - self._around, 0), np.minimum(row + self._around + 1, len(row)))
        return action - around.mean(action), expected - around.mean(expected)

    def _estimates(self, view: View) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """
        By scale, the best lag of each window, frames, and its gain over the usual lag: by how much the absolute
        residuals become smaller, in standard deviations, summed over the frames. -1 where no lag is clearly better.
        """
        length = len(view.episode)
        reach = min(self._longest, length // 4)
        if not len(self._used) or reach < 2:
            return {}
        action, expected = (values / self._sigma for values in self._fast(view))
        shifts = np.arange(-reach, reach + 1)
        usual = int(reach + np.clip(round(self._usual), -reach, reach))
        cost = np.full((2, length, len(shifts)), np.nan)
        for column, shift in enumerate(shifts.tolist()):
            low, high = max(0, -shift), min(length, length - shift)
            residual = np.minimum(np.abs(action[low + shift : high + shift] - expected[low:high]), CAP)
            cost[:, low:high, column] = residual.mean(axis=1), (residual**2).mean(axis=1)
        # The same frames at both lags: some have more to gain than others.
        compared = np.isfinite(cost[0] + cost[0][:, [usual]])
        pairs = (compared, cost[0][:, [usual]] - cost[0], cost[1][:, [usual]], cost[1])
        sums = running_sums(np.stack([np.where(compared, part, 0.0) for part in pairs], axis=1))
        found = {}
        for windows in view.windows:
            size = (windows.stop - windows.first)[:, None]
            share, gain, before, after = np.moveaxis(windows.mean_of(sums), 1, 0)
            # Far away, something in the episode resembles any short window, above all where a way back begins.
            near = np.abs(shifts - shifts[usual]) <= np.maximum(size // SHIFTED, LEAST_LONGEST)
            able = (share >= LEAST_SHARE) & near
            total = np.where(able, size * gain / np.maximum(share, 1e-9), -np.inf)
            best = total.argmax(axis=1)
            row = np.arange(len(best))
            left, here, right = (total[row, np.clip(best + step, 0, len(shifts) - 1)] for step in (-1, 0, 1))
            inner = (best > 0) & (best < len(shifts) - 1) & np.isfinite(left) & np.isfinite(right)
            left, right = np.where(inner, left, here), np.where(inner, right, here)
            smaller = (after <= MOST_LEFT * before)[row, best]
            found[windows.scale] = shifts[best] + vertex(left, here, right), np.where(inner & smaller, here, -1.0)
        return found

    def cause(self, found: Found) -> str:
        return f"commands {lag_words(math.copysign(found.amount, found.detail))}"

    def plants(self) -> Sequence[Plant]:
        return [
            Plant(f"commands {abs(frames)} frames {'late' if frames > 0 else 'early'}", _shift(frames))
            for frames in (6, -6, 3, -3)
        ]


def _shift(frames: int):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del context, rng
        if len(episode) < 4 * abs(frames):
            return None
        return episode.with_signals(action=resample(episode.action, np.arange(len(episode)) - frames))

    return make
