"""Metrics of a run between two logs: added up on the device in every step, read by the host when a step is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hf_ptr.training.micro_batches import Batch, StepTotals
from hf_ptr.training.non_finite import NonFiniteCheck
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTROutput
from hf_ptr.training.weight_record import weight_record

STEPS = "steps"
Reduce = Callable[..., torch.Tensor]


class RunMetrics:
    """
    Means of the method's metrics since the last log, the weights of the whole run, and the first loss or weight that
    is not finite. The host waits for the device only in [`~RunMetrics.take`] and [`~RunMetrics.require_finite`].

    Args:
        args: settings of the run.
        dataset: dataset to train on.
        processes: number of processes that share a step.

    Attributes:
        steps: optimiser steps since the last log.
        weights: record of the weights; None where every chunk has weight 1.
    """

    def __init__(self, args: PTRConfig, dataset: Any, processes: int = 1):
        self.args = args
        self.dataset = dataset
        self.processes = processes
        self.steps = 0
        self.weights = weight_record(args, dataset)
        self._sums: dict[str, torch.Tensor] = {}
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
        self._add({name: value.detach() * self.processes for name, value in shares.items()})
        if totals is not None:
            self.steps += 1
            if self.args.with_scorer:
                self._add({**totals.metrics(), "valid_ratio": totals.targets / totals.rows})
            elif "weight" in batch:
                self._add(totals.metrics())
        if self.weights is not None:
            warm_up = self.args.with_scorer and step < self.args.nce_warmup_steps
            self.weights.add(output.weight, batch.get("source_index"), warm_up)

    def _add(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self, reduce: Reduce) -> dict[str, float]:
        """
        The means over the steps since the last log and over the processes; resets the sums.

        Args:
            reduce: reduction of a tensor over the processes, see `Accelerator.reduce`.
        """
        if not self.steps:
            return {}
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].float() for name in names]) / self.steps
        means = reduce(stacked, reduction="mean").tolist()
        self._sums, self.steps = {}, 0
        return dict(zip(names, means, strict=True))

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
        means = {f"means.{name}": value for name, value in self._sums.items()}
        return {**named, **means, STEPS: torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores the result of [`~RunMetrics.state_dict`]."""
        self.steps = int(state[STEPS])
        self._sums = {n.removeprefix("means."): value for n, value in state.items() if n.startswith("means.")}
        if self.weights is not None:
            named = {n.removeprefix("weights."): value for n, value in state.items() if n.startswith("weights.")}
            self.weights.load_state_dict(named)
