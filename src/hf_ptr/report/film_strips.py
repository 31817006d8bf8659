"""Film strips: frames of the cameras of an episode as small images for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError, first_line
from hf_ptr.report.plots import jpeg_uri

# The number of frames in a film strip, and their height in pixels.
STRIP_FRAMES, STRIP_HEIGHT = 8, 120
MAX_CAMERAS = 3
# `(camera, [(time, data URI)])`, and `(camera, reason)` without a readable video.
Strips = list[tuple[str, list[tuple[str, str]]]]
Without = list[tuple[str, str]]


def film_strips(table: EpisodeTable, episode: int, frames: Sequence[int], named: str = "") -> tuple[Strips, Without]:
    """
    A strip for each camera, `MAX_CAMERAS` at most, and the cameras without a readable video.

    Args:
        table: the episodes.
        episode: id of the episode.
        frames: the stretch of frames to show, of which `STRIP_FRAMES` are taken at equal distances.
        named: a text; cameras that it names come first.
    """
    strips: Strips = []
    without: Without = []
    for camera in sorted(table.videos, key=lambda camera: camera not in named)[:MAX_CAMERAS]:
        try:
            strips.append((camera, _strip(table, camera, episode, frames)))
        except (InputError, OSError) as error:
            without.append((camera, first_line(error)))
    return strips, without


def _strip(table: EpisodeTable, camera: str, episode: int, frames: Sequence[int]) -> list[tuple[str, str]]:
    clips = table.videos[camera]
    if episode not in clips:
        raise InputError("the dataset lists none")
    feature = table.features.get(camera, {})
    shape = feature.get("shape") or [STRIP_HEIGHT * 3, STRIP_HEIGHT * 4, 3]
    height, width = _height_and_width(shape, feature.get("names"))
    size = (STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * width / height)))
    wanted = sorted({int(frame) for frame in np.linspace(frames[0], frames[-1], STRIP_FRAMES).round()})
    # Rows may lack frames of the video, whose rate may be another one.
    start = int(table.starts[np.flatnonzero(table.episode_index == episode)[0]])
    shown = np.minimum(table.video_frame[start + np.array(wanted)], clips[episode].frames - 1).tolist()
    reader = FrameReader(camera, {episode: clips[episode]}, table.video_fps, size=size)
    images = reader.read([episode] * len(shown), shown)
    times = [f"{frame / table.fps:.1f} s" for frame in wanted]
    return list(zip(times, map(jpeg_uri, images), strict=True))


def _height_and_width(shape: Sequence[int], names: Any) -> tuple[int, int]:
    """The size of a camera's frames. Datasets give the shape with the channels first or last, and name the axes."""
    if isinstance(names, list) and {"height", "width"} <= set(names):
        return int(shape[names.index("height")]), int(shape[names.index("width")])
    sides = [int(side) for side in (shape[1:] if shape[0] in (1, 3) else shape[:2])]
    return sides[0], sides[1]
