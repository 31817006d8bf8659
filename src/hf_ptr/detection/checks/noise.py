"""White noise on state or command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import WHOLE, Windows, inner_rows

# Squares count as at most this many times their median: two standard deviations of white noise; motions have more.
LEAP = 9.0
# Median of the negated product of neighbouring steps of white noise, as a share of its variance.
MEDIAN_PRODUCT = 0.329
# A window counts from this many times the variance of the median episode, and of its own median window.
USUAL = 3.0
# Uncertainty of an estimate as a share of it, times the root of the number of samples: one and a half standard errors.
UNCERTAIN = 1.7
# Material amount in a window as a share of that in an episode: only what is more than elsewhere, and certain, counts.
IN_WINDOW = 0.7


class _Noise(Check):
    """The noise of one signal, in each dimension and as the root mean square of all."""

    unit = "std"
    # The noise of a sensor hardly varies.
    least_tail = 0.1
    signal: ClassVar[Literal["state", "action"]]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._scale = getattr(context.signals, self.signal)
        self._used = moving_dimensions(self._scale)
        self._usual = 0.0
        if len(self._used):
            noise = [self._everywhere(self._signals(view)) for view in context.views if view.windows]
            self._usual = float(np.median(np.mean(np.square(noise), axis=1))) if noise else 0.0

    def material_at(self, scale: str) -> float:
        return self.material if scale == WHOLE else IN_WINDOW * self.material

    def measure(self, view: View) -> Measurement:
        if not view.windows or not len(self._used):
            return {}
        signals = self._signals(view)
        single = self._everywhere(signals)
        joint = np.sqrt((single**2).mean(keepdims=True))
        found = {WHOLE: Candidates.of(view.windows[-1], np.concatenate([joint, single])[None])}
        for windows in view.windows[:-1]:
            # A short quick motion looks like noise, but hardly in most of its frames. In a short window the noise of a
            # single dimension is known too badly, and that of the whole episode is judged there.
            # A jerk is hardly in both halves.
            halves = np.min([median_variances(values, windows) for values in signals], axis=0).mean(axis=2)
            variance = halves.min(axis=0)
            more = np.sqrt(np.maximum(variance - USUAL * max(np.median(variance), self._usual), 0.0))
            # As much of it as is certain.
            samples = (windows.stop - windows.first) * len(self._used)
            more *= np.maximum(1 - UNCERTAIN / np.sqrt(samples), 0.0)
            found[windows.scale] = Candidates.of(windows, np.pad(more[:, None], ((0, 0), (0, len(self._used)))))
        return found

    def plants(self) -> Sequence[Plant]:
        return [
            Plant(f"noise of {size} standard deviations on the {self._what}", self._add(size)) for size in (0.1, 0.2)
        ]

    @staticmethod
    def _everywhere(signals: list[np.ndarray]) -> np.ndarray:
        """Standard deviation of the noise of a whole episode, `(d,)`."""
        return np.min([white_noise(inner_rows(values)) for values in signals], axis=0)

    def _signals(self, view: View) -> list[np.ndarray]:
        """Signals `(T, d)` that all have the noise, in units."""
        return [getattr(view.episode, self.signal)[:, self._used]]

    @property
    def _what(self) -> str:
        return "state" if self.signal == "state" else "commands"

    def _describe(self, found: Found) -> str:
        which = "" if found.dimension == 0 else f" of {self._scale.names[self._used[found.dimension - 1]]}"
        return f"noise of {found.amount:.2f} standard deviations on the {self._what}{which}"

    def cause(self, found: Found) -> str:
        return self._describe(found)

    def _add(self, size: float):
        def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
            del context
            values = getattr(episode, self.signal).copy()
            values[:, self._used] += rng.normal(0, size, (len(values), len(self._used)))
            return episode.with_signals(**{self.signal: values})

        return make


class ActionNoise(_Noise):
    """
    White noise on the commands.

    Why it harms: the policy learns to tremble, and the loss cannot fall below the noise.

    Example: a worn potentiometer of the leader arm.

    What to do: smooth the commands, or leave the frames out.

    Limits: the noise that most episodes have cannot be seen, nor any below 0.06 standard deviations. In a part of an
    episode, noise of a tenth is often missed where few dimensions move.
    """

    name, signal = "action/noise", "action"
    reads = ("action",)
    action = "smooth the actions, or leave the frames out"
    material = 0.06

    def _signals(self, view: View) -> list[np.ndarray]:
        commands = super()._signals(view)[0]
        # A jerk, or the steps of commands at a lower rate, is in what the state implies, too; noise is not. The model
        # predicts the same dimensions.
        residual = np.where(self.context.model.known, view.prediction.action - view.prediction.expected, commands)
        return [commands, residual]


class StateNoise(_Noise):
    """
    White noise on the state.

    Why it harms: the policy sees positions that the robot did not have.

    Example: a loose encoder cable.

    What to do: smooth the state, or leave the frames out.

    Limits: the noise that most episodes have cannot be seen, nor any below 0.06 standard deviations. In a part of an
    episode, noise of a tenth is often missed where few dimensions move.
    """

    name, signal = "state/noise", "state"
    reads = ("state",)
    action = "smooth the state, or leave the frames out"
    material = 0.06


def median_variances(values: np.ndarray, windows: Windows) -> np.ndarray:
    """
    Variance of the white noise in most frames of either half of each window of `(T, d)` signals, `(2, W, d)`.

    It is too small in motion.
    """
    step = np.diff(values, axis=0)
    # Neighbouring steps of a smooth signal are alike; those of white noise correlate by -1/2.
    products = -step[:-1] * step[1:]
    # All windows of a scale have the same length.
    inside = windows.first[:, None] + np.arange(int(windows.stop[0] - windows.first[0]) - 2)
    halves = np.array_split(products[inside], 2, axis=1)
    return np.maximum([np.median(half, axis=1) for half in halves], 0.0) / MEDIAN_PRODUCT


def white_noise(values: np.ndarray) -> np.ndarray:
    """
    Standard deviation of the white noise on smooth or held signals, `(T, d)` to `(d,)`; T is at least 6.

    It is the noise of most frames: one in less than half of them is too small here, and any by about a tenth.
    """
    curve = np.diff(values, n=2, axis=0)
    # Second differences of white noise have a mean product of -4 variances with the next, 1 with the one after it and
    # none with later ones, and their differences have a mean square of 20. A smooth motion adds to all of them.
    square = np.diff(curve, axis=0) ** 2 / 20
    cap = LEAP * np.median(square, axis=0)
    products = [np.clip(-curve[:-lag] * curve[lag:], -4 * cap, 4 * cap).mean(axis=0) for lag in (1, 2, 3)]
    # Steps of a command that is held for two or three frames alternate, too, but return after as many frames.
    sums = np.cumsum(products, axis=0) / np.array([4.0, 3.0, 3.0])[:, None]
    return np.sqrt(np.maximum(np.minimum(sums.min(axis=0), np.minimum(square, cap).mean(axis=0)), 0.0))
