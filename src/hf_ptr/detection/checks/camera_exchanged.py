"""Images of one camera that show the view of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.camera_model import CameraModel, in_any_light
from hf_ptr.detection.cameras import Track
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import SHORT

# Images of an episode that are compared.
MOST_IMAGES = 48


class CameraExchanged(CameraCheck):
    """
    Images of one camera that show the view of another.

    Why it harms: a policy with several cameras learns to look at the wrong place in each.

    Example: the two USB cameras got each other's number after a restart.

    What to do: exchange the two videos of these episodes.

    Limits: needs two cameras with different views. Where most episodes are exchanged, the others are reported.
    """

    name, unit = "camera/exchanged", "share"
    reads = ("cameras",)
    action = "exchange the videos of the two cameras in this episode"
    # 0: halfway between the two views, 1: the other camera's view.
    material = 0.5

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        means = {
            name: np.stack([_mean(episode.cameras[name], slice(None)) for episode in model.episodes])
            for name, model in context.cameras.items()
        }
        self._middle = {name: np.median(parts, axis=0) for name, parts in means.items()}
        self._spread = {
            name: 1.4826 * np.median(np.abs(parts - self._middle[name]), axis=0) for name, parts in means.items()
        }

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if len(context.cameras) == 1:
            return "there is one camera"
        return super().unavailable(context)

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        track, own = view.episode.cameras[model.camera], model.camera
        found: Measurement = {}
        for windows in view.windows:
            if windows.scale == SHORT:
                continue
            amount, detail = np.zeros((2, len(windows.first)))
            for row, (first, stop) in enumerate(zip(windows.first, windows.stop, strict=True)):
                seen = _mean(track, slice(first, stop))
                likeness = [self._likeness(seen, own, other) if other != own else -1.0 for other in self.cameras]
                detail[row] = int(np.argmax(likeness))
                amount[row] = max(0.0, max(likeness))
            found[windows.scale] = Candidates.of(windows, amount, detail)
        return found

    def cause(self, found: Found) -> str:
        return f"images of {self.camera_of(found)} show the view of camera {self.cameras[int(found.detail)]}"

    def plants(self) -> Sequence[Plant]:
        return [Plant("two cameras exchanged", _exchange)]

    def _likeness(self, seen: np.ndarray, own: str, other: str) -> float:
        """From -1, the usual view of a camera, to 1, that of another one."""
        apart = self._middle[other] - self._middle[own]
        noise = self._spread[other] ** 2 + self._spread[own] ** 2
        direction = apart / (noise + np.median(noise) + 1e-3)
        centre = (self._middle[other] + self._middle[own]) / 2
        return float((seen - centre) @ direction / max(apart @ direction / 2, 1e-9))


def _mean(track: Track, frames: slice) -> np.ndarray:
    """The mean image in any light, `(SIZE * SIZE,)`."""
    thumbnails = track.thumbnails[frames]
    rows = np.linspace(0, len(thumbnails) - 1, min(MOST_IMAGES, len(thumbnails))).astype(np.int64)
    mean: np.ndarray = in_any_light(thumbnails[rows])[0].mean(axis=0)
    return mean


def _exchange(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    names = sorted(set(context.cameras) & set(episode.cameras))
    if len(names) < 2:
        return None
    one, other = rng.choice(names, 2, replace=False)
    cameras = {**episode.cameras, one: episode.cameras[other], other: episode.cameras[one]}
    return episode.with_signals(cameras=cameras)
