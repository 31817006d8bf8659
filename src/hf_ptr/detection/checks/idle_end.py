"""A long rest at the end of an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import SLOW, SPAN, medians_by_task, speeds
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Least speed that rests are judged by, as a share of the usual one: an episode may hardly move at all.
SLOWEST = 1 / 3
# Quantile of the rests over the episodes that is usual: above it, up to three episodes in ten may be faulty.
USUAL = 0.67
# Most times that an operator counts as slower: beyond, the time was spent on something else.
MOST_SLOWER = 3.0


class IdleEnd(Check):
    """
    A rest at the end that is seconds longer than in the other episodes.

    Why it harms: the policy learns to stop, and stops in the middle of a task that looks like the end.

    Example: the operator forgot to stop the recording.

    What to do: cut the episode where the motion ends.

    Limits: a rest that a third of the episodes have, or of those of a task, is a convention; only what is two seconds
    longer is reported. An episode that takes twice the time for the task, or three times, may rest as much longer.
    """

    name, unit = "time/idle_end", "seconds"
    reads = ("state",)
    action = "cut the episode at the first of these frames"
    rule = True
    material = 2.0

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if context.signals.state.moves.any() else "no dimension of the state moves"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = np.flatnonzero(context.signals.state.moves)
        self._span = context.signals.frames(SPAN, 2)
        every = np.concatenate([self._speeds(episode) for episode in context.signals.episodes])
        self._usual_speed = float(np.quantile(every, 0.75)) if len(every) else 0.0
        tasks = np.array([episode.task for episode in context.signals.episodes])
        found = [self._rest(episode) for episode in context.signals.episodes]
        rests = np.array([seconds for _, seconds in found])
        self._until_rest = medians_by_task(
            context.signals.episodes,
            [
                one.seconds[first] - one.seconds[0]
                for one, (first, _) in zip(context.signals.episodes, found, strict=True)
            ],
        )
        # A task may have a convention of its own, such as to wait for a lamp.
        self._usual = {
            task: float(max(np.quantile(part, USUAL) for part in (rests, rests[tasks == task])))
            for task in np.unique(tasks).tolist()
        }

    def _speeds(self, episode: Episode) -> np.ndarray:
        return speeds(episode.state[:, self._used], self._span)

    def _rest(self, episode: Episode) -> tuple[int, float]:
        """The first frame of the rest at the end, and its seconds."""
        speed = self._speeds(episode)
        # A slow operator approaches slowly, too.
        own = float(np.quantile(speed, 0.75)) if len(speed) else 0.0
        moving = np.flatnonzero(speed > SLOW * np.clip(own, SLOWEST * self._usual_speed, self._usual_speed))
        first = min(int(moving[-1]) + self._span, len(episode) - 1) if len(moving) else 0
        return first, float(episode.seconds[-1] - episode.seconds[first])

    def measure(self, view: View) -> Measurement:
        first, seconds = self._rest(view.episode)
        episode = view.episode
        # An operator who takes twice the time for the task rests for twice the time as well.
        until_rest = float(episode.seconds[first] - episode.seconds[0])
        usual = float(self._until_rest[episode.task])
        slower = min(until_rest / usual, MOST_SLOWER) if usual > 0.0 else 1.0
        longer = max(0.0, seconds - self._usual[episode.task] * max(slower, 1.0))
        return {EVENT: Candidates.events([first], [len(episode)], [longer], [seconds])}

    def cause(self, found: Found) -> str:
        return f"the robot rests for the last {found.detail:.1f} s, {found.amount:.1f} s longer than usual"

    def plants(self) -> Sequence[Plant]:
        return [Plant("a rest of 3 s at the end", _rest, partial=False)]


def _rest(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del rng
    added = context.signals.frames(3.0)
    rows = np.concatenate([np.arange(len(episode)), np.full(added, len(episode) - 1)])
    rest = episode.seconds[-1] + np.arange(1, added + 1) / context.fps
    return episode.take(rows, np.concatenate([episode.seconds, rest]))
