"""Images that are less sharp than their content explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_ptr.detection.camera_model import FOLDS, CameraModel
from hf_ptr.detection.cameras import Track, blur_loss
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.planting import one_camera
from hf_ptr.detection.signals import Episode

# Octaves of detail that a blur takes first, and those that show the content.
FINE, COARSE = slice(0, 3), slice(3, 6)
# Content beyond these quantiles of the dataset's counts as that at them: a strong blur changes coarse octaves, too.
USUAL = (0.02, 0.98)
# Detail of the rounding of grey levels.
LEAST_DETAIL = 0.05
RIDGE = 1e-2
# Doublings by which the fine detail of an episode is clearly below the usual.
CLEARLY = 0.3
# Standard deviations of the planted blurs, pixels.
PLANTED = (1.5, 4.0)


class CameraBlurred(CameraCheck):
    """
    Images that are less sharp than their content explains.

    Why it harms: the policy cannot see where small things are.

    Example: a camera that lost its focus after it was touched; a finger print on the lens.

    What to do: clean and refocus the camera; leave the frames out.

    Limits: a blur that most episodes have cannot be seen. Fast motions blur an image, too: a wrist camera needs a
    stronger blur.
    """

    name, unit = "camera/blurred", "doublings"
    reads = ("cameras",)
    action = "leave these frames out, and refocus the camera"
    material = 0.35

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._limits: dict[str, np.ndarray] = {}
        self._weights = {name: self._fit(model) for name, model in context.cameras.items()}

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        inputs, fine = _octaves(view.episode.cameras[model.camera])
        expected = np.clip(inputs, *self._limits[model.camera]) @ self._weights[model.camera][model.fold(view.episode)]
        # The image of a blank camera has no detail to lose.
        seen = model.look(view.episode.cameras[model.camera]).contrast > model.least_contrast
        lost = np.where(seen, expected - fine, 0.0)
        return {windows.scale: Candidates.of(windows, np.maximum(windows.mean(lost), 0.0)) for windows in view.windows}

    def cause(self, found: Found) -> str:
        return (
            f"images of {self.camera_of(found)} are blurred: {1 - 2.0**-found.amount:.0%} of the fine detail is gone"
        )

    def plants(self) -> Sequence[Plant]:
        return [Plant(f"images blurred by {sigma} pixels", _blur(sigma)) for sigma in PLANTED]

    def _fit(self, model: CameraModel) -> list[np.ndarray]:
        """The regression of the fine octaves on the coarse ones, by fold."""
        octaves = [_octaves(episode.cameras[model.camera]) for episode in model.episodes]
        # Blurred episodes must not teach that such content has no fine detail.
        usual = np.array([fine.mean() for _, fine in octaves])
        away = usual - np.median(usual)
        sharp = away > -max(CLEARLY, 3 * 1.4826 * float(np.median(np.abs(away))))
        kept = [inputs for (inputs, _), is_sharp in zip(octaves, sharp, strict=True) if is_sharp]
        self._limits[model.camera] = np.quantile(np.concatenate(kept), USUAL, axis=0)
        grams, crosses = [], []
        for inputs, fine in octaves:
            inputs = np.clip(inputs, *self._limits[model.camera])
            grams.append(inputs.T @ inputs / len(fine))
            crosses.append(inputs.T @ fine / len(fine))
        fold = np.array([model.fold(episode) for episode in model.episodes])
        weights = []
        for out in range(FOLDS):
            seen = (fold != out) & sharp
            left, right = np.mean(np.array(grams)[seen], axis=0), np.mean(np.array(crosses)[seen], axis=0)
            weights.append(np.linalg.solve(left + RIDGE * np.eye(len(left)), right))
        return weights


def _octaves(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Shape of the coarse octaves and a constant, `(T, k)`, and the fine octaves relative to them, `(T,)`: log2."""
    logs = 0.5 * np.log2(track.detail.astype(np.float64) + LEAST_DETAIL)
    # Relative to the mean of the coarse octaves: light and contrast change all alike.
    level = logs[:, COARSE].mean(axis=1)
    inputs = np.concatenate([logs[:, COARSE][:, 1:] - level[:, None], np.ones((len(logs), 1))], axis=1)
    return inputs, logs[:, FINE].mean(axis=1) - level


def _blur(sigma: float):
    left = blur_loss(sigma)

    def change(track: Track) -> Track:
        return replace(track, detail=(track.detail * left).astype(np.float32))

    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del context
        return one_camera(episode, rng, change)

    return make
