"""States that stand still for single frames while the robot moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.signals import Episode

# A step this many times as small as its neighbours' is a repeated frame.
STILL = 0.35
# Neighbouring steps must be this many times the smallest steps of the episode.
MOVING = 2.0
LEAST_MOVING = 0.25


class RepeatedFrames(Check):
    """
    States that stand still for single frames while the robot moves: repeated frames.

    Why it harms: the same motion takes twice the frames, so that the policy learns half the speed or a stutter.

    Example: a recorder that ran at twice the rate of its sensor in some episodes.

    What to do: drop the repeated frames, or leave the episodes out.

    Limits: repeated frames of most episodes cannot be seen.
    """

    name, unit = "state/repeated", "share"
    reads = ("state",)
    action = "drop the repeated frames, or leave the episode out"
    material = 0.25

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        scale = context.signals.state
        self._used = moving_dimensions(scale)

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if len(moving_dimensions(context.signals.state)) else "no dimension of the state moves"

    def measure(self, view: View) -> Measurement:
        values = view.episode.state[:, self._used]
        length = len(values)
        still, moving = np.zeros(length), np.zeros(length)
        if length > 5 and len(self._used):
            step = np.sqrt((np.diff(values, axis=0) ** 2).mean(axis=1))
            around = np.minimum(step[:-2], step[2:])
            fast = around > max(MOVING * np.quantile(step, 0.05), 1e-9)
            moving[1:-2] = fast
            still[1:-2] = fast & (step[1:-1] < STILL * around)
        return {
            part.scale: Candidates.of(part, part.mean(still) / np.maximum(part.mean(moving), LEAST_MOVING))
            for part in view.windows
        }

    def cause(self, found: Found) -> str:
        return f"{found.amount:.0%} of the frames repeat the state of the frame before while the robot moves"

    def plants(self) -> Sequence[Plant]:
        return [Plant("every frame twice", _double, partial=False)]


def _double(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del rng
    rows = np.repeat(np.arange(len(episode)), 2)
    return episode.take(rows, np.arange(len(rows)) / context.fps)
