"""Cards of single episodes: the reasons for the weight, a film strip or the motion, and the weight over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.score_file import ELEMENT_PREFIX
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError, first_line
from hf_ptr.report import plots
from hf_ptr.report.wording import explain_episode

# The number of frames in a film strip, and their height in pixels.
STRIP_FRAMES, STRIP_HEIGHT = 8, 120
MAX_CAMERAS = 3


@dataclass(frozen=True)
class EpisodeCard:
    """
    One of the episodes with the lowest or highest weight.

    Attributes:
        episode: its id.
        task: its instruction.
        weight: its mean weight.
        fault: its known faults, joined by `+`.
        flagged: whether its mean weight is below the threshold.
        reasons: the reasons for its weight, in sentences.
        lines: weight and scores over time, an SVG.
        strips: `(camera, [(time, data URI)])` of each camera.
        without_video: `(camera, reason)` of each camera whose video of this episode cannot be read.
        motion: state and action over time, an SVG; None if there are film strips.
    """

    episode: int
    task: str
    weight: float
    fault: str
    flagged: bool
    reasons: list[str]
    lines: Markup
    strips: list[tuple[str, list[tuple[str, str]]]]
    without_video: list[tuple[str, str]]
    motion: Markup | None


def episode_card(
    row: pd.Series, frames: pd.DataFrame, bounds: tuple[float, float], table: EpisodeTable | None, task: str
) -> EpisodeCard:
    """
    Builds the card of one episode.

    Args:
        row: its row of `summarise_episodes`.
        frames: its rows of the score file.
        bounds: the lowest and highest possible weight.
        table: the episodes that were scored; None if the dataset is not available.
        task: its instruction.
    """
    episode, fps = int(row.name), None if table is None else table.fps
    unit = "frame" if fps is None else "seconds"
    elements = {name: frames[name].to_numpy() for name in frames if name.startswith(ELEMENT_PREFIX)}
    time = frames.frame_index.to_numpy() / (1.0 if fps is None else fps)
    last = int(frames.frame_index.max())
    strips, without_video = ([], []) if table is None else _film_strips(table, episode, last + 1)
    motion = None
    if table is not None and not strips:
        features = [name for name in ("observation.state", "action") if name in table.columns]
        position = int(np.flatnonzero(table.episode_index == episode)[0])
        if features:
            motion = Markup(plots.state_and_action(table, position, features, unit))
    return EpisodeCard(
        episode=episode,
        task=task,
        weight=float(row.weight),
        fault=str(row.fault),
        flagged=bool(row.flagged),
        reasons=explain_episode(row, frames, fps),
        lines=Markup(plots.episode_lines(frames.weight.to_numpy(), elements, time, bounds, unit)),
        strips=strips,
        without_video=without_video,
        motion=motion,
    )


def _film_strips(
    table: EpisodeTable, episode: int, length: int
) -> tuple[list[tuple[str, list[tuple[str, str]]]], list[tuple[str, str]]]:
    """The strip of each camera, and the cameras without a readable video, each with the reason."""
    strips: list[tuple[str, list[tuple[str, str]]]] = []
    without: list[tuple[str, str]] = []
    for camera in list(table.videos)[:MAX_CAMERAS]:
        try:
            strips.append((camera, _strip(table, camera, episode, length)))
        except (InputError, OSError) as error:
            without.append((camera, first_line(error)))
    return strips, without


def _strip(table: EpisodeTable, camera: str, episode: int, length: int) -> list[tuple[str, str]]:
    """Frames at equal distances along the episode as `(time, data URI)`."""
    clips = table.videos[camera]
    if episode not in clips:
        raise InputError("the dataset lists none")
    feature = table.features.get(camera, {})
    shape = feature.get("shape") or [STRIP_HEIGHT * 3, STRIP_HEIGHT * 4, 3]
    height, width = _height_and_width(shape, feature.get("names"))
    size = (STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * width / height)))
    last = min(length, clips[episode].frames) - 1
    wanted = sorted({int(frame) for frame in np.linspace(0, last, STRIP_FRAMES).round()})
    reader = FrameReader(camera, {episode: clips[episode]}, table.fps, size=size)
    images = reader.read([episode] * len(wanted), wanted)
    times = [f"{frame / table.fps:.1f} s" for frame in wanted]
    return list(zip(times, map(plots.jpeg_uri, images), strict=True))


def _height_and_width(shape: Sequence[int], names: Any) -> tuple[int, int]:
    """The size of a camera's frames. Datasets give the shape with the channels first or last, and name the axes."""
    if isinstance(names, list) and {"height", "width"} <= set(names):
        return int(shape[names.index("height")]), int(shape[names.index("width")])
    sides = [int(side) for side in (shape[1:] if shape[0] in (1, 3) else shape[:2])]
    return sides[0], sides[1]
