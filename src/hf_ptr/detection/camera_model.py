"""The motion that the images of a camera show, and the motion of the state that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from scipy.optimize import nnls

from hf_ptr.detection.cameras import SIZE, Track
from hf_ptr.detection.signals import Episode, Signals

# Half of the time over which a motion is measured, seconds.
STEP = 0.07
# Time over which a moving robot must change the image, seconds.
APART = 0.4
# Slower motions than these seconds are left out: where things are differs between episodes, when they move does not.
SLOW = 0.5
# Speeds below this share of a joint's unit, within two steps, are noise.
SPEED_NOISE = 0.05
# Least standard deviation of the grey levels of an image that its contrast is brought to one by.
LEAST_CONTRAST = 4.0
# Share of the usual contrast below which an image is blank.
BLANK = 0.1
# Motions of the image below this share of its contrast are noise of the pixels.
PIXEL_NOISE = 0.03
# Height and width of the images that flow is measured in, and parts of a side that have a flow of their own.
FLOW_SIZE, PARTS = SIZE // 2, 2
# Share of the mean gradient that keeps the flow of an even image at zero.
FLOW_RIDGE = 0.02
RIDGE = 1e-2
# Folds that the regressions on images are fitted in.
FOLDS = 10
# Rows that the weights of the joints are fitted to.
MOST_ROWS = 6000
# Share of the covariance of the errors that is kept on its diagonal only, and least share of the largest signal that
# a direction must have to count as shown by the images.
SHRINKAGE = 0.1
LEAST_SHOWN = 0.03
# Median agreement of the images with the motion of the state above which they show it.
KNOWN = 0.15
# Largest lag of a camera in all episodes, seconds.
LARGEST_LAG = 0.5
# Times that the regression is fitted again, and least share that an episode without agreement has then.
REFITS = 2
LEAST_TRUST = 0.05


@dataclass(frozen=True)
class Look:
    """
    What the images of a track show in its T frames, the same in any light.

    Attributes:
        contrast: `(T,)` standard deviation of the thumbnail, grey levels.
        flow: `(T, p)` flow and energy of the motion around each frame.
        energy: `(T,)` root mean square change around each frame, in contrasts.
        apart: `(T,)` root mean square change within the next `APART` seconds, in contrasts.
    """

    contrast: np.ndarray
    flow: np.ndarray
    energy: np.ndarray
    apart: np.ndarray


@dataclass(frozen=True)
class Motion:
    """
    The motion of an episode without slow parts: of the state, and as its images show it.

    Its k dimensions are the combinations of joints that the images show, with independent errors of variance one.

    Attributes:
        recorded, seen: `(T, k)`.
    """

    recorded: np.ndarray
    seen: np.ndarray


class CameraModel:
    """
    How the images of one camera change when the state moves, over all episodes.

    A ridge regression predicts velocities and speeds of the state and the energy of the motion from the flow in the
    images, without the episode that it predicts. Nothing depends on the scene, so that it holds for fixed and moving
    cameras. The regression takes out a lag that all episodes share; `usual` and `expected_change` do not.

    Args:
        signals: the episodes.
        camera: name of the camera.

    Attributes:
        known: whether the images show the motion well enough for a comparison.
        least_contrast: contrast below which an image is blank, grey levels.
        usual: change of the image within `APART` seconds of an ordinary motion, in contrasts.
    """

    def __init__(self, signals: Signals, camera: str) -> None:
        self.camera = camera
        self._step = signals.frames(STEP)
        self._apart = signals.frames(APART, 2)
        self._slow = signals.frames(SLOW, 2)
        self._longest = signals.frames(LARGEST_LAG)
        self._states = np.flatnonzero(signals.state.moves)
        self._looks: WeakKeyDictionary[Track, Look] = WeakKeyDictionary()
        self.episodes = [episode for episode in signals.episodes if camera in episode.cameras]
        looks = [self.look(episode.cameras[camera]) for episode in self.episodes]
        self.least_contrast = BLANK * float(np.median(np.concatenate([look.contrast for look in looks])))
        velocity = [self._velocity(episode) for episode in self.episodes]
        self._joints = _energy_weights(velocity, [look.energy for look in looks])
        displacement = [self._displacement(episode) for episode in self.episodes]
        self._far = _energy_weights(displacement, [look.apart for look in looks])[:-1]
        expected = np.concatenate([self._change(part) for part in displacement])
        self.usual = float(np.median(expected[expected >= np.median(expected)]))
        self._fit(velocity, looks)

    def _fit(self, velocity: list[np.ndarray], looks: list[Look]) -> None:
        self._lag = 0
        inputs = np.concatenate([look.flow for look in looks])
        self._centre, self._size = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
        features = [self._features(look) for look in looks]
        gram = np.stack([part.T @ part for part in features])
        fold = np.arange(len(features)) % FOLDS
        self._fold = {episode.position: int(own) for episode, own in zip(self.episodes, fold, strict=True)}

        def fitted(trust: np.ndarray) -> list[Motion]:
            targets = [self._targets(part) for part in velocity]
            cross = np.stack([part.T @ target for part, target in zip(features, targets, strict=True)])
            weighted, against = np.tensordot(trust, gram, 1), np.tensordot(trust, cross, 1)
            self._weights: list[np.ndarray] = []
            for out in range(FOLDS):
                own = fold == out
                left = weighted - np.tensordot(trust[own], gram[own], 1)
                left[np.diag_indices(len(left))] += RIDGE * np.trace(left) / len(left) + 1e-9
                right = against - np.tensordot(trust[own], cross[own], 1)
                self._weights.append(np.linalg.solve(left, right))
            recorded = [self._fast(target) for target in targets]
            seen = [self._seen(part, int(own)) for part, own in zip(features, fold, strict=True)]
            self._shown = _shown(recorded, seen, trust)
            return [Motion(one @ self._shown, other @ self._shown) for one, other in zip(recorded, seen, strict=True)]

        motions = fitted(np.ones(len(features)))
        self._lag = _shared_lag(motions, self._longest)
        if self._lag:
            # Nothing is known of an episode from its agreement at a wrong lag.
            motions = fitted(np.ones(len(features)))
        for _ in range(REFITS):
            agreed = np.array([agreement(motion.recorded, motion.seen) for motion in motions])
            # Images that do not belong to the state teach nothing.
            motions = fitted(np.clip(agreed / max(float(np.median(agreed)), 1e-3), LEAST_TRUST, 1.0))
        self.known = float(np.median([agreement(motion.recorded, motion.seen) for motion in motions])) >= KNOWN

    def look(self, track: Track) -> Look:
        """What the images of a track show; remembered as long as the track exists."""
        if track not in self._looks:
            self._looks[track] = self._looked(track)
        return self._looks[track]

    def fold(self, episode: Episode) -> int:
        """The fold that has not seen an episode."""
        return self._fold[episode.position]

    def motion(self, episode: Episode) -> Motion:
        """The motion of an episode, or of a copy of it with a planted fault, by the model of its fold."""
        seen = self._seen(self._features(self.look(episode.cameras[self.camera])), self.fold(episode))
        recorded = self._fast(self._targets(self._velocity(episode)))
        return Motion(recorded @ self._shown, seen @ self._shown)

    def expected_change(self, episode: Episode) -> np.ndarray:
        """The change of the image within `APART` seconds of each frame that the state implies, `(T,)` contrasts."""
        return self._change(self._displacement(episode))

    def _looked(self, track: Track) -> Look:
        images, contrast = in_any_light(track.thumbnails)
        before, after = _around(images, self._step)
        energy = np.sqrt(((after - before) ** 2).mean(axis=1))
        later = np.minimum(np.arange(len(images)) + self._apart, len(images) - 1)
        apart = np.sqrt(((images[later] - images) ** 2).mean(axis=1))
        flow = np.concatenate([_flow(images, self._step), np.log(energy + PIXEL_NOISE)[:, None]], axis=1)
        return Look(contrast, moving_mean(flow, self._step), energy, apart)

    def _features(self, look: Look) -> np.ndarray:
        return np.concatenate([(look.flow - self._centre) / self._size, np.ones((len(look.flow), 1))], axis=1)

    def _velocity(self, episode: Episode) -> np.ndarray:
        before, after = _around(episode.state[:, self._states], self._step)
        return after - before

    def _displacement(self, episode: Episode) -> np.ndarray:
        state = episode.state[:, self._states]
        return state[np.minimum(np.arange(len(state)) + self._apart, len(state) - 1)] - state

    def _seen(self, features: np.ndarray, fold: int) -> np.ndarray:
        return self._fast(features @ self._weights[fold])

    def _targets(self, velocity: np.ndarray) -> np.ndarray:
        """What the images should show, `(T, 2 * d + 1)`: velocities, speeds and the energy of the motion."""
        energy = np.sqrt(velocity**2 @ self._joints[:-1] + self._joints[-1])
        speed = np.log(np.abs(velocity) + SPEED_NOISE)
        targets = np.concatenate([velocity, speed, np.log(energy + PIXEL_NOISE)[:, None]], axis=1)
        # Images that are late show an earlier state.
        return targets[np.clip(np.arange(len(targets)) - self._lag, 0, len(targets) - 1)]

    def _change(self, displacement: np.ndarray) -> np.ndarray:
        return np.sqrt(displacement**2 @ self._far)

    def _fast(self, values: np.ndarray) -> np.ndarray:
        return values - moving_mean(values, self._slow)


def in_any_light(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Thumbnails `(T, SIZE, SIZE)` brought to the same brightness and contrast.

    Returns:
        `(T, SIZE * SIZE)` float32 with mean 0 and standard deviation 1, less for even images; and the standard
        deviation of each before, `(T,)` grey levels.
    """
    images = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    images -= images.mean(axis=1, keepdims=True)
    contrast = images.std(axis=1)
    images /= np.maximum(contrast, LEAST_CONTRAST)[:, None]
    return images, contrast


