"""Notes: unusual events in an episode that are not faults."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Measurement, Severity, View
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.significance import Bulk
from hf_ptr.detection.windows import EVENT

# Probability of a note in an ordinary episode.
LEVEL = 0.01


class Event(NamedTuple):
    """
    Something with an extent in an episode.

    Attributes:
        first, stop: first frame and the frame after the last.
        amount: in units of the check.
        detail: for `Check.cause`.
    """

    first: int
    stop: int
    amount: float
    detail: float = 0.0


class Note(Check):
    """
    Information about an episode that is not a fault: an event with a material amount that is also improbable among the
    dataset's own episodes of the task.

    A subclass prepares what its events need before it calls `super().__init__`.

    Attributes:
        most: the amount from which it is another check's fault.
    """

    severity: ClassVar[Severity] = "note"
    rule = True
    most: ClassVar[float] = np.inf

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        episodes = context.signals.episodes
        largest = [max((event.amount for event in self.events(episode)), default=0.0) for episode in episodes]
        tasks = np.array([episode.task for episode in episodes])
        self._bulk = Bulk.of(np.array(largest)[:, None], tasks, self.material, self.least_tail)

    @abstractmethod
    def events(self, episode: Episode) -> Sequence[Event]:
        """The events of an episode, usual ones included."""

    def measure(self, view: View) -> Measurement:
        found = [
            event
            for event in self.events(view.episode)
            if self.material <= event.amount < self.most
            and self._bulk.p(np.array([event.amount]), view.episode.task)[0] < LEVEL
        ]
        first, stop, amount, detail = (np.array([event[field] for event in found]) for field in range(4))
        return {EVENT: Candidates.events(first, stop, amount, detail)}
