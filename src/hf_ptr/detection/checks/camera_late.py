"""Images that were recorded late or early."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.camera_model import CameraModel, Motion, lagged_agreement
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraMotionCheck
from hf_ptr.detection.lag_words import lag_words
from hf_ptr.detection.parabola import vertex
from hf_ptr.detection.planting import one_camera
from hf_ptr.detection.signals import Episode

# Largest lag that is searched, seconds and frames.
LONGEST = 0.8
LEAST_LONGEST = 8
# Least lag that counts: seconds and frames.
MATERIAL = 0.06
MATERIAL_FRAMES = 2.0
# A lag must agree better than none by this share of the usual agreement of images and state.
LEAST_GAIN = 0.1
# The best agreement must be at least this share of the usual one.
LEAST_PEAK = 0.35
# Share of the episodes that must have about the same lag.
LEAST_AGREED = 0.6
# Lags up to this many times the usual deviation of an episode are the camera's own.
BEYOND = 2.5


class CameraLate(CameraMotionCheck):
    """
    Images recorded late or early relative to the state, compared with the other episodes.

    Why it harms: the policy sees the past, and learns to overshoot.

    Example: a camera's buffer filled up in some episodes, and its images came six frames late.

    What to do: shift the images of these frames by the lag, or leave the episodes out.

    Limits: a lag that all episodes share cannot be seen, nor one in a short part of an episode. The images must show
    the motion of the robot.
    """

    name, unit = "camera/late", "frames"
    reads = ("state", "cameras")
    action = "shift the images of these frames by the lag, or leave them out"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.material = max(MATERIAL_FRAMES, MATERIAL * context.fps)
        self._longest = max(LEAST_LONGEST, round(LONGEST * context.fps))
        # By camera: usual lag, largest usual deviation from it, usual agreement.
        self._usual: dict[str, tuple[float, float, float]] = {}
        for name, model in context.cameras.items():
            best = [self._best(model, model.motion(episode)) for episode in model.episodes] if model.known else []
            found = np.array([each for each in best if each is not None])
            if not len(found):
                continue
            lag, peak = found[:, 0], found[:, 1]
            usual = float(np.median(lag))
            away = np.abs(lag - usual)
            # Where many episodes have other lags, the images do not show the time.
            if (away < self.material).mean() >= LEAST_AGREED:
                self._usual[name] = usual, BEYOND * 1.4826 * float(np.median(away)), float(np.median(peak))

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        if model.camera not in self._usual:
            return {}
        usual, beyond, agreement = self._usual[model.camera]
        best = self._best(model, model.motion(view.episode))
        amount, away = 0.0, 0.0
        if best is not None:
            lag, peak, at_usual = best
            away = lag - usual
            sure = peak - at_usual > LEAST_GAIN * agreement and peak > LEAST_PEAK * agreement
            amount = abs(away) if sure and abs(away) > beyond else 0.0
        # Shorter windows contain too few motions to show a lag.
        if not view.windows:
            return {}
        whole = view.windows[-1]
        return {whole.scale: Candidates.of(whole, np.array([amount]), np.array([away]))}

    def cause(self, found: Found) -> str:
        return f"images of {self.camera_of(found)} {lag_words(math.copysign(found.amount, found.detail))}"

    def plants(self) -> Sequence[Plant]:
        return [
            Plant(f"images {abs(frames)} frames {'late' if frames > 0 else 'early'}", _shift(frames), partial=False)
            for frames in (6, -6)
        ]

    def _best(self, model: CameraModel, motion: Motion) -> tuple[float, float, float] | None:
        """
        The lag of the images, in frames, at which they agree best with the state.

        Returns:
            lag, agreement at it, and agreement at the usual lag; None for an episode that is too short.
        """
        length = len(motion.seen)
        reach = min(self._longest, length // 4)
        if reach < 3:
            return None
        shifts = np.arange(-reach, reach + 1)
        agreement = lagged_agreement(motion, reach)
        best = int(agreement.argmax())
        usual = self._usual.get(model.camera, (0.0, 0.0, 0.0))[0]
        at_usual = float(agreement[int(np.clip(round(usual), -reach, reach)) + reach])
        if not 0 < best < len(shifts) - 1:
            # The value at the end of the search is not a maximum: it may rise beyond.
            return float(shifts[best]), -1.0, at_usual
        place = float(shifts[best] + vertex(*agreement[best - 1 : best + 2]))
        return place, float(agreement[best]), at_usual


def _shift(frames: int):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del context
        if len(episode) < 4 * abs(frames):
            return None
        rows = np.clip(np.arange(len(episode)) - frames, 0, len(episode) - 1)
        return one_camera(episode, rng, lambda track: track.rows(rows))

    return make
