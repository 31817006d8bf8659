"""Commands that are too small or too large, or inverted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.majority import sound_quantile
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import MIDDLE, SHORT, WHOLE, Windows, running_sums

# Amount of an inverted dimension: as if the gain were 1/8.
MOST = 3.0
# Share of a dimension's variance that the model must explain in the typical episode: where commands and state have
# nothing to do with each other, they still correlate in some episode.
LEAST_EXPLAINED = 0.3
# Least correlation of command and expectation for a gain to mean anything.
CORRELATED = 0.8
# Errors of an expected command, in standard deviations of its residual, that a gain may be due to, by scale: the model
# errs over whole stretches, as where the robot touches something, and an episode has many of them.
ERRORS = {SHORT: 2.5, MIDDLE: 2.5, WHOLE: 0.5}
# Gains that sound episodes have as well: multiples of a low quantile of the distances from 1, in doublings, of those
# of whole episodes in a dimension. Where a command presses against something, each episode has its own. Gains of
# faulty episodes mean something more often than those of sound ones, whose commands are cut at a limit.
USUAL, USUAL_QUANTILE = 3.5, 0.3
# Episodes with a gain that means anything, from which on they show a usual one.
LEAST_KNOWN = 4
# Least spread of the expected command for a gain to mean anything, units, by scale.
LEAST_SPREAD = {SHORT: 0.3, MIDDLE: 0.3, WHOLE: 0.2}
# Least number of frames that carry the spread: one burst that the model underrates is not a gain.
LEAST_CARRYING = 6.0
# Least share of a window's frames that are free to move.
LEAST_FREE = 0.5


class Gain(Check):
    """
    A dimension of the command that is too small, too large or inverted against what the state implies.

    Why it harms: the policy learns to do too little, too much or the opposite.

    Example: degrees and radians in one dataset, a gripper with the other polarity.

    What to do: rescale or invert the dimension, or leave the episodes out.

    Limits: a gain that most episodes share cannot be seen, nor one as large as those that sound episodes have. Where a
    dimension rests, it has no gain.
    """

    name, unit = "action/gain", "doublings"
    reads = ("state", "action")
    action = "rescale this dimension of the actions, or leave the frames out"
    material = 0.45
    # What the error of the model leaves to a gain is not in the amount, so that sound ones hardly vary.
    least_tail = 0.1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._usual = np.zeros(len(context.model.names) + 1)
        whole = [self._gains(view.windows[-1], self._moments(view)) for view in context.views if view.windows]
        if whole:
            gain, _, clear = (np.concatenate(each) for each in zip(*whole, strict=True))
            known = clear.sum(axis=0) >= LEAST_KNOWN
            low = np.nan_to_num(sound_quantile(_doublings(gain), clear, USUAL_QUANTILE))
            self._usual = np.where(known, USUAL * low, 0.0)

    def measure(self, view: View) -> Measurement:
        trust = self.context.model.trust(view.episode)
        trust = np.append(trust, trust.min(initial=1.0))
        sums = self._moments(view)
        found: Measurement = {}
        for windows in view.windows:
            gain, error, clear = self._gains(windows, sums)
            sure = 1 + np.sign(gain - 1) * np.maximum(np.abs(gain - 1) - error, 0.0)
            size = np.minimum(_doublings(sure), np.maximum(_doublings(gain) - self._usual, 0.0))
            amount = np.where(clear, size, 0.0)
            found[windows.scale] = Candidates.of(windows, amount * trust, gain)
        return found

    def _moments(self, view: View) -> np.ndarray:
        """Running sums of the products of commands and expected ones that a gain needs, `(T + 1, 8, d)`."""
        action, expected, free = view.prediction.action, view.prediction.expected, view.free
        free_a, free_e, square = free * action, free * expected, expected**2
        moments = free, free_a, free_e, free * action**2, free * square, free_a * expected, free_e * square
        return running_sums(np.stack([*moments, free * square**2], axis=1))

    def _gains(self, windows: Windows, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Of windows and dimensions, and of all dimensions together, `(W, d + 1)`: the gain, the error of the model that
        it may be due to, and whether it means anything.
        """
        means = windows.mean_of(sums)
        share = means[:, 0]
        means = means / np.maximum(share, 1e-9)[:, None]
        mean_a, mean_e = means[:, 1], means[:, 2]
        var_a = np.maximum(means[:, 3] - mean_a**2, 0.0)
        var_e = np.maximum(means[:, 4] - mean_e**2, 0.0)
        cov = means[:, 5] - mean_a * mean_e
        third, fourth = means[:, 6], means[:, 7]
        fourth += -4 * mean_e * third + 6 * mean_e**2 * var_e + 3 * mean_e**4
        frames = share * (windows.stop - windows.first)[:, None]
        explained = self.context.model.explained > LEAST_EXPLAINED
        judged = explained & (share > LEAST_FREE) & (frames * var_e**2 > LEAST_CARRYING * np.maximum(fourth, 1e-12))
        # The variance that the error of the model leaves to a gain.
        doubt = var_e * self.context.model.sigma**2
        var_a, var_e, cov, doubt = (_with_all(judged * each) for each in (var_a, var_e, cov, doubt))
        gain = cov / np.maximum(var_e, 1e-9)
        error = ERRORS[windows.scale] * np.sqrt(doubt) / np.maximum(var_e, 1e-9)
        clear = np.abs(cov) > CORRELATED * np.sqrt(np.maximum(var_a * var_e, 1e-12))
        clear &= var_e > LEAST_SPREAD[windows.scale] ** 2
        return gain, error, clear

    def cause(self, found: Found) -> str:
        names = self.context.model.names
        name = names[found.dimension] if found.dimension < len(names) else "all dimensions"
        kind = "inverted, gain" if found.detail < 0 else "with gain"
        return f"commands of {name} {kind} {found.detail:.2f}"

    def plants(self) -> Sequence[Plant]:
        return [
            Plant("all commands with gain 0.5", _all(0.5)),
            Plant("all commands with gain 2", _all(2.0)),
            Plant("one dimension with gain 0.5", _one(0.5)),
            Plant("one dimension inverted", _one(-1.0)),
        ]


def _with_all(values: np.ndarray) -> np.ndarray:
    """Values `(W, d)` with their sum, which is that of all dimensions together, as one more dimension."""
    return np.concatenate([values, values.sum(axis=1, keepdims=True)], axis=1)


def _doublings(gain: np.ndarray) -> np.ndarray:
    """The distance of gains from 1."""
    return np.abs(np.log2(np.maximum(gain, 2.0**-MOST)))


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    middle = values.mean(axis=0)
    return middle + factor * (values - middle)


def _all(factor: float):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del rng
        used, action = moving_dimensions(context.signals.action), episode.action.copy()
        action[:, used] = _scaled(action[:, used], factor)
        return episode.with_signals(action=action)

    return make


def _one(factor: float):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        action = episode.action.copy()
        chosen = busy_dimensions(action, context.signals.action, rng)
        action[:, chosen] = _scaled(action[:, chosen], factor)
        return episode.with_signals(action=action) if len(chosen) else None

    return make
