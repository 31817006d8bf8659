"""Where the weights of a run went: a histogram that is kept on the device while it trains."""

from __future__ import annotations

from typing import Any

import torch

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.functional import weight_bounds
from hf_ptr.training.config import PTRConfig

BINS = 40
WEIGHTS_FILE = "weights.json"


def weight_record(args: PTRConfig, dataset: Any) -> WeightRecord | None:
    """The record for a run; None where every chunk counts alike."""
    if args.with_scorer and args.alpha > 0:
        return WeightRecord(*weight_bounds(args.alpha, args.w_min, args.w_max), args.device)
    if isinstance(dataset, ChunkDataset) and dataset.weights is not None:
        return WeightRecord(float(dataset.weights.min()), float(dataset.weights.max()), args.device)
    return None


class WeightRecord:
    """
    A histogram of the weights that chunks were trained with, and their sums. With several processes each has its own.

    Args:
        low, high: the least and the greatest possible weight; the bins divide what lies between.
        device: of the weights.
    """

    def __init__(self, low: float, high: float, device: torch.device):
        self.low, self.high = low, high
        self._counts = torch.zeros(BINS, dtype=torch.int64, device=device)
        # A run adds up more weights than float32 can count.
        precise = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, dtype=precise, device=device)
        self._bins = torch.arange(BINS, device=device)

    def add(self, weight: torch.Tensor) -> None:
        """Counts the weights `(N,)` of a batch. The host does not wait for the device."""
        place = ((weight.detach() - self.low) * (BINS / max(self.high - self.low, 1e-6))).long().clamp(0, BINS - 1)
        self._counts += (place[:, None] == self._bins).sum(dim=0)
        self._sums += torch.stack((weight.detach().sum(), weight.detach().square().sum()))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        return {"counts": self._counts, "sums": self._sums}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~WeightRecord.state_dict`] gave."""
        self._counts.copy_(state["counts"])
        self._sums.copy_(state["sums"])

    def to_dict(self) -> dict[str, Any] | None:
        """The bounds, the counts of the bins, mean weight and effective sample size over n; None before any weight."""
        counts, (total, squares) = self._counts.tolist(), self._sums.tolist()
        n = sum(counts)
        if n == 0:
            return None
        return {
            "low": self.low,
            "high": self.high,
            "counts": counts,
            "mean": total / n,
            "ess": total**2 / squares / n if squares > 0 else 0.0,
        }
