"""Film strips: frames of the cameras of an episode as small images for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError, first_line
from hf_ptr.report.clock import frame_edges
from hf_ptr.report.plots import jpeg_uri

# The number of frames in a film strip, and their height in pixels.
STRIP_FRAMES, STRIP_HEIGHT = 8, 120
MAX_CAMERAS = 3


class Shot(NamedTuple):
    """
    A frame of a strip.

    Attributes:
        when: its time in words.
        image: a data URI.
        inside: whether it belongs to the marked place.
    """

    when: str
    image: str
    inside: bool


# `(camera, frames)`, and `(camera, reason)` without a readable video.
Strips = list[tuple[str, list[Shot]]]
Without = list[tuple[str, str]]


def film_strips(
    table: EpisodeTable, episode: int, frames: Sequence[int], named: str = "", place: tuple[int, int] | None = None
) -> tuple[Strips, Without]:
    """
    A strip for each camera, `MAX_CAMERAS` at most, and the cameras without a readable video.

    Args:
        table: the episodes.
        episode: id of the episode.
        frames: the stretch of frames to show, of which `STRIP_FRAMES` are taken at equal distances.
        named: a text; cameras that it names come first.
        place: first and last frame that are marked, of which one is shown at least; None to mark none.
    """
    wanted = _wanted(frames, place)
    strips: Strips = []
    without: Without = []
    for camera in sorted(table.videos, key=lambda camera: camera not in named)[:MAX_CAMERAS]:
        try:
            strips.append((camera, _strip(table, camera, episode, wanted, place)))
        except (InputError, OSError) as error:
            without.append((camera, first_line(error)))
    return strips, without


def _wanted(frames: Sequence[int], place: tuple[int, int] | None) -> list[int]:
    """The frames of a strip, rising."""
    wanted = np.unique(np.linspace(frames[0], frames[-1], STRIP_FRAMES).round().astype(int))
    if place is not None and not ((wanted >= place[0]) & (wanted <= place[1])).any():
        middle = sum(place) // 2
        wanted[np.abs(wanted - middle).argmin()] = middle
    return wanted.tolist()


def _strip(
    table: EpisodeTable, camera: str, episode: int, wanted: Sequence[int], place: tuple[int, int] | None
) -> list[Shot]:
    clips = table.videos[camera]
    if episode not in clips:
        raise InputError("the dataset lists none")
    feature = table.features.get(camera, {})
    shape = feature.get("shape") or [STRIP_HEIGHT * 3, STRIP_HEIGHT * 4, 3]
    height, width = _height_and_width(shape, feature.get("names"))
    size = (STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * width / height)))
    # Rows may lack frames of the video, whose rate may be another one.
    start = int(table.starts[np.flatnonzero(table.episode_index == episode)[0]])
    shown = np.minimum(table.video_frame[start + np.array(wanted)], clips[episode].frames - 1).tolist()
    reader = FrameReader(camera, {episode: clips[episode]}, table.video_fps, size=size)
    images = reader.read([episode] * len(shown), shown)
    edges = frame_edges(table, episode)
    inside = [place is not None and place[0] <= frame <= place[1] for frame in wanted]
    # Where all frames are in the place, as in one of a whole episode, marks say nothing.
    return [
        Shot(f"{edges[frame]:.1f} s", jpeg_uri(image), within and not all(inside))
        for frame, image, within in zip(wanted, images, inside, strict=True)
    ]


def _height_and_width(shape: Sequence[int], names: Any) -> tuple[int, int]:
    """The size of a camera's frames. Datasets give the shape with the channels first or last, and name the axes."""
    if isinstance(names, list) and {"height", "width"} <= set(names):
        return int(shape[names.index("height")]), int(shape[names.index("width")])
    sides = [int(side) for side in (shape[1:] if shape[0] in (1, 3) else shape[:2])]
    return sides[0], sides[1]