def moving_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Means of `(T, d)` over the frames up to `reach` away; at the ends, the first and last values are repeated."""
    padded = np.pad(values, ((reach + 1, reach), (0, 0)), mode="edge")
    total = np.cumsum(padded, axis=0, dtype=np.float64)
    return (total[2 * reach + 1 :] - total[: -2 * reach - 1]) / (2 * reach + 1)


def _around(values: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The values `step` frames before and after each frame, within the episode."""
    rows = np.arange(len(values))
    return values[np.maximum(rows - step, 0)], values[np.minimum(rows + step, len(rows) - 1)]


def agreement(recorded: np.ndarray, seen: np.ndarray) -> float:
    """The correlation of two motions `(T, k)` over all their dimensions, from -1 to 1; 0 where nothing moves."""
    power = float(np.vdot(recorded, recorded) * np.vdot(seen, seen))
    return float(np.vdot(recorded, seen)) / np.sqrt(power) if power > 0 else 0.0


def lagged_agreement(motion: Motion, reach: int) -> np.ndarray:
    """The agreement with images that are late by `-reach` to `reach` frames, `(2 * reach + 1,)`."""
    length = len(motion.seen)
    seen = motion.seen[reach : length - reach]
    return np.array(
        [agreement(motion.recorded[reach - lag : length - reach - lag], seen) for lag in range(-reach, reach + 1)]
    )


