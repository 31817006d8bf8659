"""Episodes that end where no other episode of the task ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import STALE, Episode

# Episodes whose ends are the nearest ones.
NEAREST = 3
# Episodes of a task from which its ends can be compared.
LEAST_EPISODES = 6


class UnusualEnd(Note):
    """
    An episode that ends far from where the other episodes of its task end: unfinished, or finished in another way.

    Why it harms: an unfinished demonstration teaches to stop before the goal.

    Example: the recording was stopped while the arm carried the part.

    What to do: watch the end; leave the episode out if the task is not done.

    Limits: an end within the variety of the other ends is not seen. Needs six episodes of the task. Ends that
    `hf-ptr apply` cut are not reported.
    """

    name, unit = "progress/unusual_end", "std"
    reads = ("state", "action")
    action = "watch the end; leave the episode out if the task is not done"
    material = 0.5

    def __init__(self, context: Context) -> None:
        signals = context.signals
        self._used = np.flatnonzero(signals.state.moves)
        # A gripper may be in the command only.
        self._switching = np.flatnonzero(signals.action.two_valued)
        self._ends = np.stack([self._end(episode) for episode in signals.episodes])
        self._tasks = np.array([episode.task for episode in signals.episodes])
        super().__init__(context)

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        signals = context.signals
        return None if signals.state.moves.any() or signals.action.two_valued.any() else "no dimension moves"

    def _end(self, episode: Episode) -> np.ndarray:
        last = slice(-STALE, None)
        return np.concatenate([episode.state[last, self._used], episode.action[last, self._switching]], axis=1).mean(
            axis=0
        )

    def events(self, episode: Episode) -> Sequence[Event]:
        if episode.cut.end:
            return []
        others = np.flatnonzero(self._tasks == episode.task)
        others = others[others != episode.position]
        if len(others) + 1 < LEAST_EPISODES:
            return []
        distance = np.sqrt(((self._ends[others] - self._end(episode)) ** 2).mean(axis=1))
        return [Event(max(0, len(episode) - STALE), len(episode), float(np.sort(distance)[:NEAREST].mean()))]

    def cause(self, found: Found) -> str:
        return f"ends {found.amount:.1f} standard deviations from the nearest ends of the task"
