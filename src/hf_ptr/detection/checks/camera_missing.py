"""Episodes without the images of a camera."""

from __future__ import annotations

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, View
from hf_ptr.detection.windows import EVENT


class CameraMissing(Check):
    """
    An episode whose images of a camera are missing or damaged, while the other episodes have them.

    Why it harms: training stops at the episode, or leaves it out.

    Example: the disk was full when the video was written.

    What to do: find the video, or leave the episode out.

    Limits: a camera without images in any episode is listed among what cannot be checked, and not as a finding of
    every episode. Damage that the decoder of a video hides is not seen; `hf-ptr validate` checks the files.
    """

    name, unit = "camera/missing", "cameras"
    reads = ("cameras",)
    rule = True
    action = "find the images, or leave the episode out"
    material = 1.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._without = {
            name: {episode.position for episode in context.signals.episodes if name not in episode.cameras}
            for name, count in context.camera_counts.items()
            if count
        }

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if any(context.camera_counts.values()):
            return None
        return "the cameras have no images" if context.camera_counts else "no camera was read"

    def measure(self, view: View) -> Measurement:
        # A planted copy of a sound episode may have no images; its original has.
        missing = [float(view.episode.position in without) for without in self._without.values()]
        return {EVENT: Candidates.events([0], [len(view.episode)], np.array([missing]))}

    def cause(self, found: Found) -> str:
        return f"images of camera {tuple(self._without)[found.dimension]} are missing or damaged"