def _shared_lag(motions: list[Motion], reach: int) -> int:
    """The lag of the images in most episodes, frames; 0 where all episodes are too short."""
    curves = [lagged_agreement(motion, reach) for motion in motions if len(motion.seen) > 4 * reach]
    return int(np.median(curves, axis=0).argmax()) - reach if curves else 0


def _shown(recorded: list[np.ndarray], seen: list[np.ndarray], trust: np.ndarray) -> np.ndarray:
    """
    The combinations of motions that the images show, scaled so that their errors are independent with variance one.

    Args:
        recorded, seen: of each episode `(T, d)`.
        trust: `(E,)` weights of the episodes.

    Returns:
        `(d, k)`, k at least 1.
    """
    share = np.repeat(np.sqrt(trust), [len(part) for part in seen])[:, None]
    shown, error = np.concatenate(seen) * share, (np.concatenate(recorded) - np.concatenate(seen)) * share
    size = error.std(axis=0) + 1e-9
    shown, error = shown / size, error / size
    covariance = (1 - SHRINKAGE) * error.T @ error / len(error)
    covariance[np.diag_indices(len(covariance))] += SHRINKAGE
    alone = np.linalg.cholesky(np.linalg.inv(covariance))
    signal, directions = np.linalg.eigh(alone.T @ (shown.T @ shown / len(shown)) @ alone)
    kept: np.ndarray = directions[:, signal >= LEAST_SHOWN * signal[-1]]
    return alone @ kept / size[:, None]


