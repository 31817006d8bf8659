"""Images of a made robot, given to a table as the clips of cameras without a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError

HEIGHT, WIDTH = 48, 64
# Returns the image `(height, width, 3)` of an episode (position) and frame.
Render = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class MadeClip:
    """The images of an episode, from a function; `broken` is the first frame that cannot be read."""

    render: Render
    episode: int
    frames: int
    camera: str
    broken: int | None = None

    @property
    def path(self) -> Path:
        return Path(f"{self.camera}-{self.episode}.made")

    def position(self, frame: int, fps: float) -> int:
        return frame

    def open(self, size: tuple[int, int] | None) -> MadeClip:
        return self

    def frame_at(self, position: int) -> np.ndarray | None:
        if self.broken is not None and position >= self.broken:
            raise InputError(f"{self.path} is damaged at frame {position}")
        return self.render(self.episode, position)

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def with_cameras(
    table: EpisodeTable, renders: Mapping[str, Render], broken: Mapping[int, int] | None = None
) -> EpisodeTable:
    """The table with cameras; `broken` has the first damaged frame of an episode, by its position."""
    clips = {
        name: {
            int(table.episode_index[position]): MadeClip(
                render, position, int(table.lengths[position]), name, (broken or {}).get(position)
            )
            for position in range(table.num_episodes)
        }
        for name, render in renders.items()
    }
    return dataclasses.replace(table, videos=clips)


def arm_images(table: EpisodeTable, seed: int = 0, noise: float = 2.0) -> Render:
    """
    A fixed camera before a textured wall; two bright limbs stand where the first two dimensions of the state are.

    Each episode has a thing at another place. The pixels have noise.
    """
    rng = np.random.default_rng(seed)
    # Texture of all sizes, such as a desk has.
    wall = sum(
        np.kron(rng.normal(0, 14, (HEIGHT // step, WIDTH // step)), np.ones((step, step))) for step in (1, 2, 4, 8)
    )
    wall = 110 + wall
    state = table.columns["observation.state"]
    low, extent = state.min(axis=0), np.ptp(state, axis=0) + 1e-6
    places = rng.integers([4, 4], [HEIGHT - 10, WIDTH - 10], (table.num_episodes, 2))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]

    def render(position: int, frame: int) -> np.ndarray:
        share = (state[table.starts[position] + frame] - low) / extent
        image = wall.copy()
        y, x = places[position]
        image[y : y + 6, x : x + 6] = 40
        limbs = ((share[0] * 0.8 + 0.1) * WIDTH, 0.3, 190), ((share[1] * 0.8 + 0.1) * WIDTH, 0.7, 230)
        for at, height, shade in limbs:
            near = np.exp(-((columns - at) ** 2) / 18 - (rows - height * HEIGHT) ** 2 / 60)
            image += near * (shade - image)
        pixels = np.random.default_rng([seed, position, frame]).normal(0, noise, image.shape)
        return np.clip(image + pixels, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)

    return render
