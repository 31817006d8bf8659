"""Gaps in the time stamps of an episode."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Found, Measurement, Severity, View
from hf_ptr.detection.windows import EVENT

# Frames without a record from which a gap counts.
LEAST_FRAMES = 3.5


class RecordingGap(Check):
    """
    A gap in the time stamps of an episode: the recorder paused or lost frames.

    Why it harms: a chunk of actions across the gap takes the robot further in a frame than it can move.

    Example: the disk was busy for half a second.

    What to do: nothing: chunks across longer gaps are not trained on. Split the episode there for other software.

    Limits: time stamps that were written from the frame number hide every gap.
    """

    name, unit = "time/gap", "seconds"
    severity: ClassVar[Severity] = "note"
    rule = True
    reads = ()
    action = "nothing has to be done here; split the episode there for other software"
    material = 0.25

    def measure(self, view: View) -> Measurement:
        gap = np.diff(view.episode.seconds)
        at = np.flatnonzero((gap >= self.material) & (gap * self.context.fps >= LEAST_FRAMES))
        return {EVENT: Candidates.events(at, at + 2, gap[at])}

    def cause(self, found: Found) -> str:
        return f"{found.amount:.2f} s without a frame"
