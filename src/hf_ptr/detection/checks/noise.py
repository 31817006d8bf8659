"""White noise on state or command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.detector import WINDOW_MATERIAL
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import WHOLE, Windows

# Squares above this many times their median count as much: four standard deviations of white noise.
LEAP = 9.0
# Median of the negated product of neighbouring steps of white noise, as a share of its variance.
MEDIAN_PRODUCT = 0.35
# Uncertainty of an estimate as a share of it, times the root of the number of samples: one and a half standard errors.
UNCERTAIN = 1.7


class _Noise(Check):
    """The noise of one signal, in each dimension and as the root mean square of all."""

    unit = "std"
    # The noise of a sensor hardly varies.
    least_tail = 0.1
    signal: ClassVar[Literal["state", "action"]]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._scale = getattr(context.signals, self.signal)
        self._used = np.flatnonzero(self._scale.moves & ~self._scale.two_valued)

    def measure(self, view: View) -> Measurement:
        values = getattr(view.episode, self.signal)[:, self._used]
        if not view.windows or not len(self._used):
            return {}
        single = white_noise(values, view.windows[-1])
        everywhere = float((single**2).mean())
        joint = np.full((1, 1), np.sqrt(everywhere))
        found = {WHOLE: Candidates.of(view.windows[-1], np.concatenate([joint, single], axis=1))}
        for windows in view.windows[:-1]:
            # A short quick motion looks like noise, but hardly in most of its frames. In a short window the noise of a
            # single dimension is known too badly, and that of the whole episode is judged there.
            noise = median_noise(values, windows)
            more = np.sqrt(np.maximum((noise**2).mean(axis=1) - everywhere, 0.0))
            # What is certain of it, in place of the allowance that the detector makes for any window.
            samples = (windows.stop - windows.first) * len(self._used)
            more *= WINDOW_MATERIAL[windows.scale] * np.maximum(1 - UNCERTAIN / np.sqrt(samples), 0.0)
            found[windows.scale] = Candidates.of(
                windows, np.concatenate([more[:, None], np.zeros_like(noise)], axis=1)
            )
        return found

    def plants(self) -> Sequence[Plant]:
        return [
            Plant(f"noise of {size} standard deviations on the {self._what}", self._add(size)) for size in (0.1, 0.2)
        ]

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

    Limits: the noise that most episodes have cannot be seen, nor any below a tenth of a standard deviation.
    """

    name, signal = "action/noise", "action"
    reads = ("action",)
    action = "smooth the actions, or leave the frames out"
    material = 0.065


class StateNoise(_Noise):
    """
    White noise on the state.

    Why it harms: the policy sees positions that the robot did not have.

    Example: a loose encoder cable.

    What to do: smooth the state, or leave the frames out.

    Limits: the noise that most episodes have cannot be seen, nor any below a tenth of a standard deviation.
    """

    name, signal = "state/noise", "state"
    reads = ("state",)
    action = "smooth the state, or leave the frames out"
    material = 0.065


def median_noise(values: np.ndarray, windows: Windows) -> np.ndarray:
    """Standard deviation of white noise that is there in most frames of each window, `(W, d)`; too small in motion."""
    step = np.diff(values, axis=0)
    found = np.zeros((len(windows.first), values.shape[1]))
    for row, (first, stop) in enumerate(zip(windows.first, windows.stop, strict=True)):
        part = step[first : stop - 1]
        # Neighbouring steps of a smooth signal are alike; those of white noise correlate by -1/2.
        found[row] = np.median(-part[:-1] * part[1:], axis=0) / MEDIAN_PRODUCT
    return np.sqrt(np.maximum(found, 0.0))


def white_noise(values: np.ndarray, windows: Windows) -> np.ndarray:
    """Standard deviation of the white noise on smooth signals `(T, d)`, `(W, d)`."""
    curve = np.diff(values, n=2, axis=0)
    # Of white noise, neighbouring second differences have a mean product of -4 variances, and their differences a mean
    # square of 20; a smooth motion adds to both, but makes the product positive.
    product, square = -curve[:-1] * curve[1:] / 4, np.diff(curve, axis=0) ** 2 / 20
    found = np.zeros((len(windows.first), values.shape[1]))
    for row, (first, stop) in enumerate(zip(windows.first, windows.stop, strict=True)):
        inside = slice(first, stop - 3)
        # Single leaps are spikes.
        cap = LEAP * np.median(square[inside], axis=0)
        alternating = np.clip(product[inside], -cap, cap).mean(axis=0)
        found[row] = np.minimum(alternating, np.minimum(square[inside], cap).mean(axis=0))
    return np.sqrt(np.maximum(found, 0.0))
