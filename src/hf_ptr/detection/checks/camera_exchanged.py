"""Two cameras with each other's images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.camera_model import CameraModel, in_any_light
from hf_ptr.detection.cameras import SIZE, Track
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.signals import Episode

# Images of an episode that are compared.
MOST_IMAGES = 48
# Cells of an image that show about as much as one that is independent.
ALIKE = 64.0
# Least spreads between episodes: of a cell in contrasts, and of the detail in doublings.
LEAST_CONTRAST, LEAST_DETAIL = 0.03, 0.05
# Detail of the rounding of grey levels.
ROUNDING = 0.05


class CameraExchanged(CameraCheck):
    """
    Two cameras that have each other's images.

    Why it harms: a policy with several cameras learns to look at the wrong place in each.

    Example: the two USB cameras got each other's number after a restart.

    What to do: exchange the two videos of these episodes.

    Limits: needs two cameras with different views. Where most episodes are exchanged, the others are reported.
    An exchange in a part of an episode is not seen.
    """

    name, unit = "camera/exchanged", "share"
    reads = ("cameras",)
    action = "exchange the videos of the two cameras in this episode"
    # 0: halfway between the two views, 1: the other camera's view.
    material = 0.3

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        means = {
            name: np.stack([_appearance(episode.cameras[name]) for episode in model.episodes])
            for name, model in context.cameras.items()
        }
        self._middle = {name: np.median(parts, axis=0) for name, parts in means.items()}
        self._spread = {
            name: 1.4826 * np.median(np.abs(parts - self._middle[name]), axis=0) for name, parts in means.items()
        }

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if len(context.cameras) == 1:
            return "the dataset has one camera"
        return super().unavailable(context)

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        own, tracks = model.camera, view.episode.cameras
        # Both together: an unusual view of one may be like that of any other.
        likeness = [
            (self._likeness(tracks[own], own, other) + self._likeness(tracks[other], other, own)) / 2
            if other != own and other in tracks
            else -1.0
            for other in self.cameras
        ]
        # In a part of an episode, the view of a wrist camera may be that of any other.
        if not view.windows:
            return {}
        whole = view.windows[-1]
        amount, other = max(0.0, max(likeness)), float(np.argmax(likeness))
        return {whole.scale: Candidates.of(whole, np.array([amount]), np.array([other]))}

    def cause(self, found: Found) -> str:
        return f"images of {self.camera_of(found)} show the view of camera {self.cameras[int(found.detail)]}"

    def plants(self) -> Sequence[Plant]:
        return [Plant("two cameras exchanged", _exchange, partial=False)]

    def _likeness(self, track: Track, own: str, other: str) -> float:
        """From -1, the usual view of a camera, to 1, that of another one."""
        apart = self._middle[other] - self._middle[own]
        noise = self._spread[other] ** 2 + self._spread[own] ** 2
        cells = SIZE * SIZE
        noise[:cells] += np.median(noise[:cells]) + LEAST_CONTRAST**2
        noise[cells:] += LEAST_DETAIL**2
        direction = apart / noise
        direction[:cells] /= ALIKE
        centre = (self._middle[other] + self._middle[own]) / 2
        return float((_appearance(track) - centre) @ direction / max(apart @ direction / 2, 1e-9))


def _appearance(track: Track) -> np.ndarray:
    """The mean image in any light, and the mean detail of each octave in doublings: `(SIZE * SIZE + BANDS,)`."""
    rows = np.linspace(0, len(track) - 1, min(MOST_IMAGES, len(track))).astype(np.int64)
    image = in_any_light(track.thumbnails[rows])[0].mean(axis=0)
    detail = 0.5 * np.log2(track.detail[rows] + ROUNDING).mean(axis=0)
    return np.concatenate([image, detail])


def _exchange(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    names = sorted(set(context.cameras) & set(episode.cameras))
    if len(names) < 2:
        return None
    one, other = rng.choice(names, 2, replace=False)
    cameras = {**episode.cameras, one: episode.cameras[other], other: episode.cameras[one]}
    return episode.with_signals(cameras=cameras)
