"""Cameras that were moved, or whose images are cropped differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_ptr.detection.camera_model import CameraModel, in_any_light
from hf_ptr.detection.cameras import SIZE, Track
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.parabola import vertex
from hf_ptr.detection.planting import one_camera
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import SHORT

# Largest shift that is searched, in cells of the thumbnail.
LARGEST = 6
# Most difference, one minus a correlation, that a shift may leave.
LEFT = 0.5
# Of the difference to the usual background, a shift must leave at most this share.
BETTER = 0.7
# Views closer than this, in cells, are the same; a view that this share of the episodes has is sound.
SAME_VIEW = 0.96
LEAST_SHARE, LEAST_COUNT = 0.15, 3
# Least spread of the background between episodes, in contrasts.
LEAST_SPREAD = 0.05
# Images of an episode that its background is estimated from.
MOST_IMAGES = 48


class CameraMoved(CameraCheck):
    """
    A camera that was moved, or whose images are cropped differently.

    Why it harms: the same place in the image is another place in the world. A note and not a fault: sessions with
    another view are usual, and a policy may learn from them.

    Example: someone bumped into the tripod, and put it back in the next break.

    What to do: put the camera back before the next recording; move the images back by the shift.

    Limits: needs a background that stays the same; a wrist camera has none. A view that three episodes and a seventh
    of the dataset share is taken as a session of its own, and as sound. Below about a twentieth of the width nothing
    is reported.
    """

    name, unit = "camera/moved", "% of the width"
    reads = ("cameras",)
    action = "check that the camera stands where it should; shift the images back if it does not"
    severity = "note"
    material = 3.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._fixed: dict[str, _Background] = {}
        # By camera, the shifts `(n, 2)` of views that many episodes share, the usual one among them.
        self._views: dict[str, np.ndarray] = {}
        for name, model in context.cameras.items():
            seen = np.stack([_background(episode.cameras[name].thumbnails) for episode in model.episodes])
            usual = np.median(seen, axis=0)
            spread = 1.4826 * np.median(np.abs(seen - usual), axis=0)
            if (spread**2).mean() > usual.var():
                continue
            self._fixed[name] = _Background(usual, spread)
            # There may be none: images without contrast have no shift.
            shifts = np.array([shift for each in seen if (shift := self._fixed[name].shift(each)) is not None])
            shifts = shifts.reshape(-1, 2)
            apart = np.linalg.norm(shifts[:, None] - shifts, axis=-1)
            shared = (apart < SAME_VIEW).sum(axis=1) >= max(LEAST_SHARE * len(seen), LEAST_COUNT)
            self._views[name] = np.concatenate([np.zeros((1, 2)), shifts[shared]])

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        if model.camera not in self._fixed:
            return {}
        background, views = self._fixed[model.camera], self._views[model.camera]
        thumbnails = view.episode.cameras[model.camera].thumbnails
        found: Measurement = {}
        for windows in view.windows:
            # In the shortest windows, what stands still for a moment looks like background.
            if windows.scale == SHORT:
                continue
            amount = np.zeros(len(windows.first))
            for row, frames in enumerate(windows.rows()):
                shift = background.shift(_background(thumbnails[frames]))
                if shift is not None:
                    amount[row] = np.linalg.norm(views - shift, axis=1).min()
            found[windows.scale] = Candidates.of(windows, 100 / SIZE * amount)
        return found

    def cause(self, found: Found) -> str:
        return f"the view of {self.camera_of(found)} is shifted by {found.amount:.1f} % of its width"

    def plants(self) -> Sequence[Plant]:
        return [Plant("camera moved by 10 % of the width", _move)]


def _background(thumbnails: np.ndarray) -> np.ndarray:
    """The median of images of an episode, `(SIZE, SIZE)`, in any light."""
    rows = np.linspace(0, len(thumbnails) - 1, min(MOST_IMAGES, len(thumbnails))).astype(np.int64)
    images, _ = in_any_light(thumbnails[rows])
    background: np.ndarray = np.median(images, axis=0).reshape(SIZE, SIZE)
    return background


class _Background:
    """The usual background of a camera, `(SIZE, SIZE)`, and its spread between episodes."""

    def __init__(self, usual: np.ndarray, spread: np.ndarray) -> None:
        # Where the episodes agree, the background is seen.
        weight = 1 / (spread**2 + np.median(spread) ** 2 + LEAST_SPREAD**2)
        self._sums = [np.conj(_transformed(part)) for part in (weight, weight * usual, weight * usual**2)]

    def shift(self, seen: np.ndarray) -> np.ndarray | None:
        """Cells `(2,)` down and across from the usual background to another; None if no shift explains it."""
        cost = self._differences(seen)
        row, column = np.unravel_index(int(cost.argmin()), cost.shape)
        last = len(cost) - 1
        if not (0 < row < last and 0 < column < last) or cost[row, column] > LEFT:
            return None
        if (row, column) != (LARGEST, LARGEST) and cost[row, column] > BETTER * cost[LARGEST, LARGEST]:
            return None
        down = row - LARGEST + vertex(*cost[row - 1 : row + 2, column])
        return np.array([down, column - LARGEST + vertex(*cost[row, column - 1 : column + 2])])

    def _differences(self, seen: np.ndarray) -> np.ndarray:
        """
        One minus the weighted correlation of the usual background and a shifted one where they overlap.

        Returns:
            `(2 * LARGEST + 1, 2 * LARGEST + 1)`, for shifts down and across from `-LARGEST` on.
        """
        one, first, second = (_transformed(part) for part in (np.ones_like(seen), seen, seen**2))
        weight, a, aa = self._sums
        total, sum_a, sum_aa = (_correlated(part, one) for part in (weight, a, aa))
        sum_b, sum_bb, sum_ab = (
            _correlated(part, other) for part, other in ((weight, first), (weight, second), (a, first))
        )
        covariance = sum_ab - sum_a * sum_b / total
        power = (sum_aa - sum_a**2 / total) * (sum_bb - sum_b**2 / total)
        difference: np.ndarray = 1 - covariance / np.sqrt(np.maximum(power, 1e-9))
        return difference


def _transformed(values: np.ndarray) -> np.ndarray:
    transformed: np.ndarray = np.fft.rfft2(values, (2 * SIZE, 2 * SIZE))
    return transformed


def _correlated(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sums of products at the shifts that are searched; `one` is conjugated."""
    at = np.arange(-LARGEST, LARGEST + 1)
    products: np.ndarray = np.fft.irfft2(one * other, (2 * SIZE, 2 * SIZE))[np.ix_(at, at)]
    return products


def _move(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del context
    angle, cells = rng.uniform(0, 2 * np.pi), 0.1 * SIZE
    return one_camera(episode, rng, lambda track: _moved(track, cells * np.sin(angle), cells * np.cos(angle)))


def _moved(track: Track, down: float, across: float) -> Track:
    """The images moved by fractions of cells; what comes into view repeats the edge."""
    images = track.thumbnails.astype(np.float32)
    for axis, shift in ((1, down), (2, across)):
        at = np.clip(np.arange(SIZE) - shift, 0, SIZE - 1)
        low = np.floor(at).astype(np.int64)
        high, share = np.minimum(low + 1, SIZE - 1), (at - low).astype(np.float32)
        share = share.reshape((-1, 1) if axis == 1 else (-1,))
        images = images.take(low, axis) * (1 - share) + images.take(high, axis) * share
    return replace(track, thumbnails=np.rint(images).astype(np.uint8))
