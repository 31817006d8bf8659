"""Metrics of a run between two logs: added up on the device in every step, read by the host when a step is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hf_ptr.training.identification import CONTROLLER_METRICS
from hf_ptr.training.micro_batches import Batch, StepTotals
from hf_ptr.training.non_finite import NonFiniteCheck
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTROutput
from hf_ptr.training.step_means import Reduce, StepMeans
from hf_ptr.training.weight_record import weight_record


class RunMetrics:
    """
    Means of the method's metrics, the weights of the whole run, and the first loss or weight that is not finite. The
    host waits for the device only where the means are taken and in [`~RunMetrics.require_finite`].

    Args:
        args: settings of the run.
        dataset: dataset to train on.
        processes: number of processes that share a step.

    Attributes:
        logged: means since the last log.
        window: means of the `CONTROLLER_METRICS` since the last update of the controller; empty without a scorer.
        weights: record of the weights; None where every chunk has weight 1.
    """

    def __init__(self, args: PTRConfig, dataset: Any, processes: int = 1):
        self.args = args
        self.dataset = dataset
        self.processes = processes
        self.logged = StepMeans()
        self.window = StepMeans()
        self.weights = weight_record(args, dataset)
        self._non_finite = NonFiniteCheck()

    def add(
        self,
        batch: Batch,
        output: PTROutput,
        loss: torch.Tensor,
        shares: Mapping[str, torch.Tensor],
        totals: StepTotals | None,
        step: int,
    ) -> None:
        """
        Adds a micro-batch.

        Args:
            batch: the micro-batch.
            output: output of the model, with its weights.
            loss: total loss, a scalar.
            shares: share of the micro-batch in each metric of the step, scalars.
            totals: sums of the step, for its first micro-batch only; None for the others.
            step: optimiser steps done.
        """
        assert output.weight is not None
        self._non_finite.update(output, output.weight, loss, batch, step + 1)
        # Logged metrics are means over the processes, and each process has only its share.
        self._add(shares, self.processes)
        if totals is not None:
            self.logged.steps += 1
            self.window.steps += 1
            if self.args.with_scorer:
                self._add({**totals.metrics(), "valid_ratio": totals.targets / totals.rows})
            elif "weight" in batch:
                self._add(totals.metrics())
        if self.weights is not None:
            warm_up = self.args.with_scorer and step < self.args.time_constants.nce_warmup_steps
            self.weights.add(output.weight, batch.get("source_index"), warm_up)

    def _add(self, values: Mapping[str, torch.Tensor], factor: int = 1) -> None:
        self.logged.add(values, factor)
        self.window.add({name: value for name, value in values.items() if name in CONTROLLER_METRICS}, factor)

    def take_weights(self, reduce: Reduce) -> list[int]:
        """Weights since the last log in each bin of the record, of all processes; empty where there are none."""
        counts = [] if self.weights is None else self.weights.take_log(reduce)
        return counts if any(counts) else []

    def require_finite(
        self, gather: Callable[[torch.Tensor], torch.Tensor], last_checkpoint: Callable[[], str | None]
    ) -> None:
        """
        Checks that every loss and weight so far was finite.

        Raises:
            InputError: a loss or weight was not finite; the message names chunk, source and step.
        """
        self._non_finite.require_finite(gather, self.dataset, last_checkpoint)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state that a resumed run needs."""
        weights = {} if self.weights is None else self.weights.state_dict()
        named = {f"weights.{name}": value for name, value in weights.items()}
        window = {f"window.{name}": value for name, value in self.window.state_dict().items()}
        return {**named, **window, **self.logged.state_dict()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores the result of [`~RunMetrics.state_dict`]."""
        self.logged.load_state_dict(state)
        window = {n.removeprefix("window."): value for n, value in state.items() if n.startswith("window.")}
        # Checkpoints of version 0.1 have none, as the controller read the means of the log: it begins a new window.
        if window:
            self.window.load_state_dict(window)
        if self.weights is not None:
            named = {n.removeprefix("weights."): value for n, value in state.items() if n.startswith("weights.")}
            self.weights.load_state_dict(named)
