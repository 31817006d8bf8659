"""Chunks, targets and segments stay within their episodes, and cover every frame."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import coded_table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_ptr.data.chunks import ChunkBatch, ChunkDataset
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.errors import InputError


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], dict[str, Any]]:
    """Episode lengths and the four sizes, with chunks no longer than the longest episode."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    sizes = {
        "chunk_size": draw(st.integers(1, max(lengths))),
        "segment_chunks": draw(st.integers(1, 5)),
        "chunk_stride": draw(st.integers(1, 9)),
        "target_offset": draw(st.integers(1, 12)),
    }
    return lengths, sizes


def expected_segments(lengths: list[int], sizes: dict[str, Any]) -> set[tuple[tuple[int, int], ...]]:
    """The definition in plain loops: (episode, frame) of the start of every chunk, by segment."""
    segments = set()
    for episode, length in enumerate(lengths):
        for phase in range(sizes["chunk_stride"]):
            chain = [(episode, frame) for frame in range(phase, length, sizes["chunk_stride"])]
            for first in range(0, len(chain), sizes["segment_chunks"]):
                segments.add(tuple(chain[first : first + sizes["segment_chunks"]]))
    return segments


def starts_of(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """(episode, frame) of the start of every chunk of a batch, decoded from its observations."""
    return [(int(observation[0]) - 1, int(observation[1])) for observation in batch["observation"]]


def everything(dataset: ChunkDataset) -> dict[str, Any]:
    return dataset.batch(range(len(dataset)))


@settings(max_examples=120, deadline=None)
@given(cuts())
def test_segments_are_those_of_the_definition(cut: tuple[list[int], dict[str, Any]]) -> None:
    lengths, sizes = cut
    dataset = ChunkDataset(coded_table(lengths), **sizes)
    batch = everything(dataset)
    starts = starts_of(batch)
    # Every frame starts exactly one chunk.
    assert starts == [(episode, frame) for episode, length in enumerate(lengths) for frame in range(length)]
    following = {int(previous): row for row, previous in enumerate(batch["previous_index"]) if previous >= 0}
    assert len(following) == int((batch["previous_index"] >= 0).sum())
    found = set()
    firsts, counts = dataset.segment_starts()
    for row, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        segment = [row]
        while segment[-1] in following:
            segment.append(following[segment[-1]])
        assert len(segment) == count
        found.add(tuple(starts[row] for row in segment))
    assert found == expected_segments(lengths, sizes)


@settings(max_examples=120, deadline=None)
@given(cuts())
def test_chunks_and_targets_stay_in_their_episode(cut: tuple[list[int], dict[str, Any]]) -> None:
    lengths, sizes = cut
    table = coded_table(lengths)
    batch = everything(ChunkDataset(table, **sizes))
    assert len(batch["index"]) == sum(lengths)
    for row, (episode, frame) in enumerate(starts_of(batch)):
        length = lengths[episode]
        assert int(batch["episode_index"][row]) == episode
        assert int(batch["task_index"][row]) == episode % 3
        assert int(batch["index"][row]) == table.starts[episode] + frame
        assert torch.equal(batch["state"][row], batch["observation"][row])
        for step in range(sizes["chunk_size"]):
            inside = frame + step < length
            action = batch["actions"][row, step]
            assert bool(batch["action_mask"][row, step]) == inside
            assert action[:2].tolist() == ([episode + 1, frame + step] if inside else [0, 0])
            assert inside or not action.any()
        target = frame + sizes["target_offset"]
        valid = target < length
        assert bool(batch["has_target"][row]) == valid
        assert batch["next_observation"][row, :2].tolist() == ([episode + 1, target] if valid else [0, 0])
        assert valid or not batch["next_observation"][row].any()
        assert int(batch["target_index"][row]) == (table.starts[episode] + target if valid else -1)
        assert int(batch["target_offset"][row]) == sizes["target_offset"]


@settings(max_examples=80, deadline=None)
@given(
    cut=cuts(),
    batch_size=st.integers(1, 12),
    ranks=st.integers(1, 3),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_continues_its_segment_from_the_previous_batch(
    cut: tuple[list[int], dict[str, Any]], batch_size: int, ranks: int, shuffle: bool, epoch: int
) -> None:
    lengths, sizes = cut
    dataset = ChunkDataset(coded_table(lengths), **sizes)
    previous = everything(dataset)["previous_index"].tolist()
    seen: list[int] = []
    cuts_by_folding = 0
    for rank in range(ranks):
        walk = SegmentBatches(dataset, batch_size, shuffle=shuffle, seed=5, rank=rank, ranks=ranks)
        walk.set_epoch(epoch)
        batches = list(walk)
        assert len(batches) == len(walk)
        # All ranks have the same number of batches, all full except the last one of a single rank.
        full = [len(rows) == batch_size for rows in batches]
        assert all(full[: -1 if ranks == 1 else None])
        assert len(batches) == sum(lengths) // (batch_size * ranks) + (ranks == 1 and sum(lengths) % batch_size > 0)
        for before, after in itertools.pairwise(rows for rows in batches if len(rows) == batch_size):
            for row, continued in zip(before, after, strict=True):
                assert previous[continued] in (-1, row)
                assert previous[continued] == -1 or continued == row + sizes["chunk_stride"]
        cuts_by_folding += sum(previous[row] >= 0 for row in (batches[0] if batches else []))
        seen += [row for rows in batches for row in rows]
    # Every chunk occurs once per epoch, except for a remainder that several ranks cannot share evenly.
    assert len(seen) == len(set(seen))
    missing = sum(lengths) - len(seen)
    assert missing == 0 if ranks == 1 else missing < batch_size * ranks
    assert cuts_by_folding < batch_size * ranks


@pytest.mark.parametrize("length", [1, 5, 12, 13, 23, 24])
def test_ranks_cover_all_chunks_of_an_evaluation(length: int) -> None:
    dataset = ChunkDataset(coded_table([length]), chunk_size=1, segment_chunks=2, chunk_stride=1, target_offset=1)
    ranks = [list(SegmentBatches(dataset, 4, shuffle=False, rank=rank, ranks=3, whole=True)) for rank in range(3)]
    walk = SegmentBatches(dataset, 4, shuffle=False, ranks=3, whole=True)
    assert {len(batches) for batches in ranks} == {len(walk)}
    gathered = [row for batches in zip(*ranks, strict=True) for batch in batches for row in batch]
    # accelerate truncates gathered results: padding comes last, and each chunk occurs once.
    assert len(gathered) == len(walk) * walk.batch_size * walk.num_processes
    assert sorted(gathered[:length]) == list(range(length))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    dataset = ChunkDataset(coded_table([40, 30, 50]), chunk_size=5)

    def order(**arguments: Any) -> list[list[int]]:
        epoch = arguments.pop("epoch", 0)
        walk = SegmentBatches(dataset, 8, **arguments)
        walk.set_epoch(epoch)
        assert list(walk) == list(walk)
        return list(walk)

    assert order(seed=1) == order(seed=1)
    different = [order(seed=1), order(seed=2), order(seed=1, epoch=1), order(shuffle=False)]
    assert all(a != b for a, b in itertools.combinations(different, 2))
    assert order(shuffle=False, seed=1) == order(shuffle=False, seed=2, epoch=3)
    with pytest.raises(ValueError, match="batch_size is 0"):
        SegmentBatches(dataset, 0)


@pytest.mark.parametrize("length", [16, 17, 31, 32, 33])
def test_boundaries(length: int) -> None:
    dataset = ChunkDataset(coded_table([length, 40]), chunk_size=16, target_offset=16)
    batch = everything(dataset)
    first = batch["episode_index"] == 0
    frame = batch["observation"][first, 1]
    whole = batch["action_mask"][first].all(dim=1)
    assert sorted(frame[whole].tolist()) == list(range(length - 15))
    assert batch["action_mask"][first].sum(dim=1).tolist() == [min(16, length - int(f)) for f in frame]
    valid = batch["has_target"][first]
    assert sorted(frame[valid].tolist()) == list(range(max(0, length - 16)))
    last = batch["target_index"][first].max()
    assert int(last) == (length - 1 if length > 16 else -1)


def test_shapes_and_several_observation_features() -> None:
    table = coded_table([20, 12])
    table = dataclasses.replace(
        table, columns={**table.columns, "observation.environment_state": np.ones((32, 5), np.float32)}
    )
    dataset = ChunkDataset(table, observation_features=["observation.environment_state", "observation.state"])
    batch = dataset.batch([0, 1])
    count = len(batch["index"])
    assert batch["observation"].shape == batch["next_observation"].shape == (count, 8)
    assert torch.equal(batch["observation"][:, 5:], batch["state"])
    assert batch["actions"].shape == (count, 16, 4) and batch["actions"].dtype == torch.float32
    assert batch["action_mask"].dtype == batch["has_target"].dtype == torch.bool
    for key in ("target_offset", "task_index", "episode_index", "index", "target_index"):
        assert batch[key].shape == (count,) and batch[key].dtype == torch.int64, key
    assert dataset.tasks == table.tasks


def test_frame_ids_and_episode_ids_survive_a_selection() -> None:
    table = coded_table([20, 18, 25]).select([2, 0])
    dataset = ChunkDataset(table, chunk_size=4)
    batch = everything(dataset)
    ids = batch["index"][batch["episode_index"] == 2]
    assert sorted(ids.tolist()) == list(range(38, 63))
    assert set(batch["episode_index"].tolist()) == {0, 2}


def test_data_loader_fetches_whole_batches() -> None:
    dataset = ChunkDataset(coded_table([30, 21, 9]), chunk_size=5)
    walk = SegmentBatches(dataset, 7, seed=3)
    loader = DataLoader(dataset, batch_sampler=walk, collate_fn=lambda batch: batch.columns)
    for batch, rows in zip(loader, walk, strict=True):
        wanted = dataset.batch(rows)
        assert batch.keys() == wanted.keys()
        assert all(torch.equal(batch[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_default_collate_function_gives_the_same_batches(workers: int) -> None:
    table = coded_table([30, 21, 9])
    dataset = ChunkDataset(table, chunk_size=5, weights=np.linspace(0, 2, table.num_frames))
    loader = DataLoader(dataset, batch_size=8, num_workers=workers)
    batches = list(loader)
    assert [len(batch["index"]) for batch in batches] == [8] * 7 + [4]
    for number, batch in enumerate(batches):
        wanted = dataset.batch(range(8 * number, min(8 * number + 8, 60)))
        assert batch.keys() == wanted.keys()
        for key, values in wanted.items():
            assert torch.equal(batch[key], values) and batch[key].dtype == values.dtype, key


def test_a_batch_is_the_sequence_of_its_items() -> None:
    dataset = ChunkDataset(coded_table([20, 14]), chunk_size=5)
    rows = [3, 25, 33, 0]
    batch = dataset.__getitems__(rows)
    assert isinstance(batch, ChunkBatch) and len(batch) == 4
    for position, (item, row) in enumerate(zip(batch, rows, strict=True)):
        for found in (item, batch[position], batch[position - 4], batch[position:][0]):
            assert found.keys() == dataset[row].keys()
            assert all(torch.equal(found[key], dataset[row][key]) for key in found)
    with pytest.raises(IndexError):
        batch[4]
    # Items share the batch's memory.
    assert batch[1]["actions"].data_ptr() == batch.columns["actions"][1].data_ptr()


def test_an_item_is_a_row_of_a_batch() -> None:
    dataset = ChunkDataset(coded_table([20, 14]), chunk_size=5)
    batch = dataset.batch([3, 25, -1])
    for position, row in enumerate((3, 25, 33)):
        item = dataset[row]
        assert item.keys() == batch.keys()
        assert all(torch.equal(item[key], batch[key][position]) for key in item)
    assert torch.equal(dataset[-1]["index"], dataset[33]["index"])
    for beyond in (34, -35):
        with pytest.raises(IndexError):
            dataset[beyond]


def test_the_table_is_shared_and_not_altered() -> None:
    table = coded_table([20, 20])
    before = {name: column.copy() for name, column in table.columns.items()}
    dataset = ChunkDataset(table, chunk_size=5)
    batch = dataset.batch([0, 1, 2])
    batch["actions"].fill_(7)
    batch["observation"].fill_(7)
    for name, column in table.columns.items():
        np.testing.assert_array_equal(column, before[name])
    assert dataset.action.data_ptr() == table.columns["action"].ctypes.data


def with_bad_action(value: float) -> Any:
    table = coded_table([20, 20, 20])
    table.columns["action"][45, 1] = value
    return table


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (coded_table([20, 20]), {"chunk_size": 21}, r"chunk_size 21 is longer than every episode .* 20 frames"),
        (coded_table([20]), {"chunk_stride": 0}, "chunk_stride is 0; it must be at least 1"),
        (coded_table([20]), {"target_offset": -1}, "target_offset is -1"),
        (coded_table([20]), {"observation_features": []}, "observation_features is empty"),
        (coded_table([20]), {"action_feature": "actions"}, r"no numeric feature 'actions'.* Did you mean 'action'\?"),
        (with_bad_action(np.nan), {}, "'action' of 'coded' is NaN or infinite in episode 2, frame 5"),
        (with_bad_action(-np.inf), {}, "'action' of 'coded' is NaN or infinite in episode 2, frame 5"),
    ],
)
def test_wrong_input_is_one_line(table: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ChunkDataset(table, **arguments)
    assert "\n" not in str(caught.value)
