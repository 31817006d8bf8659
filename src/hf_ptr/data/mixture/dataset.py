"""Datasets of several robots combined into one dataset of chunks, in the unified action space (PTR Sec. 11)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_ptr.data.chunks import Batch, ChunkBatch, ChunkDataset, checked_rows
from hf_ptr.data.mixture.robots import observes_state
from hf_ptr.data.mixture.sources import Source
from hf_ptr.data.statistics import CONSTANT_BELOW
from hf_ptr.embodiment import UnifiedActionSpace
from hf_ptr.errors import InputError

# Frame and episode ids of a source are shifted by its number times this stride, which exceeds the ids of any dataset.
SOURCE_STRIDE = 2**42


class MixtureDataset(Dataset[dict[str, torch.Tensor]]):
    """
    The chunks of several sources, concatenated. Items are those of [`ChunkDataset`] with these changes:

    | key | shape | |
    |---|---|---|
    | `actions` | `(L, 200)` | unified, zeros in slots without a dimension of the robot |
    | `action_dim_mask` | `(200,)` bool | the slots of its action |
    | `state` | `(200,)` | unified |
    | `state_dim_mask` | `(200,)` bool | the slots of its state |
    | `source_index` | int64 | into `source_names` |
    | `weight` | float32 | only if a source has weights; 1 for the other sources |

    `observation` contains camera images, vectors with the same meaning for every robot, or the unified state. `index`,
    `target_index`, `previous_index` and `episode_index` are shifted to be unique over all sources; `task_index` refers
    to `tasks`, the instructions of all sources.

    [`SegmentBatches`] draws an epoch of `len(self)` chunks, with each source's share given by its weight. A source
    that is too small is repeated; of a source that is too large, every epoch uses a different part.

    Args:
        sources: at least one source; names must differ.
        chunk_size, segment_chunks, chunk_stride: as for [`ChunkDataset`].
        target_offset: `Δ` of sources without their own.
        observation_features: cameras, or vectors of equal widths, available in every source; the state by default.
        state_feature, action_feature: features under the mixture's names.
        image_size: height and width to which images are scaled.
        tasks: instructions that `task_index` refers to; those of all sources by default.

    Raises:
        InputError: as for [`ChunkDataset`], or two sources have equal names or observations of different widths.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        chunk_size: int = 16,
        segment_chunks: int = 4,
        chunk_stride: int = 16,
        target_offset: int = 16,
        observation_features: Sequence[str] = (),
        state_feature: str = "observation.state",
        action_feature: str = "action",
        image_size: int | tuple[int, int] = 96,
        tasks: Sequence[str] | None = None,
    ) -> None:
        if not sources:
            raise InputError("a mixture needs at least one source")
        self.sources = tuple(sources)
        self.source_names = tuple(source.name for source in sources)
        repeated = [name for name in self.source_names if self.source_names.count(name) > 1]
        if repeated:
            raise InputError(f"two sources are named {repeated[0]!r}; rename one")
        self.observation_features = tuple(observation_features) or (state_feature,)
        self._observes_state = observes_state(self.observation_features, state_feature)
        self.parts = [
            ChunkDataset(
                source.table,
                chunk_size=chunk_size,
                segment_chunks=segment_chunks,
                chunk_stride=chunk_stride,
                target_offset=target_offset if source.spec.target_offset is None else source.spec.target_offset,
                observation_features=self.observation_features,
                state_feature=state_feature,
                action_feature=action_feature,
                image_size=image_size,
                weights=source.weights,
            )
            for source in sources
        ]
        self.cameras = self.parts[0].cameras
        if not (self.cameras or self._observes_state):
            _require_same_widths(self.sources, self.observation_features)
        self._weighted = any(part.weights is not None for part in self.parts)
        self.chunk_size = chunk_size
        self.segment_chunks = segment_chunks
        self.chunk_stride = chunk_stride
        # Default for scoring a single dataset with the policy.
        self.target_offset = self.parts[0].target_offset
        self.tasks = tuple(tasks or dict.fromkeys(task for source in sources for task in source.table.tasks))
        number_of = {task: number for number, task in enumerate(self.tasks)}
        self._task_numbers = [torch.tensor([number_of[task] for task in source.table.tasks]) for source in sources]
        ends = np.cumsum([len(part) for part in self.parts])
        self._starts = torch.tensor([0, *ends[:-1].tolist()])
        self._space = UnifiedActionSpace()
        self._masks = {
            kind: torch.stack([source.robot.mask(kind) for source in sources]) for kind in ("state", "action")
        }

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def with_weights(self, weights: np.ndarray) -> MixtureDataset:
        """The same chunks with other weights `(chunks,)`; all tensors but the weights are shared."""
        other = copy.copy(self)
        own = np.split(weights, np.cumsum([len(part) for part in self.parts])[:-1])
        other.parts = [part.with_weights(mine) for part, mine in zip(self.parts, own, strict=True)]
        other._weighted = True
        return other

    @property
    def weights(self) -> torch.Tensor | None:
        """`(chunks,)`, weight of each chunk; None if no source has weights."""
        if not self._weighted:
            return None
        return torch.cat([torch.ones(len(part)) if part.weights is None else part.weights for part in self.parts])

    @property
    def shares(self) -> np.ndarray:
        """`(sources,)`, the share `π_m` of each source in an epoch; they sum to 1."""
        weights = np.array([source.spec.weight for source in self.sources], dtype=np.float64)
        return weights / weights.sum()

    @property
    def epoch_chunks(self) -> list[int]:
        """Number of chunks of each source in an epoch; they sum to `len(self)`."""
        exact = self.shares * len(self)
        counts = np.floor(exact).astype(np.int64)
        rest = np.argsort(counts - exact, kind="stable")[: len(self) - int(counts.sum())]
        counts[rest] += 1
        return counts.tolist()

    def draw_segments(self, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        First row and number of chunks of the segments of an epoch, each `(segments,)` int64.

        Args:
            generator: random generator of the draw; without one, every segment once, source by source.
        """
        drawn = []
        for part, offset, wanted in zip(self.parts, self._starts.tolist(), self.epoch_chunks, strict=True):
            starts, counts = part.segment_starts()
            if generator is not None:
                passes = [torch.randperm(len(starts), generator=generator) for _ in range(-(-wanted // len(part)))]
                order = torch.cat(passes) if passes else torch.empty(0, dtype=torch.int64)
                starts, counts = starts[order], counts[order]
                before = torch.cumsum(counts, dim=0) - counts
                # The last segment is cut, so that all epochs have equal length.
                counts = torch.minimum(counts, wanted - before).clamp(min=0)
                starts, counts = starts[counts > 0], counts[counts > 0]
            drawn.append((starts + offset, counts))
        starts, counts = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        if generator is not None:
            order = torch.randperm(len(starts), generator=generator)
            starts, counts = starts[order], counts[order]
        return starts, counts

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The chunk of row `index`.

        Raises:
            IndexError: `index` is outside the dataset.
        """
        return {key: value[0] for key, value in self.batch([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> ChunkBatch:
        """The chunks of a batch, fetched at once. PyTorch's `DataLoader` calls this instead of `__getitem__`."""
        return ChunkBatch(self.batch(indices))

    def batch(self, indices: Sequence[int]) -> Batch:
        """The chunks of the rows `indices` as one batch: the item's keys, each with first dimension N.

        Raises:
            IndexError: an index is outside the dataset.
        """
        rows = checked_rows(indices, len(self))
        number = torch.searchsorted(self._starts, rows, right=True) - 1
        batch: Batch = {}
        for source in torch.unique(number).tolist():
            positions = torch.nonzero(number == source).squeeze(1)
            part = self._part(source, (rows[positions] - self._starts[source]).tolist())
            for key, value in part.items():
                if key not in batch:
                    batch[key] = value.new_zeros((len(rows), *value.shape[1:]))
                batch[key][positions] = value
        batch["source_index"] = number
        for kind, masks in self._masks.items():
            batch[f"{kind}_dim_mask"] = masks[number]
        return batch

    def _part(self, number: int, rows: list[int]) -> Batch:
        """The batch of one source's chunks in the common format."""
        batch = self.parts[number].batch(rows)
        robot = self.sources[number].robot.embodiment
        batch["actions"] = self._space.unify(batch["actions"], robot, "action")
        batch["state"] = self._space.unify(batch["state"], robot, "state")
        if self._observes_state:
            for key in ("observation", "next_observation"):
                batch[key] = self._space.unify(batch[key], robot, "state")
        if self._weighted:
            batch.setdefault("weight", torch.ones(len(rows)))
        batch["task_index"] = self._task_numbers[number][batch["task_index"]]
        shift = number * SOURCE_STRIDE
        batch["episode_index"] = batch["episode_index"] + shift
        for key in ("index", "target_index", "previous_index"):
            batch[key] = torch.where(batch[key] < 0, batch[key], batch[key] + shift)
        return batch

    def normalization(self, kind: str) -> dict[str, np.ndarray]:
        """
        Mean and standard deviation of each slot over the sources that use it, weighted by their shares.

        Args:
            kind: `"state"`, `"action"`, or `"observation"` if this is a vector.

        Returns:
            `mean` and `std`, each `(200,)` float32, with 0 and 1 in unused slots; each `(do,)` for an observation
            other than the state.
        """
        if kind == "observation" and self._observes_state:
            kind = "state"
        moments = []
        for source, part, share in zip(self.sources, self.parts, self.shares, strict=True):
            values = getattr(part, kind).double()
            own = torch.stack((torch.ones_like(values[0]), values.mean(dim=0), (values**2).mean(dim=0)))
            common = own if kind == "observation" else self._space.unify(own, source.robot.embodiment, kind)
            moments.append(share * common.numpy())
        total, mean, square = np.sum(moments, axis=0)
        filled = np.where(total > 0, total, 1.0)
        mean, square = mean / filled, square / filled
        std = np.sqrt(np.maximum(square - mean**2, 0.0))
        std[std <= CONSTANT_BELOW * np.maximum(1.0, np.abs(mean))] = 1.0
        return {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}

    def to_dict(self) -> list[dict[str, Any]]:
        """The content of `mixture.json`: all that is needed to run a policy of the mixture, for each source."""
        return [source.to_dict() for source in self.sources]


# A training set: one dataset of chunks, or several.
Chunks = ChunkDataset | MixtureDataset


def _require_same_widths(sources: Sequence[Source], names: Sequence[str]) -> None:
    """Check that observation vectors, which have the same meaning for every robot, have the same widths."""
    first = sources[0]
    for source in sources[1:]:
        for name in names:
            widths = [one.table.feature(name).shape[1] for one in (first, source)]
            if len(set(widths)) > 1:
                raise InputError(
                    f"{name!r} has {widths[0]} dimensions in source {first.name} and {widths[1]} in {source.name}; "
                    "an observation must have the same meaning for every robot"
                )
