"""Images without content: black, white or of one colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_ptr.detection.camera_model import CameraModel
from hf_ptr.detection.cameras import Track
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.planting import one_camera
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT


class CameraBlank(CameraCheck):
    """
    Images without content: black, white, of one colour or of noise.

    Why it harms: the policy learns to act without seeing anything.

    Example: a cap on the lens in two episodes; a cable that lost contact for three seconds.

    What to do: leave these frames out.

    Limits: a camera whose images are often blank, such as a wrist camera close to a table, needs a longer stretch.
    """

    name, unit = "camera/blank", "s"
    reads = ("cameras",)
    action = "leave these frames out"
    material = 0.3

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        look = model.look(view.episode.cameras[model.camera])
        first, stop = runs_of(look.contrast <= model.least_contrast)
        brightness = view.episode.cameras[model.camera].thumbnails.mean(axis=(1, 2))
        shade = [float(brightness[begin:end].mean()) for begin, end in zip(first, stop, strict=True)]
        return {EVENT: Candidates.events(first, stop, (stop - first) / self.context.fps, shade)}

    def cause(self, found: Found) -> str:
        shade = "black" if found.detail < 30 else "white" if found.detail > 225 else "blank"
        return f"images of {self.camera_of(found)} are {shade} for {found.amount:.1f} s"

    def plants(self) -> Sequence[Plant]:
        return [Plant("black images", _blacken)]


def _blacken(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del context
    return one_camera(episode, rng, _black)


def _black(track: Track) -> Track:
    return replace(
        track,
        thumbnails=np.zeros_like(track.thumbnails),
        detail=np.zeros_like(track.detail),
        change=np.zeros_like(track.change),
    )
