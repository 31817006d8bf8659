"""Datasets larger than memory: memory-mapped features, and score files written in parts."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import drifting_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.memmap import memory_mapped_array, release_pages, row_blocks
from hf_ptr.data.score_file import write_scores
from hf_ptr.data.statistics import normalization
from hf_ptr.errors import InputError
from hf_ptr.report.summary import ScoreSummary, with_known_faults
from hf_ptr.scoring import fitted_scores
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import FittedScores, fit_scores
from hf_ptr.scoring.transitions import Features


def resident(array: np.ndarray) -> int:
    """Resident bytes of an array, from the process's memory map."""
    address = array.__array_interface__["data"][0]
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in (head := line.split(" ", 1)[0]) and ":" not in head:
            begin, end = (int(part, 16) for part in head.split("-"))
            inside = begin <= address < end
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_the_pages_of_a_memory_mapped_array_can_be_released(tmp_path: Path) -> None:
    gc.collect()
    open_before = len(os.listdir("/proc/self/fd"))
    array = memory_mapped_array((100_000, 4), np.float32, tmp_path)
    assert not array.any() and not list(tmp_path.iterdir())
    array[:] = np.arange(400_000, dtype=np.float32).reshape(-1, 4)
    assert resident(array) >= array.nbytes
    release_pages(array[5:])
    assert resident(array) == 0
    assert np.array_equal(array, np.arange(400_000, dtype=np.float32).reshape(-1, 4))
    assert memory_mapped_array((0, 4), np.float32, tmp_path).shape == (0, 4)
    blocks = np.concatenate([block.copy() for block in row_blocks(array)])
    assert np.array_equal(blocks, array)
    # A tensor shares the array; after both are deleted, the file is closed.
    tensor = torch.from_numpy(array)
    del array, blocks
    assert tensor[7, 3] == 31
    del tensor
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_features_in_a_file_do_not_stay_in_memory(tmp_path: Path) -> None:
    array = memory_mapped_array((400_000, 8), np.float32, tmp_path)
    array[:] = 1.0
    release_pages(array)
    features = Features([array], limit=10.0)
    for part in torch.arange(len(array)).split(100_000):
        assert bool((features[part] == 1.0).all())
        assert resident(array) == 0


def test_a_memory_mapped_dataset_is_the_same_dataset(tmp_path: Path) -> None:
    folder = write_table(drifting_table([40, 9, 25]), tmp_path / "data")
    in_memory, mapped = read_dataset(folder), read_dataset(folder, spill_dir=tmp_path)
    assert data_digest(in_memory) == data_digest(mapped)
    for name, column in in_memory.columns.items():
        assert np.array_equal(column, mapped.columns[name])
        for key, expected in normalization(in_memory, [name]).items():
            assert np.array_equal(expected, normalization(mapped, [name])[key])
    rows = list(range(in_memory.num_frames))
    pair = [ChunkDataset(table, chunk_size=6, target_offset=4).batch(rows) for table in (in_memory, mapped)]
    for name, values in pair[0].items():
        assert torch.equal(values, pair[1][name]), name


def test_a_full_disk_is_detected_at_allocation(tmp_path: Path) -> None:
    """A limit of the process on file sizes; a full disk gives the same error with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(InputError, match=r"cannot hold a temporary file of 4 MB: .*too large"):
            memory_mapped_array((1 << 20,), np.float32, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    with pytest.raises(InputError, match="cannot hold a temporary file of 12 bytes"):
        memory_mapped_array((3,), np.float32, tmp_path / "not there")


@pytest.fixture(scope="module")
def fitted() -> tuple[EpisodeTable, FittedScores]:
    # The second and the last episode have no sample.
    table = drifting_table([40, 5, 30, 33, 41, 28, 35, 6])
    chunks = ChunkDataset(table, chunk_size=8, target_offset=8)
    return table, fit_scores(chunks, ScoreConfig(steps=2), progress=False)


def test_parts_are_the_whole(
    fitted: tuple[EpisodeTable, FittedScores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, scores = fitted
    whole = scores.frame()
    monkeypatch.setattr(fitted_scores, "BLOCK_ROWS", 50)
    parts = list(scores.blocks())
    assert len(parts) > 3
    # Each part has whole episodes.
    assert sum(part.episode_index.nunique() for part in parts) == table.num_episodes
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole, check_exact=True)
    one = write_scores(whole, tmp_path / "one.parquet", seed=3)
    several = write_scores(iter(parts), tmp_path / "several.parquet", seed=3)
    read = [pd.read_parquet(path) for path in (one, several)]
    assert read[0].attrs == read[1].attrs == {"fps": 20.0, "seed": 3}
    pd.testing.assert_frame_equal(*read, check_exact=True)


def test_a_file_of_parts_is_complete_or_absent(fitted: tuple[EpisodeTable, FittedScores], tmp_path: Path) -> None:
    def broken() -> Iterator[pd.DataFrame]:
        yield fitted[1].frame()
        raise KeyboardInterrupt

    out = write_scores(fitted[1].frame().head(2), tmp_path / "scores.parquet")
    with pytest.raises(KeyboardInterrupt):
        write_scores(broken(), out)
    assert len(pd.read_parquet(out)) == 2 and list(tmp_path.iterdir()) == [out]


def test_the_summary_of_scores_does_not_depend_on_their_parts(
    fitted: tuple[EpisodeTable, FittedScores], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, scores = fitted
    faults = {"noise": np.arange(8) % 3 == 0, "instruction": np.arange(8) % 4 == 0}
    truth = CorruptionTruth("two faults", 0, table.episode_index, faults)
    summaries = []
    for rows in (10_000, 50):
        monkeypatch.setattr(fitted_scores, "BLOCK_ROWS", rows)
        summary = ScoreSummary()
        parts = list(summary.collect(with_known_faults(part, truth) for part in scores.blocks()))
        summaries.append(summary.to_dict(Path("scores.parquet")))
    whole = pd.concat(parts)
    assert summaries[0]["frames"] == len(whole) and summaries[0]["with_target"] == whole.valid.sum()
    assert summaries[0]["mean_weight"] == pytest.approx(whole.weight.mean())
    assert summaries[0]["mean_score"] == pytest.approx(whole.score[whole.valid].mean())
    assert [row["fault"] for row in summaries[0]["faults"]] == ["instruction", "noise", "any"]
    assert set(whole.fault[whole.episode_index == table.episode_index[0]]) == {"noise+instruction"}
    for name, value in summaries[0].items():
        assert summaries[1][name] == pytest.approx(value) if isinstance(value, float) else summaries[1][name] == value
