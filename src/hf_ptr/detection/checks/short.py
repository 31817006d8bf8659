"""Episodes with a much shorter way than the others of their task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.motion import Motion, medians_by_task
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import STALE, Episode


class Short(Note):
    """
    An episode whose way is much shorter than that of the others of its task, in less time: probably unfinished.

    Why it harms: an unfinished demonstration teaches to stop before the goal.

    Example: the recording was stopped before the part was placed.

    What to do: watch the end; leave the episode out if the task is not done.

    Limits: a fast operator has the usual way and is not reported. Where ways differ much from episode to episode, an
    unfinished one cannot be seen by its length. Episodes that `hf-ptr apply` cut are not reported.
    """

    name, unit = "progress/short", "share"
    reads = ("state",)
    action = "watch the end; leave the episode out if the task is not done"
    material = 0.3

    def __init__(self, context: Context) -> None:
        self._motion = Motion(context.signals)
        episodes = context.signals.episodes
        self._usual = medians_by_task(episodes, [self._size(episode) for episode in episodes])
        super().__init__(context)

    def _size(self, episode: Episode) -> tuple[float, float]:
        """Length of the way without stale first frames, units, and seconds."""
        return float(self._motion.speeds(episode.state[STALE:]).sum()), float(episode.seconds[-1])

    def events(self, episode: Episode) -> Sequence[Event]:
        if any(episode.cut):
            return []
        missing = 1 - max(self._size(episode) / np.maximum(self._usual[episode.task], 1e-9))
        return [Event(0, len(episode), max(0.0, float(missing)))]

    def cause(self, found: Found) -> str:
        return f"way and time are {found.amount:.0%} shorter than usual: probably unfinished"
