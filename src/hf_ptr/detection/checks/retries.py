"""Grasps that fail and are repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Severity, View
from hf_ptr.detection.grippers import SHORTEST, Gripper, find_grippers
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Distance from closing to opening, as a share of the way that a grasp usually carries: nothing was carried below it.
CARRIED = 0.5
# Distance between two closings, as a share of the same, up to which both are at the same place.
SAME_PLACE = 0.75
# Least way that counts as carrying, units: below it, grasps stay in their place.
LEAST_WAY = 0.3
# Share of a task's episodes with such grasps above which only grasps beyond the usual number count.
RARE = 0.4


@dataclass(frozen=True)
class _Usual:
    """
    What is usual in the episodes of a task.

    Attributes:
        way: the longest way that a grasp carries, units.
        grasps: number of grasps that belong to the task; 0 where grasps at the same place are rare.
    """

    way: float
    grasps: float


class Retries(Check):
    """
    A grasp that fails and is repeated: the gripper closes, opens again at the same place, and closes again there.

    Why it harms: the policy learns the failed attempt with the successful one, and may close on nothing.

    Example: the gripper slips off the plug, opens, and the operator approaches again.

    What to do: watch the episode; cut the failed attempt out, or keep it to teach recovery.

    Limits: needs a gripper or hand that switches between open and closed in the command or the state. Attempts as many
    as most episodes have belong to the task. A failed attempt without a closed gripper is not seen.
    """

    name, unit = "progress/retry", "seconds"
    reads = ("state", "action")
    severity: ClassVar[Severity] = "note"
    rule = True
    action = "watch these frames; cut the failed attempt out, or keep it to teach recovery"
    material = 0.2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._shortest = context.signals.frames(SHORTEST, 2)
        self._grippers = [(gripper, self._usual(gripper)) for gripper in find_grippers(context.signals)]

    def _usual(self, gripper: Gripper) -> dict[int, _Usual]:
        """What is usual in the episodes of each task."""
        by_task: dict[int, list[Episode]] = {}
        for episode in self.context.signals.episodes:
            by_task.setdefault(episode.task, []).append(episode)
        found = {}
        for task, episodes in by_task.items():
            closings = [gripper.closings(episode, self._shortest) for episode in episodes]
            ways = [
                max((_way(episode, gripper, *pair) for pair in zip(close, opened, strict=True)), default=0.0)
                for episode, (close, opened) in zip(episodes, closings, strict=True)
            ]
            way = float(np.median(ways))
            failed = [len(self._failed(episode, gripper, way)) > 0 for episode in episodes]
            grasps = float(np.median([len(close) for close, _ in closings]))
            found[task] = _Usual(way, grasps if np.mean(failed) > RARE else 0.0)
        return found

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if find_grippers(context.signals) else "no dimension switches between two levels as a gripper does"

    def measure(self, view: View) -> Measurement:
        episode, found = view.episode, []
        for gripper, by_task in self._grippers:
            usual = by_task[episode.task]
            attempts = self._failed(episode, gripper, usual.way)
            more = len(gripper.closings(episode, self._shortest)[0]) - usual.grasps
            # Those that carried the least come first.
            found += attempts[: max(0, int(more))]
        # The next closing belongs to the next attempt.
        rows = sorted({(first, again) for _, first, again in found})
        seconds = [episode.seconds[again] - episode.seconds[first] for first, again in rows]
        return {EVENT: Candidates.events([row[0] for row in rows], [row[1] for row in rows], seconds)}

    def cause(self, found: Found) -> str:
        return f"the gripper closes, opens at the same place, and closes again there {found.amount:.1f} s later"

    def _failed(self, episode: Episode, gripper: Gripper, usual_way: float) -> list[tuple[float, int, int]]:
        """Way, first frame and frame of the next closing of grasps that carry nothing and are repeated, in order."""
        close, opened = gripper.closings(episode, self._shortest)
        found = []
        for first, release, again in zip(close[:-1].tolist(), opened[:-1].tolist(), close[1:].tolist(), strict=True):
            carried, back = _way(episode, gripper, first, release), _way(episode, gripper, first, again)
            in_place = usual_way < LEAST_WAY and back < LEAST_WAY
            if in_place or (carried < CARRIED * usual_way and back < SAME_PLACE * usual_way):
                found.append((carried, first, again))
        return sorted(found)


def _way(episode: Episode, gripper: Gripper, one: int, other: int) -> float:
    """Distance of the gripper's places at two frames, units."""
    if not len(gripper.place):
        return 0.0
    return float(np.sqrt(((episode.state[one, gripper.place] - episode.state[other, gripper.place]) ** 2).mean()))
