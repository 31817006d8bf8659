"""Gaps in the time stamps of an episode."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hf_ptr.data.lerobot.clock import PAUSE_SECONDS
from hf_ptr.detection.check import Candidates, Check, Found, Measurement, Severity, View
from hf_ptr.detection.windows import EVENT

# Frames without a record from which a gap counts.
LEAST_FRAMES = 3.5


class RecordingGap(Check):
    """
    A gap in the time stamps of an episode: the recorder paused or lost frames.

    Why it harms: a chunk of actions across the gap takes the robot further in a frame than it can move.

    Example: the disk was busy for half a second.

    What to do: nothing from half a second on: chunks across such a gap are not trained on. Chunks are trained across a
    shorter one: split the episode there if the robot moved meanwhile. Split it for other software in any case.

    Limits: time stamps that were written from the frame number hide every gap.
    """

    name, unit = "time/gap", "seconds"
    severity: ClassVar[Severity] = "note"
    rule = True
    reads = ()
    action = (
        f"nothing has to be done from {PAUSE_SECONDS} s on, where chunks are cut; split the episode at a shorter gap, "
        "and for other software"
    )
    material = 0.25

    def measure(self, view: View) -> Measurement:
        gap = np.diff(view.episode.seconds)
        at = np.flatnonzero((gap >= self.material) & (gap * self.context.fps >= LEAST_FRAMES))
        across = np.diff(view.episode.stretch)[at] == 0
        return {EVENT: Candidates.events(at, at + 2, gap[at], across)}

    def cause(self, found: Found) -> str:
        across = "; chunks are trained across the gap" if found.detail else ""
        return f"{found.amount:.2f} s without a frame{across}"
