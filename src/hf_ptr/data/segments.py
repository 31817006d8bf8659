"""Episodes cut into segments of consecutive action chunks, and segments packed into batches (PTR Sec. 2-3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError

Batch = dict[str, Any]


class SegmentDataset(Dataset[dict[str, torch.Tensor]]):
    """Segments of up to `segment_chunks` consecutive chunks of one episode, each with its post-action observation.

    A chunk that starts at frame `f` holds the actions of frames `f .. f + chunk_size - 1`; the next chunk of its
    segment starts at `f + chunk_stride`. Every phase `0 .. chunk_stride - 1` of an episode is one chain of chunks,
    cut into segments, so every frame starts exactly one chunk. Steps past the end of the episode are padded and
    masked. The target is the observation `target_offset` frames after the chunk's first (`o_{t+Δ}`, PTR Sec. 2);
    where the episode ends before, it is invalid and never clamped to the last frame.

    With `n` chunks, `do`, `ds`, `da` the widths of observation, state and action, and `L = chunk_size`, an item is:

    | key | shape | |
    |---|---|---|
    | `observation` | `(n, do)` | the observation features side by side, raw units |
    | `state` | `(n, ds)` | proprioception |
    | `actions` | `(n, L, da)` | zeros where padded |
    | `action_mask` | `(n, L)` bool | True where the step lies in the episode |
    | `next_observation` | `(n, do)` | the observation at `t + Δ`, zeros where invalid |
    | `next_valid` | `(n,)` bool | `t + Δ` lies in the episode |
    | `target_offset` | `(n,)` | `Δ` in frames |
    | `task_index`, `episode_index` | `(n,)` | into `tasks`; the id in the dataset |
    | `index`, `target_index` | `(n,)` | `frame_id` of the chunk's first frame and of the target (-1: invalid) |

    A batch (`pack_segments`, or `dataset.__getitems__` directly, which PyTorch's `DataLoader` uses) joins segments
    along the first dimension, see `pack_segments`.

    Args:
        table: the episodes.
        chunk_size: `L`, steps of an action chunk.
        segment_chunks: `T`, the most chunks of a segment.
        chunk_stride: `S`, frames from one chunk to the next.
        target_offset: `Δ`, frames from the chunk's first frame to the post-action observation.
        observation_features: the features that make up the observation, in this order.
        state_feature: the proprioceptive state.
        action_feature: the action.

    Raises:
        InputError: a size below 1, a missing feature (the nearest name is suggested), a value that is not finite, or
            chunks longer than every episode.
    """

    def __init__(
        self,
        table: EpisodeTable,
        *,
        chunk_size: int = 16,
        segment_chunks: int = 4,
        chunk_stride: int = 8,
        target_offset: int = 16,
        observation_features: Sequence[str] = ("observation.state",),
        state_feature: str = "observation.state",
        action_feature: str = "action",
    ) -> None:
        sizes = {
            "chunk_size": chunk_size,
            "segment_chunks": segment_chunks,
            "chunk_stride": chunk_stride,
            "target_offset": target_offset,
        }
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        if not observation_features:
            raise InputError("observation_features is empty; name at least one feature of the dataset")
        table.require_finite([*observation_features, state_feature, action_feature])
        longest = int(table.lengths.max())
        if chunk_size > longest:
            raise InputError(
                f"chunk_size {chunk_size} is longer than every episode of {table.source!r} "
                f"(the longest has {longest} frames); choose at most {longest}"
            )
        self.table = table
        self.chunk_size = chunk_size
        self.segment_chunks = segment_chunks
        self.chunk_stride = chunk_stride
        self.target_offset = target_offset

        observations = [_tensor(table.feature(name)) for name in observation_features]
        self.observation = observations[0] if len(observations) == 1 else torch.cat(observations, dim=1)
        self.state = _tensor(table.feature(state_feature))
        self.action = _tensor(table.feature(action_feature))
        self._task_index = _tensor(table.task_index)
        self._frame_id = _tensor(table.frame_id)
        self._episode_id = _tensor(np.repeat(table.episode_index, table.lengths))
        self._episode_end = _tensor(np.repeat(table.starts + table.lengths, table.lengths))

        # Frame f is chunk number f // S of its phase's chain, and the chain is cut every T chunks: a segment starts
        # wherever that number is a multiple of T.
        frame = table.frame_index
        first = np.flatnonzero((frame // chunk_stride) % segment_chunks == 0)
        remaining = np.repeat(table.lengths, table.lengths)[first] - frame[first]
        chunks = np.minimum(segment_chunks, (remaining - 1) // chunk_stride + 1)
        self._first_row = _tensor(first)
        self._chunks = _tensor(chunks)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The instructions that `task_index` points into."""
        return self.table.tasks

    @property
    def num_chunks(self) -> int:
        """Chunks in all segments: one for every frame."""
        return self.table.num_frames

    def __len__(self) -> int:
        return len(self._first_row)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The segment at `index`: see the table of keys above, without `segment_rows`.

        Raises:
            IndexError: `index` is outside the dataset.
        """
        item = self.__getitems__([index])
        del item["segment_rows"]
        return item

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The packed batch of some segments, equal to `pack_segments([self[i] for i in indices])`."""
        picked = torch.as_tensor(indices, dtype=torch.int64)
        if len(picked) and not (-len(self) <= int(picked.min()) and int(picked.max()) < len(self)):
            raise IndexError(f"segment index out of range for {len(self)} segments")
        chunks, order = _longest_first(self._chunks[picked])
        steps = torch.arange(self.segment_chunks)[:, None]
        present = steps < chunks
        rows = (self._first_row[picked][order] + self.chunk_stride * steps)[present]
        batch = self._chunks_at(rows)
        batch["segment_rows"] = _segment_rows(present)
        return batch

    def _chunks_at(self, rows: torch.Tensor) -> Batch:
        """The chunks that start at the given table rows, `(n,)`, as the item's keys."""
        end = self._episode_end[rows]
        steps = rows[:, None] + torch.arange(self.chunk_size)
        action_mask = steps < end[:, None]
        # The clamp only keeps the gather inside the table; what it fetches there is masked to zero.
        last = len(self.action) - 1
        actions = self.action[steps.clamp(max=last)].masked_fill(~action_mask[..., None], 0.0)
        targets = rows + self.target_offset
        next_valid = targets < end
        targets = targets.clamp(max=last)
        return {
            "observation": self.observation[rows],
            "state": self.state[rows],
            "actions": actions,
            "action_mask": action_mask,
            "next_observation": self.observation[targets].masked_fill(~next_valid[:, None], 0.0),
            "next_valid": next_valid,
            "target_offset": torch.full_like(rows, self.target_offset),
            "task_index": self._task_index[rows],
            "episode_index": self._episode_id[rows],
            "index": self._frame_id[rows],
            "target_index": self._frame_id[targets].masked_fill(~next_valid, -1),
        }


def pack_segments(segments: Sequence[dict[str, torch.Tensor]] | Batch) -> Batch:
    """Join segments into a batch over which the belief tokens walk; the collate function.

    Segments are sorted by their number of chunks, longest first (ties keep their order), and laid out step by step:
    first the first chunk of every segment, then the second chunk of every segment that has one, and so on. Row `j` of
    a step so continues row `j` of the step before, and a shorter step leaves out rows at its end only. No row is
    padding. `segment_rows` holds the rows of each step, e.g. `(64, 64, 50, 31)`; their sum is the batch's `N`.

    A batch that is packed already (what `SegmentDataset.__getitems__` returns) is returned as it is.

    Raises:
        ValueError: there is no segment.
    """
    if isinstance(segments, dict):
        return segments
    if not segments:
        raise ValueError("segments is empty; a batch needs at least one")
    chunks, order = _longest_first(torch.tensor([len(segment["index"]) for segment in segments]))
    steps = torch.arange(int(chunks[0]))[:, None]
    present = steps < chunks
    starts = torch.cumsum(chunks, dim=0) - chunks
    rows = (starts + steps)[present]
    batch: Batch = {key: torch.cat([segments[int(j)][key] for j in order], dim=0)[rows] for key in segments[0]}
    batch["segment_rows"] = _segment_rows(present)
    return batch


def _longest_first(chunks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Chunk counts `(n,)` in falling order, and the stable order that sorts them."""
    ordered, order = torch.sort(chunks, descending=True, stable=True)
    return ordered, order


def _segment_rows(present: torch.Tensor) -> tuple[int, ...]:
    """Rows of each step from `(T, n)` bool, without steps that no segment reaches."""
    return tuple(count for count in present.sum(dim=1).tolist() if count)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, sharing its memory; a read-only array is copied, since tensors are always writable."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
