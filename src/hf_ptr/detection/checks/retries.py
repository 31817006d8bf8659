"""Grasps that fail and are repeated."""

from __future__ import annotations

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
    severity: Severity = "note"
    rule = True
    action = "watch these frames; cut the failed attempt out, or keep it to teach recovery"
    material = 0.2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._shortest = context.signals.frames(SHORTEST, 2)
        self._usual: list[tuple[Gripper, dict[int, tuple[float, float]]]] = []
        for gripper in find_grippers(context.signals):
            by_task: dict[int, list[tuple[float, float]]] = {}
            for episode in context.signals.episodes:
                close, opened = gripper.closings(episode, self._shortest)
                way = max((_way(episode, gripper, a, b) for a, b in zip(close, opened, strict=True)), default=0.0)
                by_task.setdefault(episode.task, []).append((len(close), way))
            usual = {task: tuple(np.median(rows, axis=0).tolist()) for task, rows in by_task.items()}
            self._usual.append((gripper, usual))

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if find_grippers(context.signals) else "no dimension switches between two levels as a gripper does"

    def measure(self, view: View) -> Measurement:
        episode, found = view.episode, []
        for gripper, usual in self._usual:
            count, way = usual[episode.task]
            close, opened = gripper.closings(episode, self._shortest)
            attempts = [
                (_way(episode, gripper, first, release), first, again)
                for first, release, again in zip(close[:-1], opened[:-1], close[1:], strict=True)
                if self._failed(episode, gripper, way, first, release, again)
            ]
            # Those that carry the least, and no more than there are more grasps than usual.
            found += sorted(attempts)[: max(0, int(len(close) - count))]
        rows = sorted({(first, again) for _, first, again in found})
        seconds = [episode.seconds[again] - episode.seconds[first] for first, again in rows]
        return {EVENT: Candidates.events([row[0] for row in rows], [row[1] + 1 for row in rows], seconds)}

    def cause(self, found: Found) -> str:
        return f"the gripper closes, opens at the same place, and closes again there {found.amount:.1f} s later"

    @staticmethod
    def _failed(episode: Episode, gripper: Gripper, way: float, first: int, release: int, again: int) -> bool:
        if way < LEAST_WAY:
            return _way(episode, gripper, first, again) < LEAST_WAY
        carried, back = _way(episode, gripper, first, release), _way(episode, gripper, first, again)
        return carried < CARRIED * way and back < SAME_PLACE * way


def _way(episode: Episode, gripper: Gripper, one: int, other: int) -> float:
    """Distance of the gripper's places at two frames, units."""
    if not len(gripper.place):
        return 0.0
    return float(np.sqrt(((episode.state[one, gripper.place] - episode.state[other, gripper.place]) ** 2).mean()))
