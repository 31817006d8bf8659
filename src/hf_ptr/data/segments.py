"""The order in which segments of consecutive chunks are walked (PTR Sec. 3)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from hf_ptr.data.mixture.dataset import Chunks


class SegmentBatches(Sampler[list[int]]):
    """
    A batch sampler in which row `j` of a batch continues row `j` of the batch before, as its segment goes on.

    All segments, shuffled, are laid end to end, and the long row of chunks is folded into `batch_size` lines of equal
    length; a batch is one column. So every batch is full and mixes first, second, … chunks of as many segments as it
    has rows, every chunk comes once an epoch, and the belief tokens of a chunk are those that its predecessor left one
    training step before. A segment that the fold cuts in two begins anew. Several micro-batches a step, or ranks, have
    a column together: which chunks a step trains on does not depend on how they are shared out.

    Args:
        dataset: the chunks.
        batch_size: chunks in a batch on each rank.
        shuffle: whether segments are shuffled, by `(seed, epoch)` alone.
        seed: of the shuffle.
        rank, ranks: this process among all; each walks its own lines, and all make the same number of batches.
        parts: micro-batches of an optimiser step.
        whole: of several ranks, whether the chunks that fill no last step come too, filled up with the first ones;
            else they are left out.
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
        # accelerate asks a batch sampler for both; by the second it takes off what a last batch was filled up with.
        self.drop_last = ranks > 1 and not whole
        self.num_processes = ranks

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
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
                filled = torch.cat((rest, rows.repeat(-(-lines // len(rows)))))
                rest = filled[self.rank * mine : (self.rank + 1) * mine]
            for part in rest.split(self.batch_size):
                yield part.tolist()

    def _rows(self) -> torch.Tensor:
        """The rows of all chunks, segment after segment: `(F,)`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch) if self.shuffle else None
        starts, counts = self.dataset.draw_segments(generator)
        before = torch.cumsum(counts, dim=0) - counts
        position = torch.arange(int(counts.sum())) - torch.repeat_interleave(before, counts)
        return torch.repeat_interleave(starts, counts) + position * self.dataset.chunk_stride
