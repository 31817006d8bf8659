"""Where the weights of a run went: one counter, on the device while it trains, for the card and for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks, MixtureDataset
from hf_ptr.functional import weight_bounds
from hf_ptr.training.ptr_config import PTRConfig

BINS = 40
WEIGHTS_FILE = "weights.json"
# Width of the bins together, where all weights are one.
NARROWEST = 1e-6
# A tensor of this process to its sum over all, which may take its place.
Sum = Callable[[torch.Tensor], torch.Tensor]


def weight_record(args: PTRConfig, dataset: Any) -> WeightRecord | None:
    """The record for a run; None where every chunk counts alike."""
    if args.with_scorer and args.alpha > 0:
        low, high = weight_bounds(args.alpha, args.w_min, args.w_max)
    elif isinstance(dataset, Chunks) and (weights := dataset.weights) is not None:
        # The trainer names a weight that is no number, and ends the run; it must still be able to save.
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
    A histogram of the weights that chunks were trained with, and their sums: of the whole run but for its warm-up,
    and of the steps since the last log. Each process counts its own; [`~WeightRecord.reduce`] adds them up.

    Args:
        low, high: the least and the greatest possible weight; the bins divide what lies between.
        sources: names of what the chunks come from.
        device: of the weights.
    """

    def __init__(self, low: float, high: float, sources: Sequence[str], device: torch.device):
        self.low, self.high, self.sources = low, high, tuple(sources)
        self.edges = torch.linspace(low, max(high, low + NARROWEST), BINS + 1, dtype=torch.float64).tolist()
        self._counts = torch.zeros(BINS, dtype=torch.int64, device=device)
        self._since = torch.zeros_like(self._counts)
        # A run adds up more weights than float32 can count.
        precise = torch.float32 if device.type == "mps" else torch.float64
        self._squares = torch.zeros((), dtype=precise, device=device)
        # Of every source: how many chunks, and the sum of their weights.
        self._shares = torch.zeros(len(self.sources), 2, dtype=precise, device=device)
        self._bins = torch.arange(BINS, device=device)
        self._numbers = torch.arange(len(self.sources), device=device)
        self._told = self._totals()

    def add(self, weight: torch.Tensor, source_index: torch.Tensor | None = None, warm_up: bool = False) -> None:
        """
        Counts the weights of a batch. The host does not wait for the device.

        Args:
            weight: `(N,)`.
            source_index: `(N,)`, into `sources`; all of the first one without.
            warm_up: whether the weights say nothing yet, and count for the log alone.
        """
        weight = weight.detach().to(self._shares.dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        place = ((weight - self.low) * (BINS / max(self.high - self.low, NARROWEST))).long().clamp(0, BINS - 1)
        counts = (place[:, None] == self._bins).sum(dim=0)
        self._since += counts
        if warm_up:
            return
        self._counts += counts
        self._squares += weight.square().sum()
        index = torch.zeros_like(place) if source_index is None else source_index
        belongs = (index[:, None] == self._numbers).to(weight.dtype)
        self._shares += torch.stack((belongs.sum(dim=0), weight @ belongs), dim=1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        return {**self._totals(), "since": self._since}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~WeightRecord.state_dict`] gave."""
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])
        self._told = self._totals()

    def _totals(self) -> dict[str, torch.Tensor]:
        return {"counts": self._counts, "squares": self._squares, "shares": self._shares}

    def reduce(self, over_ranks: Sum) -> None:
        """Adds up what all processes have counted, for [`~WeightRecord.to_dict`]; all of them call it."""
        self._told = {name: over_ranks(value.clone()) for name, value in self._totals().items()}

    def take_log(self, over_ranks: Sum) -> list[int]:
        """How many weights of all processes were in each bin since the last time; all of them call it."""
        counts = over_ranks(self._since.clone()).tolist()
        self._since.zero_()
        return counts

    def to_dict(self) -> dict[str, Any] | None:
        """
        The bounds, the counts of the bins, mean weight and effective sample size over n, and of every source its
        share π of the chunks and q of the weight, as of the last `reduce`; None before any weight.
        """
        counts, shares = self._told["counts"].tolist(), self._told["shares"].tolist()
        squares = float(self._told["squares"])
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
            "ess": total**2 / squares / n if squares > 0 else 0.0,
            "sources": sources,
        }
