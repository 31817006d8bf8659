"""Images that were recorded late or early."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.camera_model import CameraModel, Motion
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.planting import one_camera
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import SHORT, Windows, windows_of

# Largest lag that is searched, seconds and frames.
LONGEST = 0.8
LEAST_LONGEST = 8
# Least lag that counts: seconds and frames.
MATERIAL = 0.1
MATERIAL_FRAMES = 1.5
# A lag must agree better than none by this share of the usual agreement of images and state.
LEAST_GAIN = 0.08
# Lags up to this many times the usual deviation of an episode are the camera's own.
BEYOND = 2.5


class CameraLate(CameraCheck):
    """
    Images recorded late or early relative to the state, compared with the other episodes.

    Why it harms: the policy sees the past, and learns to overshoot.

    Example: a camera's buffer filled up in some episodes, and its images came six frames late.

    What to do: shift the images of these frames by the lag, or leave the episodes out.

    Limits: a lag that all episodes share cannot be seen. The images must show the motion of the robot.
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
            if not model.known:
                continue
            lags, peaks = [], []
            for episode in model.episodes:
                whole = windows_of(len(episode), context.fps)[-1]
                found = self._best(model, model.motion(episode), whole)
                if found is not None:
                    lags.append(found[0][0])
                    peaks.append(found[1][0])
            if lags:
                usual = float(np.median(lags))
                spread = 1.4826 * float(np.median(np.abs(np.array(lags) - usual)))
                self._usual[name] = usual, BEYOND * spread, float(np.median(peaks))

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if any(model.known for model in context.cameras.values()):
            return None
        return super().unavailable(context) or "the images of no camera follow the motion of the state"

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        if model.camera not in self._usual:
            return {}
        usual, beyond, agreement = self._usual[model.camera]
        motion = model.motion(view.episode)
        found: Measurement = {}
        for windows in view.windows:
            # The shortest windows contain too few motions.
            best = None if windows.scale == SHORT else self._best(model, motion, windows)
            if best is None:
                continue
            lag, peak, at_usual = best
            away = np.abs(lag - usual)
            sure = (peak - at_usual > LEAST_GAIN * agreement) & (peak > 0.5 * agreement)
            amount = np.where(sure & (away > beyond), away, 0.0)
            found[windows.scale] = Candidates.of(windows, amount, lag - usual)
        return found

    def cause(self, found: Found) -> str:
        return f"images of {self.camera_of(found)} {found.amount:.1f} frames {'late' if found.detail > 0 else 'early'}"

    def plants(self) -> Sequence[Plant]:
        return [
            Plant(f"images {abs(frames)} frames {'late' if frames > 0 else 'early'}", _shift(frames))
            for frames in (6, -6)
        ]

    def _best(
        self, model: CameraModel, motion: Motion, windows: Windows
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """
        The lag of the images at which they agree best with the state.

        Returns:
            lag, agreement at it, and agreement at the usual lag, each `(W,)`; None for an episode that is too short.
        """
        length = len(motion.seen)
        reach = min(self._longest, length // 4)
        if reach < 3:
            return None
        inner = slice(reach, length - reach)
        first = np.clip(windows.first - reach, 0, length - 2 * reach)
        stop = np.clip(windows.stop - reach, 0, length - 2 * reach)
        stop = np.maximum(stop, first + 1)
        inside = Windows(windows.scale, first, np.minimum(stop, length - 2 * reach))
        seen = motion.seen[inner]
        power = inside.mean(seen**2)
        shifts = np.arange(-reach, reach + 1)
        agreement = np.empty((len(shifts), len(first)))
        for row, shift in enumerate(shifts.tolist()):
            # Images that are late by `shift` frames show an earlier state.
            state = motion.recorded[reach - shift : length - reach - shift]
            both = inside.mean(state * seen) / np.sqrt(inside.mean(state**2) * power + 1e-9)
            agreement[row] = both @ model.weight / model.weight.sum()
        best = agreement.argmax(axis=0)
        columns = np.arange(len(first))
        here = np.clip(best, 1, len(shifts) - 2)
        left, middle, right = (agreement[here + step, columns] for step in (-1, 0, 1))
        bend = left - 2 * middle + right
        vertex = np.where(bend < -1e-9, np.clip(0.5 * (left - right) / np.minimum(bend, -1e-9), -1, 1), 0.0)
        usual = self._usual.get(model.camera, (0.0, 0.0, 0.0))[0]
        at_usual = agreement[int(np.clip(round(usual), -reach, reach)) + reach]
        # A maximum at the end of the search is none.
        peak = np.where(best == here, middle, -1.0)
        return shifts[here] + vertex, peak, at_usual


def _shift(frames: int):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del context
        if len(episode) < 4 * abs(frames):
            return None
        rows = np.clip(np.arange(len(episode)) - frames, 0, len(episode) - 1)
        return one_camera(episode, rng, lambda track: track.rows(rows))

    return make
