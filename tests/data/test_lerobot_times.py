"""Rows that LeRobot refuses, as its two decoders look for their frames."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from hf_ptr.data.lerobot.lerobot_times import refused_rows
from hf_ptr.data.video.frame_index import FrameIndex

FPS, ROWS = 10, 50
EVEN = np.arange(ROWS) / FPS
# 1.5 % slower than the video; a jitter below half a frame; a pause of two seconds.
SLOWER, JITTER, PAUSE = EVEN * 1.015, EVEN + 0.02 * (np.arange(ROWS) % 2), EVEN + 2.0 * (np.arange(ROWS) >= 20)


def index(seconds: np.ndarray, start: float = 0.0) -> FrameIndex:
    none = np.zeros(0, dtype=np.int64)
    return FrameIndex(np.arange(len(seconds)), seconds - seconds[0], start, none, none.reshape(0, 2), 4, 4, float(FPS))


@pytest.mark.parametrize(
    ("frames", "stamps", "expected"),
    [
        (EVEN, EVEN, None),
        (SLOWER, SLOWER, None),
        (JITTER, JITTER, None),
        (EVEN, EVEN + 5e-5, None),
        (EVEN, SLOWER, (1, True)),
        (EVEN, EVEN + 2e-4, (0, True)),
        (EVEN, JITTER, (1, True)),
        (EVEN, np.where(np.arange(ROWS) == 7, np.nan, EVEN), (7, True)),
        (PAUSE, PAUSE, (2, False)),
    ],
)
def test_rows_are_refused_as_by_lerobot(
    frames: np.ndarray, stamps: np.ndarray, expected: tuple[int, bool] | None
) -> None:
    found = refused_rows(index(frames), 0.0, stamps.astype(np.float32))
    assert (found and (found.row, found.any_decoder)) == expected


def test_the_episode_may_begin_anywhere_in_the_file() -> None:
    both = np.concatenate([EVEN, EVEN[-1] + 0.1 + EVEN])
    assert refused_rows(index(both), 5.0, EVEN) is None
    found = refused_rows(index(both), 5.03, EVEN)
    assert found is not None and found.seconds == pytest.approx(0.03, abs=1e-5)


def test_a_video_of_one_frame() -> None:
    assert refused_rows(index(EVEN[:1]), 0.0, EVEN[:1]) is None
    found = refused_rows(index(EVEN[:1]), 0.0, EVEN[:3])
    assert found is not None and (found.row, found.seconds) == (1, pytest.approx(0.2))


def test_another_episode_in_a_long_file_needs_no_copy_of_its_times() -> None:
    long = index(np.arange(200_000) / FPS)
    assert refused_rows(long, 0.0, EVEN) is None
    tracemalloc.start()
    try:
        assert refused_rows(long, 100.0, EVEN) is None
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()
