"""Rows whose video frame LeRobot 0.6 refuses to read, because it looks for frames by the times of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_ptr.data.video.frame_index import FrameIndex

# Seconds that a frame may be away from the time of its row: `tolerance_s` of LeRobotDataset.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class RefusedRows:
    """
    The rows of an episode that LeRobot refuses.

    Attributes:
        row: the first one.
        seconds: the largest distance between a row and the frame that LeRobot finds; infinite without a frame or time.
        any_decoder: whether every decoder refuses rows; otherwise, torchcodec does and PyAV does not.
    """

    row: int
    seconds: float
    any_decoder: bool


def refused_rows(index: FrameIndex, start: float, stamps: np.ndarray) -> RefusedRows | None:
    """
    The rows that LeRobot refuses; None if it reads all.

    With PyAV it takes the frame nearest to the time of the row. With torchcodec, its default where FFmpeg is
    installed, it takes the frame with the number `time * mean rate`. Both must be within 0.1 ms of the row.

    Args:
        index: the frames of the video file.
        start: `from_timestamp`, seconds in the file at which the episode begins.
        stamps: `(rows,)`, the column `timestamp`, seconds.
    """
    # LeRobot compares times in single precision.
    frames = index.rounded_times
    finite = np.isfinite(stamps)
    times = np.where(finite, start + stamps.astype(np.float64), 0.0).astype(np.float32)
    after = np.minimum(np.searchsorted(frames, times), len(frames) - 1)
    before = np.maximum(after - 1, 0)
    number = np.clip(np.round(times * index.mean_rate).astype(np.int64), 0, len(frames) - 1)
    away = {True: np.minimum(np.abs(frames[before] - times), np.abs(frames[after] - times))}
    away[False] = np.abs(frames[number] - times)
    for any_decoder, seconds in away.items():
        seconds = np.where(finite, seconds, np.inf)
        refused = seconds >= TOLERANCE
        if refused.any():
            return RefusedRows(int(refused.argmax()), float(seconds.max()), any_decoder)
    return None
