"""Parts that planted faults are made of, and the planting in a part of an episode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hf_ptr.detection.cameras import Track
from hf_ptr.detection.signals import Episode, Scale

# Share of a dimension's unit that it must move in an episode to be chosen, and of the upper quartile of all units.
LEAST_MOTION = 0.6
LEAST_UNIT = 0.25
# Share of an episode that a fault in a part takes, and seconds of its soft seams.
PART = (0.15, 0.25)
SEAM = 0.1


def resample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values `(T, d)` at fractional frames `(n,)`, clipped to the episode: `(n, d)`."""
    at = np.clip(at, 0, len(values) - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)[:, None]


def busy_dimensions(values: np.ndarray, scale: Scale, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Random dimensions of `(T, d)` that move in this episode and have more than two values; `count` or none."""
    moving = scale.unit[scale.moves]
    if not len(moving):
        return np.empty(0, dtype=np.int64)
    able = scale.moves & ~scale.two_valued & (scale.unit > LEAST_UNIT * np.quantile(moving, 0.75))
    found = np.flatnonzero(able & (values.std(axis=0) > LEAST_MOTION))
    return rng.choice(found, count, replace=False) if len(found) >= count else np.empty(0, dtype=np.int64)


def other_episode(episode: Episode, episodes: tuple[Episode, ...], rng: np.random.Generator) -> Episode:
    """Another episode, at random."""
    return episodes[(episode.position + rng.integers(1, len(episodes))) % len(episodes)]


def one_camera(episode: Episode, rng: np.random.Generator, change: Callable[[Track], Track]) -> Episode | None:
    """The episode with changed images of one of its cameras; None without images."""
    if not episode.cameras:
        return None
    chosen = str(rng.choice(sorted(episode.cameras)))
    return episode.with_signals(cameras={**episode.cameras, chosen: change(episode.cameras[chosen])})


def in_part(episode: Episode, faulty: Episode, fps: float, rng: np.random.Generator) -> tuple[Episode, slice]:
    """The fault in 15 to 25 % of the episode, where the robot moves, with soft seams; and its frames."""
    length = len(episode)
    size = max(8, round(rng.uniform(*PART) * length))
    speed = np.abs(np.diff(episode.action, axis=0, prepend=episode.action[:1])).mean(axis=1)
    busy = np.convolve(speed, np.ones(size), mode="valid")
    first = int(rng.choice(np.flatnonzero(busy >= np.median(busy))))
    share = np.zeros(length)
    share[first : first + size] = 1.0
    ramp = max(1, round(SEAM * fps))
    kernel = np.ones(2 * ramp + 1) / (2 * ramp + 1)
    share = np.convolve(np.pad(share, ramp, mode="edge"), kernel, mode="valid")[:, None]

    def mixed(sound: np.ndarray, other: np.ndarray) -> np.ndarray:
        # An untouched signal stays the same object: what depends on it alone need not be measured again.
        return sound if other is sound else sound * (1 - share) + other * share

    cameras = episode.cameras
    if faulty.cameras is not cameras:
        cameras = {name: track.mixed(faulty.cameras[name], share[:, 0] > 0.5) for name, track in cameras.items()}
    state, action = mixed(episode.state, faulty.state), mixed(episode.action, faulty.action)
    return episode.with_signals(state, action, cameras), slice(first, first + size)
