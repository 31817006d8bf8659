"""Rests at the start and in the middle of an episode."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.motion import Motion
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import STALE, Episode


class Pause(Note):
    """
    A pause in the middle of an episode that the other episodes do not have.

    Why it harms: not at all, in general: a person stops to look. A policy without memory may stop there, too.

    Example: the operator talks to someone for two seconds, with the arm above the table.

    What to do: nothing, or cut the pause out.

    Limits: pauses as long as those of the other episodes of the task are not reported.
    """

    name, unit = "time/pause", "seconds"
    reads = ("state",)
    action = "nothing has to be done; cut the pause out if a policy stops there"
    material = 0.75

    def __init__(self, context: Context) -> None:
        self._motion = Motion(context.signals)
        super().__init__(context)

    def events(self, episode: Episode) -> Sequence[Event]:
        inner = [(first, stop) for first, stop in self._motion.rests(episode.state) if first > STALE]
        return [
            Event(first, stop, float(episode.seconds[stop - 1] - episode.seconds[first]))
            for first, stop in inner
            if stop < len(episode) - STALE
        ]

    def cause(self, found: Found) -> str:
        return f"the robot rests for {found.amount:.1f} s in the middle"


class IdleStart(Note):
    """
    A rest at the start that is much longer than in the other episodes.

    Why it harms: the policy may learn to wait at the start.

    Example: the recording was started before the operator was ready.

    What to do: cut the episode where the motion begins.

    Limits: a rest that most episodes of the task have is not reported.
    """

    name, unit = "time/idle_start", "seconds"
    reads = ("state",)
    action = "cut the episode at the last of these frames"
    material = 1.0

    def __init__(self, context: Context) -> None:
        self._motion = Motion(context.signals)
        super().__init__(context)

    def events(self, episode: Episode) -> Sequence[Event]:
        # A leap of stale first frames is not a motion.
        starting = [stop for first, stop in self._motion.rests(episode.state) if first <= STALE]
        return [Event(0, stop, float(episode.seconds[stop - 1])) for stop in starting[-1:] if stop < len(episode)]

    def cause(self, found: Found) -> str:
        return f"the robot rests for the first {found.amount:.1f} s"
