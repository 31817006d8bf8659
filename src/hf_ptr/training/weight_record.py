"""The record of the sample weights of a run, counted on the device during training; for run card and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks, MixtureDataset
from hf_ptr.equations import sample_size_of_sums, weight_bounds
from hf_ptr.training.ptr_config import PTRConfig

BINS = 40
WEIGHTS_FILE = "weights.json"
# Range of the bins if all weights are equal.
MIN_RANGE = 1e-6
# Sums a tensor over all processes, possibly in place.
Sum = Callable[[torch.Tensor], torch.Tensor]


def weight_record(args: PTRConfig, dataset: Any) -> WeightRecord | None:
    """The record of a run; None if all weights are 1."""
    if args.with_scorer and args.alpha > 0:
        low, high = weight_bounds(args.alpha, *args.weight_clip)
    elif isinstance(dataset, Chunks) and (weights := dataset.weights) is not None:
        # The trainer reports non-finite weights and ends the run; the record must not fail before that.
        known = weights[torch.isfinite(weights)]
        low, high = float(known.min()), float(known.max())
    else:
        return None
    if isinstance(dataset, MixtureDataset):
        sources: tuple[str, ...] = dataset.source_names
    else:
        sources = (dataset.table.source,) if isinstance(dataset, ChunkDataset) else ("data",)
    return WeightRecord(low, high, sources, args.device)


class WeightRecord:
    """
    Histogram and sums of the weights of the training chunks, for the run without its warm-up, and for the steps since
    the last log. Each process counts its own weights; [`~WeightRecord.reduce`] sums them over the processes.

    Args:
        low, high: smallest and largest possible weight; the bins divide the range between them.
        sources: names of the datasets of the chunks.
        device: device of the weights.
    """

    def __init__(self, low: float, high: float, sources: Sequence[str], device: torch.device):
        self.low, self.high, self.sources = low, high, tuple(sources)
        self.edges = torch.linspace(low, max(high, low + MIN_RANGE), BINS + 1, dtype=torch.float64).tolist()
        self._counts = torch.zeros(BINS, dtype=torch.int64, device=device)
        self._since = torch.zeros_like(self._counts)
        # A run sums more weights than float32 represents exactly.
        precise = torch.float32 if device.type == "mps" else torch.float64
        self._squares = torch.zeros((), dtype=precise, device=device)
        # Each source: number of chunks and sum of their weights.
        self._shares = torch.zeros(len(self.sources), 2, dtype=precise, device=device)
        self._bins = torch.arange(BINS, device=device)
        self._numbers = torch.arange(len(self.sources), device=device)
        self._summed = self._totals()

    def add(self, weight: torch.Tensor, source_index: torch.Tensor | None = None, warm_up: bool = False) -> None:
        """
        Counts the weights of a batch. The host does not wait for the device.

        Args:
            weight: `(N,)`.
            source_index: `(N,)` indices into `sources`; None if all chunks are from the first source.
            warm_up: whether all weights are 1 by the warm-up; they count for the log only.
        """
        weight = weight.detach().to(self._shares.dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        bins = ((weight - self.low) * (BINS / max(self.high - self.low, MIN_RANGE))).long().clamp(0, BINS - 1)
        counts = (bins[:, None] == self._bins).sum(dim=0)
        self._since += counts
        if warm_up:
            return
        self._counts += counts
        self._squares += weight.square().sum()
        index = torch.zeros_like(bins) if source_index is None else source_index
        belongs = (index[:, None] == self._numbers).to(weight.dtype)
        self._shares += torch.stack((belongs.sum(dim=0), weight @ belongs), dim=1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state that a resumed run needs."""
        return {**self._totals(), "since": self._since}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a state returned by [`~WeightRecord.state_dict`]."""
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])
        self._summed = self._totals()

    def _totals(self) -> dict[str, torch.Tensor]:
        return {"counts": self._counts, "squares": self._squares, "shares": self._shares}

    def reduce(self, over_ranks: Sum) -> None:
        """Sums the counts of all processes for [`~WeightRecord.to_dict`]; all of them must call it."""
        self._summed = {name: over_ranks(value.clone()) for name, value in self._totals().items()}

    def take_log(self, over_ranks: Sum) -> list[int]:
        """Number of weights in each bin since the last call, over all processes; all of them must call it."""
        counts = over_ranks(self._since.clone()).tolist()
        self._since.zero_()
        return counts

    def to_dict(self) -> dict[str, Any] | None:
        """
        Bounds, counts of the bins, mean weight, effective sample size divided by n, and for each source its share π of
        the chunks and q of the weight, as of the last [`~WeightRecord.reduce`]; None without any weights.
        """
        counts, shares = self._summed["counts"].tolist(), self._summed["shares"].tolist()
        squares = float(self._summed["squares"])
        n, total = sum(counts), sum(weight for _, weight in shares)
        if n == 0:
            return None
        sources = {
            name: {"share": rows / n, "weight": weight / total if total else 0.0}
            for name, (rows, weight) in zip(self.sources, shares, strict=True)
        }
        return {
            "low": self.low,
            "high": self.high,
            "counts": counts,
            "mean": total / n,
            "ess": sample_size_of_sums(total, squares) / n if squares > 0 else 0.0,
            "sources": sources,
        }
