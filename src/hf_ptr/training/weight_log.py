"""What the weights of a run look like while it trains, as histograms: counted on the device, read at logging steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_ptr.data.weight_histograms import append_histogram, forget_histograms_after
from hf_ptr.functional import weight_bounds

BINS = 32


class WeightLog(TrainerCallback):
    """
    Counts the weights of every batch, and at each log writes them to the run's folder.

    Weights beyond the settings' bounds, as a score file may bring, are counted in the outermost bins.

    Args:
        trainer: which adds the weights of each of its batches.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        # Those of a checkpoint lie here until the training begins.
        self.counts = torch.zeros(BINS)
        self._edges: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        low, high = weight_bounds(args.alpha, args.w_min, args.w_max)
        given = getattr(self.trainer.train_dataset, "weights", None)
        if given is not None:
            low, high = min(low, float(given.min())), max(high, float(given.max()))
        if high <= low:
            low, high = 0.0, 2.0
        self.counts = self.counts.to(args.device)
        self._edges = torch.linspace(low, high, BINS + 1).tolist()
        if state.is_world_process_zero:
            forget_histograms_after(Path(str(args.output_dir)), state.global_step)

    def add(self, weight: torch.Tensor) -> None:
        """Counts the weights `(N,)` of a batch."""
        if not self._edges:
            return
        low, high = self._edges[0], self._edges[-1]
        place = ((weight.detach().float() - low) * (BINS / (high - low))).long().clamp(0, BINS - 1)
        # Not `bincount`, which waits for the device to know how long its answer is.
        self.counts.index_add_(0, place, torch.ones_like(place, dtype=self.counts.dtype))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "weight_mean" not in (logs or {}):
            return
        counts = self.counts
        if args.world_size > 1:
            counts = self.trainer.accelerator.reduce(counts, reduction="sum")
        numbers = [int(count) for count in counts.tolist()]
        self.counts = torch.zeros_like(self.counts)
        if state.is_world_process_zero and sum(numbers):
            append_histogram(Path(str(args.output_dir)), state.global_step, self._edges, numbers)
