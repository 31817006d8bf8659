"""First frames that show an earlier state."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Severity, View
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# A leap is this many times as large as the largest step of the second after it.
STANDS_OUT = 3.0
# Share of a task's episodes with such a leap above which it belongs to the start of the task.
HABIT = 0.5
AFTER = 1.0


class StaleStart(Check):
    """
    First frames whose state is far from the following ones: the buffer still had the state of before.

    Why it harms: the policy sees a start that never was, with the first commands of another one.

    Example: the first frame of every second episode shows where the arm was at the end of the last one.

    What to do: drop these frames.

    Limits: leaps within the first three frames only. A leap that most episodes of a task have belongs to the task. A
    stale start near the real one does no harm, and is not reported.
    """

    name, unit = "state/stale_start", "std"
    severity: ClassVar[Severity] = "note"
    rule = True
    reads = ("state",)
    action = "drop these frames"
    material = 0.3

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = moving_dimensions(context.signals.state)
        self._after = context.signals.frames(AFTER, 5)
        by_task: dict[int, list[bool]] = {}
        for episode in context.signals.episodes:
            by_task.setdefault(episode.task, []).append(self._leap(episode)[1] >= self.material)
        self._usual = {task for task, shown in by_task.items() if np.mean(shown) > HABIT}

    def _leap(self, episode: Episode) -> tuple[int, float]:
        """Frames before the last leap of the first frames, and the size of the largest one; zeros without any."""
        values = episode.state[: STALE + 1 + self._after, self._used]
        step = np.sqrt((np.diff(values, axis=0) ** 2).sum(axis=1) / max(values.shape[1], 1))
        leaps, after = step[:STALE], step[STALE:]
        at = np.flatnonzero(leaps >= STANDS_OUT * after.max()) if len(after) else leaps[:0].astype(np.int64)
        return (int(at[-1]) + 1, float(leaps[at].max())) if len(at) else (0, 0.0)

    def measure(self, view: View) -> Measurement:
        frames, size = self._leap(view.episode)
        if not size or view.episode.task in self._usual:
            return {EVENT: Candidates.events([], [], [])}
        start = view.episode.state[: frames + 1, self._used]
        farthest = int(self._used[np.abs(start[-1] - start[-2]).argmax()])
        return {EVENT: Candidates.events([0], [frames], [size], [float(farthest)])}

    def cause(self, found: Found) -> str:
        name = self.context.signals.state.names[int(found.detail)]
        away = f"{found.amount:.1f} standard deviations from the following ones"
        return f"the first frames are {away}, most in dimension {name}"
