"""What the checks of camera images share: one dimension of the amounts for each camera."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from hf_ptr.detection.camera_model import CameraModel
from hf_ptr.detection.check import LEAST_EPISODES, Candidates, Check, Context, Found, Measurement, View


class CameraCheck(Check):
    """
    A check of the images of each camera.

    Attributes:
        cameras: names of the cameras, one for each dimension of the amounts.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.cameras = tuple(context.cameras)

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if context.cameras:
            return None
        few = [
            f"camera {name} has images in {f'{count} episodes only' if count else 'no episode'}"
            for name, count in context.camera_counts.items()
        ]
        return f"{'; '.join(few)}; {LEAST_EPISODES} are needed" if few else "no camera was read"

    def measure(self, view: View) -> Measurement:
        parts: dict[str, list[Candidates]] = {}
        for number, (name, model) in enumerate(self.context.cameras.items()):
            if name not in view.episode.cameras:
                continue
            for scale, found in self.measure_camera(view, model).items():
                amount, detail = np.zeros((2, len(found.first), len(self.cameras)))
                amount[:, number], detail[:, number] = found.amount[:, 0], found.detail[:, 0]
                parts.setdefault(scale, []).append(Candidates(found.first, found.stop, amount, detail))
        return {
            scale: Candidates.events(
                np.concatenate([part.first for part in found]),
                np.concatenate([part.stop for part in found]),
                np.concatenate([part.amount for part in found]),
                np.concatenate([part.detail for part in found]),
            )
            for scale, found in parts.items()
        }

    @abstractmethod
    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        """The amounts of one camera in an episode with its images; candidates have one dimension."""

    def camera_of(self, found: Found) -> str:
        """The camera of a finding, for a text."""
        return f"camera {self.cameras[found.dimension]}"


class CameraMotionCheck(CameraCheck):
    """A check of images against the motion of the state, which the images of a camera must follow."""

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if any(model.known for model in context.cameras.values()):
            return None
        return super().unavailable(context) or "the images of no camera follow the motion of the state"
