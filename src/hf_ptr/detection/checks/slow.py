"""Episodes of slow operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.motion import SLOW, Motion, medians_by_task
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import Episode


class Slow(Note):
    """
    An episode that is longer than the others of its task because the robot moves more slowly.

    Why it harms: not at all, in general. Operators with different speeds give a policy different actions at the same
    place.

    Example: the first episodes of a new operator.

    What to do: nothing, or train on the episodes of similar speed.

    Limits: an episode with pauses or detours alone is not slow.
    """

    name, unit = "time/slow", "share"
    reads = ("state",)
    action = "nothing has to be done"
    material = 0.25

    def __init__(self, context: Context) -> None:
        self._motion = Motion(context.signals)
        episodes = context.signals.episodes
        self._usual = medians_by_task(episodes, [self._pace(episode) for episode in episodes])
        super().__init__(context)

    def _pace(self, episode: Episode) -> tuple[float, float]:
        """Seconds of an episode, and the median speed of the robot where it moves."""
        speeds = self._motion.speeds(episode.state)
        speeds = speeds[speeds > SLOW * self._motion.usual]
        return float(episode.seconds[-1]), float(np.median(speeds)) if len(speeds) else self._motion.usual

    def events(self, episode: Episode) -> Sequence[Event]:
        (seconds, speed), (usual_seconds, usual_speed) = self._pace(episode), self._usual[episode.task]
        times = min(seconds / max(usual_seconds, 1e-9), usual_speed / max(speed, 1e-9))
        return [Event(0, len(episode), max(0.0, times - 1))]

    def cause(self, found: Found) -> str:
        return f"the robot moves slowly, and takes {found.amount:.0%} longer than usual"
