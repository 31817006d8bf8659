"""Images of another episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.camera_model import CameraModel, Motion, lagged_agreement
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraMotionCheck
from hf_ptr.detection.planting import one_camera, other_episode, resample
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Times at which episodes of different lengths are compared.
POINTS = 384
# Episodes that the images are compared with.
MOST_OTHERS = 256
# Share of the episodes whose images must agree best with their own motion.
LEAST_AHEAD = 0.7
# Lag of the images, seconds, at which they still belong to their own episode.
LAG = 1.0
LEAST_LAG = 8


class CameraOther(CameraMotionCheck):
    """
    Images that follow the motion of another episode better than that of their own.

    Why it harms: the policy learns actions that have nothing to do with what it sees.

    Example: after a merge, the video files of a camera are numbered one higher than the tables.

    What to do: find the right video, or leave the episode out.

    Limits: the images must show the motion of the robot. Demonstrations of one script look alike.
    """

    name, unit = "camera/other", "times usual"
    reads = ("state", "cameras")
    action = "find the video that belongs to this episode, or leave the episode out"
    material = 0.2
    # The images of nearly all sound episodes follow their own motion best: their amount is zero.
    least_tail = 0.08

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._lag = max(LEAST_LAG, round(LAG * context.fps))
        self._others: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._agreement: dict[str, float] = {}
        for name, model in context.cameras.items():
            if not model.known:
                continue
            step = -(-len(model.episodes) // MOST_OTHERS)
            chosen = model.episodes[::step]
            motions = [model.motion(episode) for episode in chosen]
            positions = np.array([episode.position for episode in chosen])
            stretched = np.stack([_stretched(motion.recorded) for motion in motions])
            longest = max(len(motion.recorded) for motion in motions)
            padded = np.stack([_padded(motion.recorded, longest) for motion in motions])
            self._others[name] = positions, stretched, padded
            own = [_own(motion, self._lag) for motion in motions]
            self._agreement[name] = max(float(np.median(own)), 1e-3)
            ahead = [
                one > self._best_other(model, motion, episode.position)[0]
                for one, motion, episode in zip(own, motions, chosen, strict=True)
            ]
            # Where many episodes look like others, the images do not show whose they are.
            if np.mean(ahead) < LEAST_AHEAD:
                del self._others[name]

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        if model.camera not in self._others:
            return {}
        motion = model.motion(view.episode)
        best, other = self._best_other(model, motion, view.episode.position)
        deficit = best - _own(motion, self._lag)
        amount = max(0.0, deficit / self._agreement[model.camera])
        if not view.windows:
            return {}
        whole = view.windows[-1]
        return {EVENT: Candidates.events(whole.first, whole.stop, [amount], [float(other)])}

    def _best_other(self, model: CameraModel, motion: Motion, position: int) -> tuple[float, int]:
        """The agreement of images with the other episode that they agree with best, and its position."""
        positions, stretched, padded = self._others[model.camera]
        longest = padded.shape[1] // motion.seen.shape[1]
        agreed = np.maximum(stretched @ _stretched(motion.seen), padded @ _padded(motion.seen, longest))
        agreed[positions == position] = -1.0
        best = int(agreed.argmax())
        return float(agreed[best]), int(positions[best])

    def cause(self, found: Found) -> str:
        other = self.context.signals.episode_index[int(found.detail)]
        return (
            f"images of {self.camera_of(found)} do not follow this episode's motion; they follow that of episode "
            f"{other} better"
        )

    def plants(self) -> Sequence[Plant]:
        return [Plant("images of another episode", _swap, partial=False)]


def _unit(values: np.ndarray) -> np.ndarray:
    """A motion `(T, k)` as a vector, so that the product of two is their agreement."""
    scaled: np.ndarray = values / (np.sqrt(np.vdot(values, values)) + 1e-9)
    return scaled.astype(np.float32).reshape(-1)


def _stretched(values: np.ndarray) -> np.ndarray:
    return _unit(resample(values, np.linspace(0, len(values) - 1, POINTS)))


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    padded = np.zeros((length, values.shape[1]))
    padded[: min(length, len(values))] = values[:length]
    return _unit(padded)


def _own(motion: Motion, reach: int) -> float:
    """The agreement of the images with their own episode, at the best lag."""
    return float(lagged_agreement(motion, min(reach, len(motion.seen) // 4)).max())


def _swap(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    other = other_episode(episode, context.signals.episodes, rng)
    names = sorted(set(episode.cameras) & set(other.cameras))
    if not names:
        return None
    rows = np.round(np.linspace(0, len(other) - 1, len(episode))).astype(np.int64)
    cameras = {name: other.cameras[name].rows(rows) for name in names}
    return one_camera(episode.with_signals(cameras=cameras), rng, lambda track: track)
