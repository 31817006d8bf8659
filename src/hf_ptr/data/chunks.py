"""Episodes cut into action chunks, each with the observation that followed it (PTR Sec. 2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.images import CameraImages
from hf_ptr.errors import InputError

Batch = dict[str, Any]


class ChunkDataset(Dataset[dict[str, torch.Tensor]]):
    """One action chunk for every frame: what was observed, what was done next, and what was observed after.

    The chunk of frame `f` holds the actions of frames `f .. f + chunk_size - 1`. Steps past the end of the episode are
    padded and masked. The target is the observation `target_offset` frames after `f` (`o_{t+Δ}`, PTR Sec. 2); where
    the episode ends before, it is invalid and never clamped to the last frame.

    Consecutive chunks of a *segment* start `chunk_stride` frames apart (PTR Sec. 3): each phase `0 .. chunk_stride-1`
    of an episode is one chain of chunks, cut into segments of `segment_chunks`, so that every frame starts exactly
    one chunk of one segment. [`SegmentBatches`] walks them.

    With `do`, `ds`, `da` the widths of observation, state and action, and `L = chunk_size`, an item is:

    | key | shape | |
    |---|---|---|
    | `observation` | `(do,)` | the observation features side by side, raw units; what cameras saw is (*) |
    | `state` | `(ds,)` | proprioception |
    | `actions` | `(L, da)` | zeros where padded |
    | `action_mask` | `(L,)` bool | True where the step lies in the episode |
    | `next_observation` | as `observation` | the observation at `t + Δ`, zeros where invalid |
    | `has_target` | bool | `t + Δ` lies in the episode |
    | `target_offset` | int64 | `Δ` in frames |
    | `task_index`, `episode_index` | int64 | into `tasks`; the id in the dataset |
    | `index` | int64 | `frame_id` of the chunk's first frame |
    | `target_index` | int64 | `observed_id` of the target: which recorded frame it is (-1: invalid) |
    | `previous_index` | int64 | `index` of the chunk before in the segment (-1: this is its first) |
    | `weight` | float32 | how much the chunk counts; only where `weights` were given |

    (*) `(cameras, height, width, 3)` uint8 RGB. A batch holds the same keys with the chunks as first dimension N.

    Args:
        table: the episodes.
        chunk_size: `L`, steps of an action chunk.
        segment_chunks: `T`, the most chunks of a segment.
        chunk_stride: `S`, frames from one chunk of a segment to the next; below `chunk_size` the belief tokens of a
            chunk would hold actions that the next one is to predict.
        target_offset: `Δ`, frames from the chunk's first frame to the post-action observation.
        observation_features: the features that make up the observation, in this order: vectors, or cameras.
        state_feature: the proprioceptive state.
        action_feature: the action.
        image_size: height and width to which pictures are scaled; one number is both.
        weights: `(F,)`, at least 0, how much each chunk counts, as `read_weights` gives them; all alike without.

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
        chunk_stride: int = 16,
        target_offset: int = 16,
        observation_features: Sequence[str] = ("observation.state",),
        state_feature: str = "observation.state",
        action_feature: str = "action",
        image_size: int | tuple[int, int] = 96,
        weights: np.ndarray | None = None,
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
        cameras = [name for name in observation_features if name not in table.columns and name in table.videos]
        if cameras and len(cameras) < len(observation_features):
            vectors = ", ".join(name for name in observation_features if name not in cameras)
            raise InputError(
                f"observation_features mix the camera {cameras[0]!r} with {vectors}; name cameras alone, and the "
                "vector as state_feature"
            )
        table.require_finite([*([] if cameras else observation_features), state_feature, action_feature])
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
        self.observation_features = tuple(observation_features)
        self.state_feature = state_feature
        self.action_feature = action_feature

        self.observation: torch.Tensor | CameraImages
        if cameras:
            height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
            self.observation = CameraImages(table, cameras, (height, width))
        else:
            observations = [shared_tensor(table.feature(name)) for name in observation_features]
            self.observation = observations[0] if len(observations) == 1 else torch.cat(observations, dim=1)
        self.state = shared_tensor(table.feature(state_feature))
        self.action = shared_tensor(table.feature(action_feature))
        self.weights = None if weights is None else _weights_of(table, weights)
        self._task_index = shared_tensor(table.task_index)
        self._frame_id = shared_tensor(table.frame_id)
        self._observed_id = shared_tensor(table.observed_id)
        self._episode_id = shared_tensor(table.episode_index)
        self._begin, self._end = shared_tensor(table.starts), torch.from_numpy(table.starts + table.lengths)

    @property
    def images(self) -> CameraImages | None:
        """What the cameras saw; None where the observation is vectors."""
        return self.observation if isinstance(self.observation, CameraImages) else None

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that make up the observation; none where it is vectors."""
        return () if self.images is None else self.observation_features

    @property
    def tasks(self) -> tuple[str, ...]:
        """The instructions that `task_index` points into."""
        return self.table.tasks

    def weighted(self, weights: np.ndarray) -> ChunkDataset:
        """The same chunks, sharing their memory, each counting as much as `weights (F,)` say."""
        other = copy.copy(self)
        other.weights = _weights_of(self.table, weights)
        return other

    def segment_starts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """First row and number of chunks of every segment, each `(segments,)` int64."""
        starts = torch.nonzero(self._starts_segment(shared_tensor(self.table.frame_index))).squeeze(1)
        frames_left = self._end[self._episode_of(starts)] - starts
        counts = torch.div(frames_left - 1, self.chunk_stride, rounding_mode="floor") + 1
        return starts, counts.clamp(max=self.segment_chunks)

    def draw_segments(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`segment_starts` in the order of an epoch: shuffled by `generator`, or as they come."""
        starts, counts = self.segment_starts()
        order = slice(None) if generator is None else torch.randperm(len(starts), generator=generator)
        return starts[order], counts[order]

    def __len__(self) -> int:
        return len(self.action)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The chunk of the table's row `index`.

        Raises:
            IndexError: `index` is outside the dataset.
        """
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of some chunks, by which PyTorch's `DataLoader` gets them all at once."""
        rows = checked_rows(indices, len(self))
        batch = self.without_observations(rows)
        last = len(self.action) - 1
        targets = (rows + self.target_offset).clamp(max=last)
        batch["observation"], batch["next_observation"] = self._observed(rows, targets, batch["has_target"])
        return batch

    def without_observations(self, rows: torch.Tensor) -> Batch:
        """The batch of the chunks at `rows (N,)`, all of 0 or more, but for what was observed: nothing is decoded."""
        episode = self._episode_of(rows)
        end = self._end[episode]
        first = self._starts_segment(rows - self._begin[episode])
        previous = self._frame_id[torch.where(first, rows, rows - self.chunk_stride)]
        steps = rows[:, None] + torch.arange(self.chunk_size)
        action_mask = steps < end[:, None]
        # The clamp only keeps the gather inside the table; what it fetches there is masked to zero.
        last = len(self.action) - 1
        actions = self.action[steps.clamp(max=last)].masked_fill(~action_mask[..., None], 0.0)
        targets = rows + self.target_offset
        has_target = targets < end
        targets = targets.clamp(max=last)
        weight = {} if self.weights is None else {"weight": self.weights[rows]}
        return {
            **weight,
            "state": self.state[rows],
            "actions": actions,
            "action_mask": action_mask,
            "has_target": has_target,
            "target_offset": torch.full_like(rows, self.target_offset),
            "task_index": self._task_index[rows],
            "episode_index": self._episode_id[episode],
            "index": self._frame_id[rows],
            "target_index": self._observed_id[targets].masked_fill(~has_target, -1),
            "previous_index": previous.masked_fill(first, -1),
        }

    def _episode_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The position of the episode that each row lies in."""
        return torch.searchsorted(self._end, rows, right=True)

    def _starts_segment(self, frame: torch.Tensor) -> torch.Tensor:
        """Whether the chunks of some frames, counted from the start of their episodes, are the first of a segment."""
        # Frame f is chunk number f // S of its phase's chain, and the chain is cut every T chunks.
        return (frame // self.chunk_stride) % self.segment_chunks == 0

    def _observed(
        self, rows: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The observations at `rows (N,)` and at `targets (N,)`, zeros where a target is not valid."""
        # At once, so that pictures which both want are decoded once and each file is gone through once.
        # Where there is no target, what the chunk itself sees is taken, which is there already, and set to zero.
        wanted, place = torch.unique(torch.cat((rows, torch.where(valid, targets, rows))), return_inverse=True)
        seen = self.observation[wanted]
        # index_select copies whole pictures; brackets would copy byte by byte.
        following = seen.index_select(0, place[len(rows) :])
        following.numpy()[~valid.numpy()] = 0
        return seen.index_select(0, place[: len(rows)]), following


def checked_rows(indices: Sequence[int], chunks: int) -> torch.Tensor:
    """
    The rows `(N,)` of `indices` among so many chunks; negative ones count from the end.

    Raises:
        IndexError: one is outside.
    """
    rows = torch.as_tensor(indices, dtype=torch.int64)
    if len(rows) and not (-chunks <= int(rows.min()) and int(rows.max()) < chunks):
        raise IndexError(f"chunk index out of range for {chunks} chunks")
    return rows % chunks


def _weights_of(table: EpisodeTable, weights: np.ndarray) -> torch.Tensor:
    if weights.shape != (table.num_frames,):
        raise InputError(f"weights have the shape {weights.shape}, not ({table.num_frames},)")
    return shared_tensor(np.asarray(weights, dtype=np.float32))


def shared_tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, sharing its memory; a read-only array is copied, since tensors are always writable."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
