"""The time axis of a report: the recorded time stamps, which the checks measure with, too."""

from __future__ import annotations

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import VideoClip
from hf_ptr.errors import InputError

# Seconds by which the recorded time may differ from that of a video player before the report mentions it.
LEAST_DRIFT = 0.5
# Episodes whose video file is read for that comparison: a dataset has thousands.
MOST_READ = 10


def frame_edges(table: EpisodeTable, episode: int) -> np.ndarray:
    """
    The recorded start of each frame of an episode, and the end of the last.

    Returns:
        `(T + 1,)` seconds since the first frame. A frame ends where the next one starts; the last is as long as the
        median frame. Where the stamps do not rise, they are replaced by frame / fps.
    """
    seconds = table.seconds[_rows(table, episode)]
    steps = np.diff(seconds)
    if len(steps) == 0 or (steps <= 0).any():
        return np.arange(len(seconds) + 1) / table.fps
    return np.append(seconds, seconds[-1] + np.median(steps))


def clock_sentence(table: EpisodeTable) -> str:
    """
    The largest difference between the recorded times of a report and those of a video player; "" without videos, and
    where both agree.
    """
    if not table.videos:
        return ""
    nominal = np.abs(table.seconds - table.video_frame / table.video_fps)
    away = np.maximum.reduceat(nominal, table.starts)
    order = np.argsort(-away, kind="stable")
    for episode in table.episode_index[order[away[order] > LEAST_DRIFT][:MOST_READ]].tolist():
        # Rows that the recorder dropped leave the frames of the others where they were: only the file has their times.
        recorded = frame_edges(table, episode)[:-1]
        worst = max((float(np.abs(recorded - shown).max()) for shown in _shown(table, episode)), default=0.0)
        if worst > LEAST_DRIFT:
            return (
                "Times are the recorded time stamps, in seconds since the first frame of the episode. A video player "
                f"shows frames up to {worst:.1f} s earlier or later (episode {episode})."
            )
    return ""


def _shown(table: EpisodeTable, episode: int) -> list[np.ndarray]:
    """When a player shows the frame of each row, `(T,)` seconds for each camera with a readable video file."""
    found = []
    for clips in table.videos.values():
        clip = clips.get(episode)
        if not isinstance(clip, VideoClip):
            continue
        try:
            frames = clip.file.placement(table.video_fps).episodes[clip.episode].frames
            seconds = clip.file.index.seconds[frames]
        except (InputError, OSError):
            # The film strips name the camera and the reason.
            continue
        if len(seconds):
            rows = table.video_frame[_rows(table, episode)]
            found.append(seconds[np.minimum(rows, len(seconds) - 1)] - seconds[0])
    return found


def _rows(table: EpisodeTable, episode: int) -> slice:
    position = int(np.flatnonzero(table.episode_index == episode)[0])
    return slice(int(table.starts[position]), int(table.starts[position] + table.lengths[position]))
