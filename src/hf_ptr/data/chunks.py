"""Episodes cut into action chunks, each with the observation that followed it (PTR Sec. 2)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import CACHE_BYTES, FrameReader
from hf_ptr.errors import InputError, nearest

Batch = dict[str, Any]


class ChunkBatch(Sequence[dict[str, torch.Tensor]]):
    """
    A batch of chunks as a sequence of items, backed by tensors that are stacked already.

    A `DataLoader` passes the result of `__getitems__` to its `collate_fn`. PyTorch's default collate iterates over the
    items and stacks them. [`ChunkCollator`] takes `columns` as they are, which avoids the loop over samples and one
    copy of every image.

    Args:
        columns: the batch by key, each tensor with the chunks as first dimension.

    Attributes:
        columns: the same mapping.
    """

    def __init__(self, columns: Mapping[str, torch.Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["index"])

    @overload
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> ChunkBatch: ...
    def __getitem__(self, index: int | slice) -> dict[str, torch.Tensor] | ChunkBatch:
        part = {key: values[index] for key, values in self.columns.items()}
        return ChunkBatch(part) if isinstance(index, slice) else part

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rows = zip(*(values.unbind() for values in self.columns.values()), strict=True)
        return (dict(zip(self.columns, row, strict=True)) for row in rows)


class CameraImages:
    """
    The images of one or several cameras at any rows of a table, decoded on demand.

    Args:
        table: the episodes.
        cameras: video or image features, in this order.
        size: height and width to which all images are scaled.
        cache_bytes: limit on the decoded images kept in memory, over all cameras, and over all processes of this
            machine that load batches: the workers of a `DataLoader`, for each device.

    Raises:
        InputError: an unknown camera (the nearest name is suggested), or an episode without a video.
    """

    def __init__(
        self, table: EpisodeTable, cameras: Sequence[str], size: tuple[int, int], cache_bytes: int = CACHE_BYTES
    ):
        if min(size) < 1:
            raise InputError(f"image_size is {size}; height and width must be at least 1")
        self.size = size
        self.readers = []
        for camera in cameras:
            clips = table.videos.get(camera)
            if clips is None:
                known = ", ".join(table.videos) or "none"
                hint = nearest(camera, table.videos)
                raise InputError(f"dataset {table.source!r} has no camera {camera!r} (it has: {known}).{hint}")
            missing = [episode for episode in table.episode_index.tolist() if episode not in clips]
            if missing:
                raise InputError(
                    f"episode {missing[0]} of {table.source!r} has no video of {camera!r}; leave it out", skip=missing
                )
            self.readers.append(FrameReader(camera, clips, table.video_fps, size, cache_bytes // len(cameras)))
        self._episode = np.repeat(table.episode_index, table.lengths)
        self._frame = table.video_frame

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """The images at `rows (N,)`: `(N, cameras, height, width, 3)` uint8 RGB."""
        episodes, frames = self._episode[rows.numpy()], self._frame[rows.numpy()]
        if not len(rows):
            return torch.zeros((0, len(self.readers), *self.size, 3), dtype=torch.uint8)
        images = np.empty((len(rows), len(self.readers), *self.size, 3), dtype=np.uint8)
        sharers = _loading_processes()
        for camera, reader in enumerate(self.readers):
            reader.sharers = sharers
            reader.read(episodes, frames, out=images[:, camera])
        return torch.from_numpy(images)


def _refuse_earlier_action(name: str, action_feature: str) -> None:
    """Refuse `NAME@-K` of the action, whatever its name: in the first frames it is the action to predict."""
    actions = {part.strip() for part in action_feature.split(",")}
    for part in (part.strip() for part in name.split(",")):
        now, at, _ = part.partition("@-")
        if at and now in actions:
            raise InputError(f"{part!r} is an earlier action, which cannot be observed: {now!r} is the action feature")


def _loading_processes() -> int:
    """The number of processes of this machine that load batches as this one does."""
    worker, devices = get_worker_info(), os.environ.get("LOCAL_WORLD_SIZE", "1")
    return (1 if worker is None else worker.num_workers) * (int(devices) if devices.isdecimal() else 1)


class ChunkDataset(Dataset[dict[str, torch.Tensor]]):
    """A dataset with one action chunk for every frame: observation, actions, and the observation that followed.

    The chunk of frame `f` contains the actions of frames `f .. f + chunk_size - 1`. Steps past the end of the episode
    are padded and masked. The target is the observation `target_offset` frames after `f` (`o_{t+Δ}`, PTR Sec. 2). If
    the episode ends earlier, the chunk has no target; the last frame is never used instead.

    Consecutive chunks of a *segment* start `chunk_stride` frames apart (PTR Sec. 3): each phase `0 .. chunk_stride-1`
    of an episode is one chain of chunks, cut into segments of `segment_chunks`, so that every frame starts exactly
    one chunk of one segment. [`SegmentBatches`] iterates over segments in order.

    The dataset works in any `DataLoader`, with the default collate function too:

    ```python
    chunks = ChunkDataset(read_dataset("demos"), chunk_size=16)
    for batch in torch.utils.data.DataLoader(chunks, batch_size=8, shuffle=True):
        batch["observation"], batch["actions"], batch["action_mask"]
    ```

    With `do`, `ds`, `da` the widths of observation, state and action, and `L = chunk_size`, an item is:

    | key | shape | |
    |---|---|---|
    | `observation` | `(do,)` | the observation features concatenated, in raw units; for cameras see (*) |
    | `state` | `(ds,)` | proprioception |
    | `actions` | `(L, da)` | zeros where padded |
    | `action_mask` | `(L,)` bool | True for steps within the episode |
    | `next_observation` | as `observation` | the observation at `t + Δ`, zeros without a target |
    | `has_target` | bool | whether `t + Δ` is within the episode, without a pause of the recording before it |
    | `target_offset` | int64 | `Δ` in frames |
    | `task_index`, `episode_index` | int64 | index into `tasks`; the episode's id in the dataset |
    | `index` | int64 | `frame_id` of the chunk's first frame |
    | `target_index` | int64 | `observed_id` of the target: which recorded frame it is (-1: no target) |
    | `previous_index` | int64 | `index` of the previous chunk of the segment (-1: first chunk) |
    | `weight` | float32 | weight of the chunk; only if `weights` were given |

    (*) `(cameras, height, width, 3)` uint8 RGB. A batch has the same keys with the chunks as first dimension N.

    Args:
        table: the episodes.
        chunk_size: `L`, steps of an action chunk.
        segment_chunks: `T`, maximum number of chunks in a segment.
        chunk_stride: `S`, frames from one chunk of a segment to the next. If it is below `chunk_size`, the belief
            tokens of a chunk contain actions that the next chunk has to predict.
        target_offset: `Δ`, frames from the chunk's first frame to the post-action observation.
        observation_features: the features that make up the observation, in this order: vectors, or cameras.
        state_feature: the proprioceptive state.
        action_feature: the action.
        image_size: height and width to which images are scaled; a single number stands for both.
        weights: `(F,)`, nonnegative weight of each chunk, as returned by `read_weights`; equal weights by default.

    Raises:
        InputError: a size below 1, a missing feature (the nearest name is suggested), an earlier action among the
            observations, a value that is not finite, or chunks longer than every episode.
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
        for name in observation_features:
            if name not in table.videos:
                table.feature(name)
        for name in (*observation_features, state_feature):
            _refuse_earlier_action(name, action_feature)
        if cameras and len(cameras) < len(observation_features):
            vectors = ", ".join(name for name in observation_features if name not in cameras)
            raise InputError(
                f"observation_features mix the camera {cameras[0]!r} with the vectors {vectors}; list cameras only, "
                "and pass the vector as state_feature"
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
        self._stretch = shared_tensor(table.stretch)
        self._begin, self._end = shared_tensor(table.starts), torch.from_numpy(table.starts + table.lengths)

    @property
    def images(self) -> CameraImages | None:
        """The images of the cameras; None if the observation is a vector."""
        return self.observation if isinstance(self.observation, CameraImages) else None

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that make up the observation; empty if it is a vector."""
        return () if self.images is None else self.observation_features

    @property
    def tasks(self) -> tuple[str, ...]:
        """The instructions that `task_index` refers to."""
        return self.table.tasks

    def with_weights(self, weights: np.ndarray) -> ChunkDataset:
        """The same chunks with other weights `(F,)`; all tensors but the weights are shared."""
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
        """`segment_starts` in the order of an epoch: shuffled by `generator`, or in table order without one."""
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
        return {key: value[0] for key, value in self.batch([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> ChunkBatch:
        """The chunks of a batch, fetched at once. PyTorch's `DataLoader` calls this instead of `__getitem__`."""
        return ChunkBatch(self.batch(indices))

    def batch(self, indices: Sequence[int]) -> Batch:
        """The chunks of the table's rows `indices` as one batch: the item's keys, each with first dimension N.

        Raises:
            IndexError: an index is outside the dataset.
        """
        rows = checked_rows(indices, len(self))
        batch = self.without_observations(rows)
        last = len(self.action) - 1
        targets = (rows + self.target_offset).clamp(max=last)
        batch["observation"], batch["next_observation"] = self._observed(rows, targets, batch["has_target"])
        return batch

    def without_observations(self, rows: torch.Tensor) -> Batch:
        """`batch` of the nonnegative `rows (N,)` without `observation` and `next_observation`; decodes nothing."""
        episode = self._episode_of(rows)
        end = self._end[episode]
        first = self._starts_segment(rows - self._begin[episode])
        previous = self._frame_id[torch.where(first, rows, rows - self.chunk_stride)]
        steps = rows[:, None] + torch.arange(self.chunk_size)
        action_mask = steps < end[:, None]
        # The clamp only keeps the gather inside the table; the values fetched there are masked to zero.
        last = len(self.action) - 1
        actions = self.action[steps.clamp(max=last)].masked_fill(~action_mask[..., None], 0.0)
        targets = rows + self.target_offset
        has_target = targets < end
        targets = targets.clamp(max=last)
        # What was observed after a pause of the recording does not follow from the action.
        has_target &= self._stretch[targets] == self._stretch[rows]
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
        """The position of each row's episode."""
        return torch.searchsorted(self._end, rows, right=True)

    def _starts_segment(self, frame: torch.Tensor) -> torch.Tensor:
        """Whether the chunks at these frames, counted from the start of their episodes, are the first of a segment."""
        # Frame f is chunk number f // S of its phase's chain, and the chain is cut every T chunks.
        return (frame // self.chunk_stride) % self.segment_chunks == 0

    def _observed(
        self, rows: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The observations at `rows (N,)` and at `targets (N,)`, zeros where a target is not valid."""
        # One read for both, so that an image needed twice is decoded once and each file is read in one pass. A chunk
        # without a target uses its own observation, which is decoded anyway, and then sets it to zero.
        wanted, position = torch.unique(torch.cat((rows, torch.where(valid, targets, rows))), return_inverse=True)
        seen = self.observation[wanted]
        # index_select copies whole images; indexing with brackets copies byte by byte.
        following = seen.index_select(0, position[len(rows) :])
        following.numpy()[~valid.numpy()] = 0
        return seen.index_select(0, position[: len(rows)]), following


def checked_rows(indices: Sequence[int], chunks: int) -> torch.Tensor:
    """
    `indices` as rows `(N,)` in `0 .. chunks - 1`; negative indices count from the end.

    Raises:
        IndexError: an index is out of range.
    """
    rows = torch.as_tensor(indices, dtype=torch.int64)
    if len(rows) and not (-chunks <= int(rows.min()) and int(rows.max()) < chunks):
        raise IndexError(f"chunk index out of range for {chunks} chunks")
    return rows % chunks


def _weights_of(table: EpisodeTable, weights: np.ndarray) -> torch.Tensor:
    if weights.shape != (table.num_frames,):
        raise InputError(f"weights have shape {weights.shape}, expected ({table.num_frames},): one for each frame")
    with np.errstate(over="ignore"):  # A value beyond float32 becomes infinite, and is refused below.
        tensor = shared_tensor(np.asarray(weights, dtype=np.float32))
    wrong = torch.nonzero(~(torch.isfinite(tensor) & (tensor >= 0)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"the weight of frame {table.frame_id[row]} of {table.source!r} is {weights[row]}; weights must be finite "
            "and at least 0"
        )
    if len(tensor) and not tensor.any():
        raise InputError(f"every weight of {table.source!r} is 0; nothing would be learned")
    return tensor


def shared_tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor that shares its memory; a read-only array is copied, since tensors are always writable."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