def _energy_weights(motions: list[np.ndarray], energies: list[np.ndarray]) -> np.ndarray:
    """How much each joint's squared motion adds to the squared change of the image, at least 0; the last is noise."""
    square = np.concatenate(motions) ** 2
    square = np.concatenate([square, np.ones((len(square), 1))], axis=1)
    energy = np.concatenate(energies).astype(np.float64) ** 2
    rows = np.linspace(0, len(square) - 1, min(MOST_ROWS, len(square))).astype(np.int64)
    # Relative errors, so that few large motions do not decide.
    scale = 1 / (energy[rows] + np.median(energy) + 1e-12)
    weights: np.ndarray = nnls(square[rows] * scale[:, None], energy[rows] * scale)[0]
    return weights


def _flow(images: np.ndarray, step: int) -> np.ndarray:
    """
    The affine flow of the whole image around each frame, and the flow and energy of its parts.

    Args:
        images: `(T, SIZE * SIZE)` float32.
        step: frames before and after.

    Returns:
        `(T, 6 + 3 * PARTS**2)`: pixels of the reduced image in 2 * step frames.
    """
    size, count = FLOW_SIZE, len(images)
    quarters = images.reshape(count, size, 2, size, 2)
    small = (quarters[:, :, 0, :, 0] + quarters[:, :, 0, :, 1] + quarters[:, :, 1, :, 0] + quarters[:, :, 1, :, 1]) / 4
    before, after = _around(small, step)
    mean, change = (before + after) / 2, after - before
    down, across = np.zeros_like(mean), np.zeros_like(mean)
    down[:, 1:-1] = (mean[:, 2:] - mean[:, :-2]) / 2
    across[:, :, 1:-1] = (mean[:, :, 2:] - mean[:, :, :-2]) / 2
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    slopes = np.stack([across, across * x, across * y, down, down * x, down * y], axis=1).reshape(count, 6, -1)
    left = slopes @ slopes.transpose(0, 2, 1)
    right = slopes @ change.reshape(count, -1, 1)
    left += np.eye(6, dtype=np.float32) * (FLOW_RIDGE / 6 * np.trace(left, axis1=1, axis2=2) + 1e-3)[:, None, None]
    whole = -np.linalg.solve(left, right)[..., 0]

    side = size // PARTS
    # Sums over the parts as a product of matrices, which is many times as fast as sums over short axes.
    cells = np.arange(size) // side
    of_part = np.eye(PARTS**2, dtype=np.float32)[(PARTS * cells[:, None] + cells).ravel()]

    def sums(values: np.ndarray) -> np.ndarray:
        added: np.ndarray = values.reshape(count, -1) @ of_part
        return added

    xx, xy, yy = sums(across * across), sums(across * down), sums(down * down)
    xt, yt = sums(across * change), sums(down * change)
    least = FLOW_RIDGE * (xx + yy).mean(axis=1, keepdims=True) + 1e-3 * side**2
    xx, yy = xx + least, yy + least
    area = xx * yy - xy * xy
    parts = [-(yy * xt - xy * yt) / area, -(xx * yt - xy * xt) / area]
    energy = np.log(np.sqrt(sums(change * change) / side**2) + PIXEL_NOISE)
    # A motion of more than a few pixels is not measured by slopes.
    flow: np.ndarray = np.concatenate([np.clip(np.concatenate([whole, *parts], axis=1), -3, 3), energy], axis=1)
    return flow
