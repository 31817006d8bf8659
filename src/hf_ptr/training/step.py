"""The loss of an optimiser step, micro-batch by micro-batch: weights and negatives are those of the whole step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hf_ptr import functional as F
from hf_ptr.ptr import BeliefCarry, Candidates
from hf_ptr.training.batch import candidates_of, model_inputs
from hf_ptr.training.objective import Losses, PTRObjective
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTROutput
from hf_ptr.training.window import Window

Batch = dict[str, Any]


class StepLoss:
    """
    Holds the micro-batches of the step under way, and the belief tokens that the step before has left.

    Args:
        args: the run's settings.
        objective: makes losses of what the model gives.
        policy: gives what keeps the contract for the policy, of the model without its wrappers.
        prepare: brings a batch to the device.

    Attributes:
        carry: the belief tokens.
    """

    def __init__(
        self,
        args: PTRConfig,
        objective: PTRObjective,
        policy: Callable[[], Any],
        prepare: Callable[[Batch], Batch],
    ):
        self.args = args
        self.objective = objective
        self.carry = BeliefCarry()
        self._policy = policy
        self._prepare = prepare
        self._batches: list[Batch] = []
        self._part = 0
        self._window: Window | None = None

    def filled(self, tensor: torch.Tensor) -> torch.Tensor:
        """
        Rows `(N, …)` of the step, constant, filled up to those of a full step with zeros, which as `valid` mean no:
        ranks may differ in N, and none has to ask the others for it.
        """
        rows = self.args.per_device_train_batch_size * max(1, len(self._batches))
        return torch.cat((tensor.detach(), tensor.new_zeros((rows - tensor.shape[0], *tensor.shape[1:]))))

    def begin(self, batches: list[Batch]) -> None:
        """Takes the micro-batches of the next step."""
        self._batches, self._part, self._window = batches, 0, None

    def __call__(self, model: Any, batch: Batch, step: int) -> tuple[Losses, PTROutput, bool]:
        """
        The share that the next micro-batch has of the step's `L_total`, PTR Sec. 8.

        Args:
            model: as it is wrapped.
            batch: the micro-batch, on the device.
            step: optimiser steps done.

        Returns:
            Its losses, the model's output, and whether it is the step's last.
        """
        if self._part >= len(self._batches):
            # Called on its own: the batch is a step.
            self.begin([batch])
        part, last = self._part, self._part + 1 == len(self._batches)
        # The equations' checks of values would make the host wait for the device at every step.
        with F.unchecked():
            if part == 0 and len(self._batches) > 1:
                self._window = self._survey(model, step)
            output = self.forward(model, batch, self.carry)
            if output.belief_tokens is not None:
                self.carry.remember(batch["index"], output.belief_tokens, last=last)
            losses = self.objective(
                output,
                self._candidates(batch, output),
                self._discount(batch),
                step=step,
                given_weight=batch.get("weight"),
                window=self._window,
                part=part,
            )
        if losses.score is not None and last:
            self.objective.remember()
        self._part += 1
        return losses, output, last

    def forward(self, model: Any, batch: Batch, carry: BeliefCarry, skip: tuple[str, ...] = ()) -> PTROutput:
        """The model's pass, with the belief tokens of the step before."""
        return model(**model_inputs(batch, carry if self.args.belief_tokens else None, skip))

    def _survey(self, model: Any, step: int) -> Window:
        """
        The weights of all micro-batches of a step. Those of a scorer need a pass over each, with the very random
        numbers that the passes with gradient will draw.
        """
        batches = [self._prepare(batch) for batch in self._batches]
        if not self.args.with_scorer:
            ones = [torch.ones(len(batch["actions"]), device=self.args.device) for batch in batches]
            return self.objective.weighed([batch.get("weight", one) for batch, one in zip(batches, ones, strict=True)])
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            passes = [self.forward(model, batch, self.carry) for batch in batches]
            candidates = [
                candidates_of(self._policy(), batch, output.target)
                for batch, output in zip(batches, passes, strict=True)
                if output.target is not None
            ]
        return self.objective.survey(passes, candidates, [self._discount(batch) for batch in batches], step)

    def _candidates(self, batch: Batch, output: PTROutput) -> Candidates | None:
        return None if output.target is None else candidates_of(self._policy(), batch, output.target)

    def _discount(self, batch: Batch) -> torch.Tensor | None:
        if self.args.discount == 1.0:
            return None
        return self.args.discount ** (batch["target_offset"] / batch["actions"].shape[1])
