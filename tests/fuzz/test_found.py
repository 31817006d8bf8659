"""Datasets that the fuzz found to be read wrongly, each reduced to its cause."""

from __future__ import annotations

import pytest

from benchmarks.reader_fuzz.checking import check
from benchmarks.reader_fuzz.spec import CameraSpec, DatasetSpec

PAIR = {"lengths": (12, 1), "ids": (0, 1), "order": (0, 1)}
SIX = {"lengths": (3, 7, 12, 2, 1, 7), "ids": tuple(range(6)), "order": tuple(range(6))}
FOUND = {
    "the true file of an episode is listed for no episode": DatasetSpec(
        **SIX, cuts=(3, 2, 1), oddities=("stale_file_index",)
    ),
    "rows without episode_index, in another order than that of the ids": DatasetSpec(
        lengths=(12, 7), ids=(0, 1), order=(1, 0), oddities=("no_episode_index",)
    ),
    "images in tables without episode_index": DatasetSpec(
        **PAIR, oddities=("no_episode_index",), cameras=(CameraSpec(stored="image"),)
    ),
    "an episode of one row behind the end of the video": DatasetSpec(
        **PAIR, cameras=(CameraSpec(timing="dropped_closed"),)
    ),
    "a cut video without a decoder": DatasetSpec(
        version="v2.1", lengths=(2,), cameras=(CameraSpec(timing="video_cut", codec="libvpx-vp9"),)
    ),
    "a few frames at uneven times": DatasetSpec(version="v2.1", lengths=(7,), cameras=(CameraSpec(timing="uneven"),)),
}


@pytest.mark.parametrize("spec", FOUND.values(), ids=FOUND.keys())
def test_datasets_that_were_read_wrongly(spec: DatasetSpec) -> None:
    assert check(spec).differences == []
