"""Segments: no frame of one episode in another's chunk or target, and nothing lost at any boundary."""

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

from hf_ptr.data.segments import SegmentDataset, pack_segments
from hf_ptr.errors import InputError


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], dict[str, int]]:
    """Episode lengths and the four sizes, chunks no longer than the longest episode."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    sizes = {
        "chunk_size": draw(st.integers(1, max(lengths))),
        "segment_chunks": draw(st.integers(1, 5)),
        "chunk_stride": draw(st.integers(1, 9)),
        "target_offset": draw(st.integers(1, 12)),
    }
    return lengths, sizes


def expected_segments(lengths: list[int], sizes: dict[str, int]) -> set[tuple[tuple[int, int], ...]]:
    """The definition, in plain loops: the (episode, frame) at which every chunk of every segment starts."""
    segments = set()
    for episode, length in enumerate(lengths):
        for phase in range(sizes["chunk_stride"]):
            chain = [(episode, frame) for frame in range(phase, length, sizes["chunk_stride"])]
            for first in range(0, len(chain), sizes["segment_chunks"]):
                segments.add(tuple(chain[first : first + sizes["segment_chunks"]]))
    return segments


def starts_of(item: dict[str, torch.Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((int(o[0]) - 1, int(o[1])) for o in item["observation"])


def assert_same_batch(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for key in left:
        if key == "segment_rows":
            assert left[key] == right[key]
        else:
            assert left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]), key


@settings(max_examples=120, deadline=None)
@given(cuts())
def test_segments_are_those_of_the_definition(cut: tuple[list[int], dict[str, int]]) -> None:
    lengths, sizes = cut
    dataset = SegmentDataset(coded_table(lengths), **sizes)
    found = [starts_of(dataset[i]) for i in range(len(dataset))]
    assert len(found) == len(set(found))
    assert set(found) == expected_segments(lengths, sizes)
    frames = sorted(start for segment in found for start in segment)
    assert frames == [(e, f) for e, length in enumerate(lengths) for f in range(length)]
    assert dataset.num_chunks == len(frames)


@settings(max_examples=120, deadline=None)
@given(cuts())
def test_chunks_and_targets_stay_in_their_episode(cut: tuple[list[int], dict[str, int]]) -> None:
    lengths, sizes = cut
    table = coded_table(lengths)
    dataset = SegmentDataset(table, **sizes)
    batch = dataset.__getitems__(range(len(dataset)))
    assert len(batch["index"]) == sum(lengths) == sum(batch["segment_rows"])
    for row in range(sum(lengths)):
        episode, frame = int(batch["observation"][row, 0]) - 1, int(batch["observation"][row, 1])
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
        assert bool(batch["next_valid"][row]) == valid
        assert batch["next_observation"][row, :2].tolist() == ([episode + 1, target] if valid else [0, 0])
        assert valid or not batch["next_observation"][row].any()
        assert int(batch["target_index"][row]) == (table.starts[episode] + target if valid else -1)
        assert int(batch["target_offset"][row]) == sizes["target_offset"]


@settings(max_examples=80, deadline=None)
@given(cuts(), st.randoms(use_true_random=False))
def test_batches_are_packed_step_by_step(cut: tuple[list[int], dict[str, int]], random: Any) -> None:
    lengths, sizes = cut
    dataset = SegmentDataset(coded_table(lengths), **sizes)
    indices = random.sample(range(len(dataset)), random.randint(1, len(dataset)))
    batch = dataset.__getitems__(indices)
    items = [dataset[i] for i in indices]
    assert_same_batch(batch, pack_segments(items))
    assert pack_segments(batch) is batch

    rows = batch["segment_rows"]
    assert list(rows) == sorted(rows, reverse=True) and all(count > 0 for count in rows)
    assert rows[0] == len(indices)
    # Stable: segments of the same number of chunks keep their order.
    longest_first = sorted(items, key=lambda item: -len(item["index"]))
    assert batch["index"][: rows[0]].tolist() == [int(item["index"][0]) for item in longest_first]
    begin = 0
    for before, after in itertools.pairwise(rows):
        first, second = batch["observation"][begin : begin + after], batch["observation"][begin + before :][:after]
        assert torch.equal(first[:, 0], second[:, 0])
        assert torch.equal(first[:, 1] + sizes["chunk_stride"], second[:, 1])
        begin += before


@pytest.mark.parametrize("length", [16, 17, 31, 32, 33])
def test_boundaries(length: int) -> None:
    dataset = SegmentDataset(coded_table([length, 40]), chunk_size=16, target_offset=16)
    batch = dataset.__getitems__(range(len(dataset)))
    first = batch["episode_index"] == 0
    frame = batch["observation"][first, 1]
    whole = batch["action_mask"][first].all(dim=1)
    assert sorted(frame[whole].tolist()) == list(range(length - 15))
    assert batch["action_mask"][first].sum(dim=1).tolist() == [min(16, length - int(f)) for f in frame]
    valid = batch["next_valid"][first]
    assert sorted(frame[valid].tolist()) == list(range(max(0, length - 16)))
    last = batch["target_index"][first].max()
    assert int(last) == (length - 1 if length > 16 else -1)


def test_shapes_and_several_observation_features() -> None:
    table = coded_table([20, 12])
    table = dataclasses.replace(
        table, columns={**table.columns, "observation.environment_state": np.ones((32, 5), np.float32)}
    )
    dataset = SegmentDataset(table, observation_features=["observation.environment_state", "observation.state"])
    batch = dataset.__getitems__([0, 1])
    count = len(batch["index"])
    assert batch["observation"].shape == batch["next_observation"].shape == (count, 8)
    assert torch.equal(batch["observation"][:, 5:], batch["state"])
    assert batch["actions"].shape == (count, 16, 4) and batch["actions"].dtype == torch.float32
    assert batch["action_mask"].dtype == batch["next_valid"].dtype == torch.bool
    for key in ("target_offset", "task_index", "episode_index", "index", "target_index"):
        assert batch[key].shape == (count,) and batch[key].dtype == torch.int64, key
    assert dataset.tasks == table.tasks


def test_frame_ids_and_episode_ids_survive_a_selection() -> None:
    table = coded_table([20, 18, 25]).select([2, 0])
    dataset = SegmentDataset(table, chunk_size=4)
    batch = dataset.__getitems__(range(len(dataset)))
    ids = batch["index"][batch["episode_index"] == 2]
    assert sorted(ids.tolist()) == list(range(38, 63))
    assert set(batch["episode_index"].tolist()) == {0, 2}


def test_data_loader_passes_packed_batches() -> None:
    dataset = SegmentDataset(coded_table([30, 21, 9]), chunk_size=5)
    loader = DataLoader(dataset, batch_size=7, collate_fn=pack_segments, shuffle=False)
    batches = list(loader)
    assert sum(len(batch["index"]) for batch in batches) == 60
    assert_same_batch(batches[0], dataset.__getitems__(range(7)))


def test_items_can_be_reached_from_the_end_and_not_beyond() -> None:
    dataset = SegmentDataset(coded_table([20]), chunk_size=5)
    assert torch.equal(dataset[-1]["index"], dataset[len(dataset) - 1]["index"])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(ValueError, match="segments is empty"):
        pack_segments([])


def test_the_table_is_shared_and_not_altered() -> None:
    table = coded_table([20, 20])
    before = {name: column.copy() for name, column in table.columns.items()}
    dataset = SegmentDataset(table, chunk_size=5)
    batch = dataset.__getitems__([0, 1, 2])
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
        SegmentDataset(table, **arguments)
    assert "\n" not in str(caught.value)
