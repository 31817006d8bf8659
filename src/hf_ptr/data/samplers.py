"""The order in which chunks are trained on: segment after segment (PTR Sec. 3), or drawn in proportion to weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.errors import InputError


class SegmentBatches(Sampler[list[int]]):
    """
    A batch sampler in which row `j` of a batch continues row `j` of the previous batch while its segment lasts.

    All segments, shuffled, are concatenated, and this sequence of chunks is folded into `batch_size` lines of equal
    length; a batch is one column. Every batch is therefore full and mixes first, second, … chunks of as many segments
    as it has rows, every chunk occurs once per epoch, and the belief tokens of a chunk are those that its predecessor
    produced one training step earlier. A segment cut by the fold is restarted with initial belief tokens. The
    micro-batches of a step and the ranks share one column, so the chunks of a step do not depend on how they are
    distributed.

    Args:
        dataset: the chunks.
        batch_size: chunks in a batch on each rank.
        shuffle: whether segments are shuffled; the order depends on `(seed, epoch)` alone.
        seed: seed of the shuffle.
        rank, ranks: index of this process and number of processes. Each process iterates over its own lines, and all
            produce the same number of batches.
        parts: micro-batches of an optimiser step.
        whole: with several ranks, whether the remaining chunks that do not fill a step are included, padded with the
            first chunks; otherwise they are dropped.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(
        self,
        dataset: Chunks,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        parts: int = 1,
        whole: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.parts = parts
        self.epoch = 0
        self.whole = whole
        # accelerate reads both attributes of a batch sampler; by the second it drops the padding of the last batch.
        self.drop_last = ranks > 1 and not whole
        self.num_processes = ranks

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch whose order the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        columns, rest = divmod(len(self.dataset), self.batch_size * self.ranks * self.parts)
        if self.drop_last or not rest:
            return columns * self.parts
        return columns * self.parts + (self.parts if self.ranks > 1 else -(-rest // self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        rows = self._rows()
        mine = self.batch_size * self.parts
        lines = mine * self.ranks
        columns = len(rows) // lines
        folded = rows[: lines * columns].view(lines, columns)[self.rank * mine : (self.rank + 1) * mine]
        for column in range(columns):
            for part in folded[:, column].split(self.batch_size):
                yield part.tolist()
        if not self.drop_last and lines * columns < len(rows):
            rest = rows[lines * columns :]
            if self.ranks > 1:
                padded = torch.cat((rest, rows.repeat(-(-lines // len(rows)))))
                rest = padded[self.rank * mine : (self.rank + 1) * mine]
            for part in rest.split(self.batch_size):
                yield part.tolist()

    def _rows(self) -> torch.Tensor:
        """The rows of all chunks in the order of the epoch, segment after segment: `(F,)`."""
        generator = _epoch_generator(self.seed, self.epoch) if self.shuffle else None
        starts, counts = self.dataset.draw_segments(generator)
        before = torch.cumsum(counts, dim=0) - counts
        position = torch.arange(int(counts.sum())) - torch.repeat_interleave(before, counts)
        return torch.repeat_interleave(starts, counts) + position * self.dataset.chunk_stride


class WeightedChunkSampler(Sampler[int]):
    """
    Draws chunks with replacement, each with probability proportional to its weight.

    This trains any policy on the weights of a score file without changing its loss: a chunk of weight 2 is drawn
    twice as often as one of weight 1, and a chunk of weight 0 never. Do not multiply the loss by the weights as well.

    ```python
    table = read_dataset("demos")
    sampler = WeightedChunkSampler(read_weights("scores.parquet", table), seed=0)
    loader = DataLoader(ChunkDataset(table), batch_size=64, sampler=sampler)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for batch in loader: ...
    ```

    An epoch's draws depend on `(seed, epoch)` alone, so that training resumed at an epoch repeats the same draws. In
    contrast to `torch.utils.data.WeightedRandomSampler`, the state of no generator has to be saved, and more than
    2^24 chunks are possible.

    Args:
        weights: `(F,)`, nonnegative weight of each chunk, as returned by `read_weights`.
        num_samples: draws per epoch; by default one for each chunk of positive weight.
        seed: seed of the draws.

    Raises:
        InputError: a weight is negative or not finite, all weights are 0, the shape is not `(F,)`, or `num_samples` is
            below 1.
    """

    def __init__(self, weights: np.ndarray | torch.Tensor, num_samples: int | None = None, *, seed: int = 0) -> None:
        values = torch.as_tensor(weights, dtype=torch.float64)
        if values.ndim != 1:
            raise InputError(f"weights have shape {tuple(values.shape)}, expected (F,): one for each chunk")
        wrong = torch.nonzero(~(values.isfinite() & (values >= 0)))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"the weight of chunk {row} is {float(values[row])}; weights must be finite and at least 0"
            )
        positive = torch.nonzero(values)
        if not len(positive):
            raise InputError("all weights are 0; no chunk can be drawn")
        if num_samples is not None and num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; it must be at least 1")
        self.num_samples = len(positive) if num_samples is None else num_samples
        self.seed = seed
        self.epoch = 0
        self._cumulative = values.cumsum(0)
        self._last = int(positive[-1])

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch whose draws the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = _epoch_generator(self.seed, self.epoch)
        drawn = torch.rand(self.num_samples, generator=generator, dtype=torch.float64) * self._cumulative[-1]
        # Rounding may bring a draw up to the total, which is past the last chunk.
        rows = torch.searchsorted(self._cumulative, drawn, right=True).clamp(max=self._last)
        return iter(rows.tolist())


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
