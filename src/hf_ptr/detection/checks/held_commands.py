"""Commands that are held for several frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.motion import SLOW, moving_dimensions
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import Episode

# A step this many times as small as the mean of the steps around it, up to `REACH` frames away, is a held value.
STILL = 0.1
REACH = 4


class HeldCommands(Note):
    """
    Commands that are held for two or more frames while the state moves in every frame: a lower rate of commands.

    Why it harms: not at all, if the commands are right. The policy learns steps.

    Example: a controller at 15 Hz in a recording at 30 Hz.

    What to do: nothing, or interpolate the commands.

    Limits: a rate that most episodes have is the dataset's own. Frames repeated in command and state are reported as
    `state/repeated`, and long holds as `action/frozen`.
    """

    name, unit = "action/held", "share"
    reads = ("state", "action")
    action = "nothing has to be done; interpolate the commands if steps matter"
    material = 0.25

    def __init__(self, context: Context) -> None:
        self._used = {name: moving_dimensions(getattr(context.signals, name)) for name in ("state", "action")}
        super().__init__(context)

    def events(self, episode: Episode) -> Sequence[Event]:
        command, state = (self._held(getattr(episode, name)[:, self._used[name]]) for name in ("action", "state"))
        return [Event(0, len(episode), max(0.0, command - state))]

    @staticmethod
    def _held(values: np.ndarray) -> float:
        """Share of the frames with motion whose value is that of the frame before."""
        if len(values) <= 2 * REACH or not values.shape[1]:
            return 0.0
        step = np.sqrt((np.diff(values, axis=0) ** 2).mean(axis=1))
        around = np.convolve(np.pad(step, REACH, mode="edge"), np.ones(2 * REACH + 1) / (2 * REACH + 1), mode="valid")
        moving = around > SLOW * np.quantile(around, 0.75)
        return float((step < STILL * around)[moving].mean()) if moving.any() else 0.0

    def cause(self, found: Found) -> str:
        return f"{found.amount:.0%} of the commands repeat the one before while the robot moves"
