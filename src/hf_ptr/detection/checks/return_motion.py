"""The way back to the start, recorded at the end of an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.motion import medians_by_task, moving_dimensions
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import STALE, Episode

# Distance of the end from the start, as a share of the usual one, below which the robot has returned.
RETURNED = 0.35


class ReturnMotion(Note):
    """
    An episode that ends at its start, though the others of its task end elsewhere: the way back was recorded.

    Why it harms: the policy may return before the task is done.

    Example: the recording was stopped after the arm had been driven home.

    What to do: nothing, or cut the way back.

    Limits: tasks whose episodes usually end near their start have no way back to find.
    """

    name, unit = "progress/return", "std"
    reads = ("state",)
    action = "cut the episode at the first of these frames, if the other episodes end there"
    material = 0.6

    def __init__(self, context: Context) -> None:
        self._used = moving_dimensions(context.signals.state)
        episodes = context.signals.episodes
        self._usual = medians_by_task(episodes, [self._from_start(episode)[-1] for episode in episodes])
        super().__init__(context)

    def _from_start(self, episode: Episode) -> np.ndarray:
        """Distance of each frame from the start, `(T,)`; the first frames may be stale."""
        away = episode.state[:, self._used] - episode.state[min(STALE, len(episode) - 1), self._used]
        return np.sqrt((away**2).sum(axis=1) / max(away.shape[1], 1))

    def events(self, episode: Episode) -> Sequence[Event]:
        away, usual = self._from_start(episode), float(self._usual[episode.task])
        if away[-1] > RETURNED * usual:
            return []
        return [Event(int(away.argmax()), len(episode), usual - float(away[-1]))]

    def cause(self, found: Found) -> str:
        return f"the robot returns to its start, {found.amount:.1f} standard deviations from the usual end"
