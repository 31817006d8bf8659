"""Commands that were recorded early or late."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import resample
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import WHOLE

# Largest lag that is searched, seconds and frames.
LONGEST = 0.5
LEAST_LONGEST = 8
# Residuals above this many standard deviations count as this.
CAP = 6.0
# The fit at the dataset's own lag must be this many times worse than at the best one.
LEAST_RATIO = 1.4
# Least lag that counts: seconds and frames.
MATERIAL = 0.05
MATERIAL_FRAMES = 1.25


class Lag(Check):
    """
    Commands recorded early or late relative to the state, compared with the other episodes.

    Why it harms: the policy learns to act before or after the moment that needs the action.

    Example: after a restart of the recorder, commands arrive six frames late in eleven of eighty episodes.

    What to do: shift the action column of these frames by the lag, or leave the episodes out.

    Limits: a lag that all episodes share cannot be seen. Where the robot rests, there is nothing to align.
    """

    name, unit = "action/lag", "frames"
    reads = ("state", "action")
    action = "shift the actions of these frames by the lag, or leave them out"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.material = max(MATERIAL_FRAMES, MATERIAL * context.fps)
        self._longest = max(LEAST_LONGEST, round(LONGEST * context.fps))
        self._usual = 0.0
        measured = [self.measure(context.view(episode)) for episode in context.signals.episodes]
        whole = [one[WHOLE].detail[0, 0] for one in measured if WHOLE in one]
        self._usual = float(np.median(whole)) if whole else 0.0

    def measure(self, view: View) -> Measurement:
        action, expected = view.prediction.action, view.prediction.expected
        model = self.context.model
        used = model.known
        length, reach = len(action), min(self._longest, len(action) // 4)
        shifts = np.arange(-reach, reach + 1)
        if not used.any() or reach < 2:
            return {part.scale: Candidates.of(part, np.zeros(len(part.first))) for part in view.windows}
        cost = np.full((length, len(shifts)), np.nan)
        weight = model.explained[used] / model.explained[used].sum()
        a, e = action[:, used] / model.sigma[used], expected[:, used] / model.sigma[used]
        for column, shift in enumerate(shifts.tolist()):
            low, high = max(0, -shift), min(length, length - shift)
            cost[low:high, column] = np.minimum(np.abs(a[low + shift : high + shift] - e[low:high]), CAP) @ weight
        # Beyond the ends of the episode no shift can be compared.
        inside = np.isfinite(cost).all(axis=1)[:, None]
        filled = np.where(inside, cost, 0.0)
        usual = reach + max(-reach, min(reach, round(self._usual)))
        found: Measurement = {}
        for windows in view.windows:
            share = windows.mean(inside.astype(float))
            mean = windows.mean(filled) / np.maximum(share, 1e-9)
            # Far away, something in the episode resembles any short window.
            far = np.abs(shifts - shifts[usual]) > (windows.stop - windows.first)[:, None] // 2
            mean = np.where(far, np.inf, mean)
            best = mean.argmin(axis=1)
            rows = np.arange(len(best))
            left, here, right = (mean[rows, np.clip(best + step, 0, len(shifts) - 1)] for step in (-1, 0, 1))
            inner = (best > 0) & (best < len(shifts) - 1) & np.isfinite(left) & np.isfinite(right)
            left, right = np.where(inner, left, here), np.where(inner, right, here)
            bend = left - 2 * here + right
            vertex = np.where(bend > 1e-12, 0.5 * (left - right) / np.maximum(bend, 1e-12), 0.0)
            position = shifts[best] + vertex
            ratio = (mean[:, usual] + 0.05) / (here + 0.05)
            sure = (ratio > LEAST_RATIO) & inner & (share[:, 0] > 0.5)
            amount = np.where(sure, np.abs(position - self._usual), 0.0)
            found[windows.scale] = Candidates.of(windows, amount, position - self._usual)
        return found

    def cause(self, found: Found) -> str:
        return f"commands {found.amount:.1f} frames {'late' if found.detail > 0 else 'early'}"

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
