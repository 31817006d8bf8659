"""White noise on state or command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import WHOLE, Windows

# Median of the negated product of neighbouring steps of white noise, as a share of its variance.
MEDIAN_PRODUCT = 0.35


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
        found: Measurement = {}
        for windows in view.windows:
            noise = white_noise(values, windows)
            joint = np.sqrt((noise**2).mean(axis=1, keepdims=True)) if noise.shape[1] else np.zeros((len(noise), 1))
            # In a short window the noise of a single dimension is known too badly.
            noise = noise if windows.scale == WHOLE else np.zeros_like(noise)
            found[windows.scale] = Candidates.of(windows, np.concatenate([joint, noise], axis=1))
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
    material = 0.06


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
    material = 0.06


def white_noise(values: np.ndarray, windows: Windows) -> np.ndarray:
    """Standard deviation of the white noise on smooth signals `(T, d)`, `(W, d)`."""
    step = np.diff(values, axis=0)
    found = []
    for first, stop in zip(windows.first, windows.stop, strict=True):
        part = step[first : stop - 1]
        # Neighbouring steps of a smooth signal are alike; those of white noise correlate by -1/2.
        product = np.median(-part[:-1] * part[1:], axis=0) if len(part) > 2 else np.zeros(values.shape[1])
        found.append(np.sqrt(np.maximum(product, 0.0) / MEDIAN_PRODUCT))
    return np.array(found)
