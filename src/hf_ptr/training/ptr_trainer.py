"""PTRTrainer: weighted regression on recorded action chunks, with the scorer of the paper as an optional part."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftConfig
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainerCallback

from hf_ptr import functional as F
from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.errors import InputError
from hf_ptr.ptr import BeliefCarry
from hf_ptr.training.build_model import as_ptr_model
from hf_ptr.training.calibrated_weights import SCORE_FILES, calibrated_chunks, copy_scores, require_same_weights
from hf_ptr.training.check_arguments import TWO_WEIGHTS, check_arguments, uses_segments
from hf_ptr.training.checkpointing import last_complete_checkpoint
from hf_ptr.training.dataloaders import ChunkCollator, segment_loader
from hf_ptr.training.identification import Identification, Identified
from hf_ptr.training.micro_batches import (
    MICRO_BATCH,
    Batch,
    Step,
    can_rank,
    candidates_of,
    model_inputs,
    recall_belief,
    step_totals,
)
from hf_ptr.training.provenance import collect_provenance, write_provenance
from hf_ptr.training.ptr_callbacks import PROGRESS_METRICS, PTRSteps, log_histogram
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTRModel, PTROutput
from hf_ptr.training.resumable_trainer import ResumableTrainer
from hf_ptr.training.run_metrics import RunMetrics
from hf_ptr.training.weight_histograms import append_histogram
from hf_ptr.utils.random_state import forked_random_state


class PTRTrainer(ResumableTrainer):
    """
    Post-trains a policy by Posterior-Transition Reweighting.

    The weight of a chunk is the `weight` of the dataset where it has one; with `scoring="calibrated"` it is fitted on
    the dataset first; with `scoring="paper"` it is computed in every step from the identification posterior.

    Args:
        model: a policy, a [`PTRModel`], or the folder or repo id of either.
        args: settings of the run.
        train_dataset: the chunks, see [`ChunkDataset`].
        eval_dataset: of the same kind; `eval_loss` is the unweighted action loss.
        processing_class: the processor of the policy, which encodes the instructions.
        data_collator: joins chunks to a batch; by default made from the processor and the dataset.
        peft_config: of a LoRA adapter to train instead of the policy's own weights; scorer and belief tokenizer are
            trained in full. A policy that has an adapter continues with it.

    Raises:
        InputError: the model is not a policy, or a setting is not supported (see `check_arguments`).

    Example:
        ```python
        trainer = PTRTrainer(model=policy, args=PTRConfig(output_dir="out"), train_dataset=chunks,
                             processing_class=processor)
        trainer.train()
        ```
    """

    args: PTRConfig
    model: PTRModel
    progress_metrics = MappingProxyType(PROGRESS_METRICS)

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel,
        args: PTRConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: Any | None = None,
        data_collator: Callable[[Any], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        check_arguments(args, train_dataset, eval_dataset, processing_class, data_collator)
        if data_collator is None:
            dataset = train_dataset if train_dataset is not None else eval_dataset
            data_collator = ChunkCollator(processing_class, tasks=getattr(dataset, "tasks", ()))
        if args.calibrates and isinstance(train_dataset, Chunks) and train_dataset.weights is None:
            train_dataset = calibrated_chunks(train_dataset, args)
        super().__init__(
            model=as_ptr_model(model, args, peft_config),
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[PTRSteps(self), *(callbacks or [])],
            optimizers=optimizers,
        )
        # `compute_loss` divides by the sums of the whole step: neither Trainer may divide by the micro-batches again,
        # nor accelerate, which transformers before 5.6 let divide as well.
        self.model_accepts_loss_kwargs = True
        self.accelerator.gradient_accumulation_steps = 1
        for name in ("target_offset", "segment_chunks"):
            if hasattr(train_dataset, name):
                setattr(self.model.config, name, getattr(train_dataset, name))
        self._gather = self.accelerator.gather if self.group.size > 1 else None
        # Whether queries depend on no random number; the first pre-pass finds out.
        self._scores_without_noise = True
        self._eval_carry = BeliefCarry()
        self._eval_rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.provenance = collect_provenance(train_dataset, self.trained_policy)
        self.reset_state()

    @property
    def trained_policy(self) -> Any:
        """The policy inside the [`PTRModel`]."""
        return self._unwrapped().policy

    def reset_state(self) -> None:
        """Starts with an empty queue, the initial scales, no belief tokens and no metrics."""
        self.identification = Identification(self.args, self._gather)
        self.carry = BeliefCarry()
        self.metrics = RunMetrics(self.args, self.train_dataset, self.group.size)
        self.register_stateful("pool", self.identification.pool, with_model=True)
        self.register_stateful("controller", self.identification.controller, with_model=True)
        self.register_stateful("carry", self.carry)
        self.register_stateful("metrics", self.metrics)

    def check_checkpoint(self, checkpoint: str) -> None:
        """Checks that weights fitted for this run are those of the checkpoint; given weights are not checked."""
        chunks = self.train_dataset
        if self.args.calibrates and isinstance(chunks, Chunks) and any(self._run_folder.glob(SCORE_FILES)):
            require_same_weights(checkpoint, chunks, self.args)

    # ---- the loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        The share of one micro-batch in the step's `L_total = L*_act + λ_id L_id + λ_rank L_rank + L_tok` (PTR Sec. 8).

        The shares of all micro-batches add up to the loss of the step; those of the processes are averaged, as their
        gradients are.

        Args:
            num_items_in_batch: the [`Step`] of the micro-batch; without one, the micro-batch is a step of its own.
        """
        step = self.begin_step([inputs]) if num_items_in_batch is None else num_items_in_batch
        number = inputs[MICRO_BATCH]
        # The checks of tensor values would make the host wait for the device in every step.
        with F.unchecked():
            self._pre_pass(model, step)
            output = model(**model_inputs(inputs, without=("next_observation",) if step.targets else ()))
            if step.targets:
                output.target = step.targets[number]
            identified = self._identify(step, inputs, output)  # Eq. (12); the weights of Eq. (14) and (21)
            weight, totals = step.weights[number], step.totals
            # Eq. (27)
            credit, total = step.credit(number), totals.credit
            losses = {"action": F.self_normalized_mean(output.action_loss, credit, total=total)}
            if identified is not None:
                valid = identified.has_target
                losses["id"] = F.identification_loss(  # Eq. (31)
                    identified.logits,
                    valid,
                    discount=identified.discount,
                    total=totals.targets,
                    log_probability=identified.log_probability,
                )
                losses["rank"] = F.action_ranking_loss(  # Eq. (13)
                    identified.matched, identified.permuted, can_rank(valid), total=totals.ranked
                )
            if output.belief_loss is not None:
                losses["tok"] = output.belief_loss * (len(weight) / totals.rows)  # λ_ent Eq. (10) + λ_div Eq. (11)
            factors = {"id": self.args.lambda_id, "rank": self.args.lambda_rank, "tok": 1.0}
            auxiliary = {name: factor * losses[name] for name, factor in factors.items() if name in losses}
            loss = (losses["action"] + sum(auxiliary.values())) * self.group.size
            self._note(step, inputs, output, identified, loss, losses)
        output.losses = {"action": losses["action"], **auxiliary}
        return (loss, output) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of a step, and the [`Step`] that `compute_loss` receives as `num_items_in_batch`."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self.begin_step(batches) if batches else None

    def begin_step(self, batches: Sequence[Batch]) -> Step:
        """
        Prepares the micro-batches of a step: their positions, the belief tokens of the step before, and the weights
        with their sums where they do not depend on the model.
        """
        step, device = Step(batches), self.args.device
        if self.args.with_scorer and any("weight" in batch for batch in batches):
            raise InputError(TWO_WEIGHTS)
        for number, batch in enumerate(batches):
            batch[MICRO_BATCH] = number
        if self.args.belief_tokens:
            recall_belief(batches, self.carry, self.args.belief_dropout)
        if self.args.loss_unit == "step":
            step.counts = [batch["action_mask"].sum(dim=1).to(device, torch.float32) for batch in batches]
        if not self.args.with_scorer:
            ones = [torch.ones(len(batch["actions"]), device=device) for batch in batches]
            step.weights = [batch.get("weight", one).to(device) for batch, one in zip(batches, ones, strict=True)]
            step.totals = step_totals(step.weights, gather=self._gather, counts=step.counts)
        return step

    def _pre_pass(self, model: Any, step: Step) -> None:
        """
        Negatives and weights of a scored step of several micro-batches: their sum is known only after a pass over
        each. The passes have no gradient and end before the action head; the targets are kept.
        """
        if not self.args.with_scorer or len(step.batches) == 1 or step.weights:
            return
        with torch.no_grad():
            batches = [self._prepare_inputs(batch) for batch in step.batches]
            outputs = self._scoring_outputs(model, batches)
            step.targets = [output.target for output in outputs]
            self._draw_negatives(step, batches, outputs)
            pairs = zip(outputs, step.negatives, strict=True)
            scores = [F.ptr_score(self.identification.logits(*pair)[0]) for pair in pairs]
            self.identification.weigh(step, scores, self.state.global_step)

    def _scoring_outputs(self, model: Any, batches: Sequence[Batch]) -> list[PTROutput]:
        """
        Queries and targets of the micro-batches, equal to those of the passes with gradient. Where they depend on
        random numbers, only whole passes draw the same numbers as those with gradient will.
        """
        device = self.args.device
        if self._scores_without_noise:
            with forked_random_state(device) as untouched:
                outputs = [model(**model_inputs(batch), scoring_only=True) for batch in batches]
                self._scores_without_noise = untouched()
            if self._scores_without_noise:
                return outputs
        with forked_random_state(device):
            return [model(**model_inputs(batch)) for batch in batches]

    def _identify(self, step: Step, batch: Batch, output: PTROutput) -> Identified | None:
        """The identification of a micro-batch; weighs a step that has no other one. None without a scorer."""
        if output.target is None:
            return None
        if not step.negatives:
            self._draw_negatives(step, [batch], [output])
        identified = self.identification.identify(output, step.negatives[batch[MICRO_BATCH]], batch)
        if not step.weights:
            self.identification.weigh(step, [identified.score], self.state.global_step)
        return identified

    def _draw_negatives(self, step: Step, batches: Sequence[Batch], outputs: Sequence[PTROutput]) -> None:
        policy, rows = self._unwrapped().adapter, self.args.per_device_train_batch_size * len(batches)
        candidates = [candidates_of(policy, *each) for each in zip(batches, outputs, strict=True)]
        step.negatives = self.identification.draw_negatives(candidates, self.state.global_step, rows)

    # ---- data

    def get_train_dataloader(self) -> DataLoader:
        """As Trainer's; with belief tokens or a mixture of sources, along segments of consecutive chunks."""
        if not uses_segments(self.args, self.train_dataset):
            return super().get_train_dataloader()
        return self._segments(self.train_dataset, self._train_batch_size, training=True)

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        """As for training, in the order of the dataset."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            # The name of one of several, as Trainer has it.
            named: Any = self.eval_dataset
            dataset = named[eval_dataset]
        if not self.args.belief_tokens or not isinstance(dataset, Chunks):
            return super().get_eval_dataloader(eval_dataset)
        self._eval_carry.clear()
        return self._segments(dataset, self.args.eval_batch_size, training=False)

    def _segments(self, dataset: Any, batch_size: int, training: bool) -> DataLoader:
        return segment_loader(dataset, batch_size, self.data_collator, self.args, self.accelerator, training=training)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The unweighted action loss of a batch: an evaluation neither reads weights nor touches queue or metrics."""
        inputs = self._prepare_inputs(inputs)
        if self.args.belief_tokens:
            # A policy that was never given the tokens of a predecessor cannot read them.
            recall_belief([inputs], self._eval_carry, float(self.args.belief_dropout == 1.0))
        with torch.no_grad():
            output = model(**model_inputs(inputs, without=("next_observation",)))
        if output.belief_tokens is not None:
            self._eval_carry.remember(inputs["index"], output.belief_tokens)
        if self.group.size > 1 and "index" in inputs:
            self._eval_rows.append((_row_number(inputs), output.action_loss.float()))
        return output.action_loss.mean(), None, None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> Any:
        """
        As [`Trainer.evaluation_loop`]. On several processes the last batches are filled up with chunks that were
        evaluated before; `eval_loss` counts every chunk once.
        """
        self._eval_rows = []
        result: Any = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self._eval_rows:
            number, loss = (self.accelerator.gather(torch.cat(part)) for part in zip(*self._eval_rows, strict=True))
            _, position = torch.unique(number, return_inverse=True)
            once = loss.new_zeros(int(position.max()) + 1).scatter_(0, position, loss)
            result.metrics[f"{metric_key_prefix}_loss"] = float(once.mean())
        return result

    # ---- metrics and files

    def _note(
        self,
        step: Step,
        batch: Batch,
        output: PTROutput,
        identified: Identified | None,
        loss: torch.Tensor,
        losses: dict[str, torch.Tensor],
    ) -> None:
        """Keeps the belief tokens that a micro-batch leaves, and its share in the metrics, on the device."""
        output.weight = weight = step.weights[batch[MICRO_BATCH]]
        metrics = {f"loss_{name}": value for name, value in losses.items()}
        if identified is not None:
            metrics |= self.identification.metrics(identified, weight, step.totals)
        if output.belief_tokens is not None and output.belief_entropy is not None:
            self.carry.remember(batch["index"], output.belief_tokens)
            metrics["belief_entropy"] = output.belief_entropy * (len(weight) / step.totals.rows)
        once = step.totals if batch[MICRO_BATCH] == 0 else None
        self.metrics.add(batch, output, loss, metrics, once, self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics of the method, as means since the last log, and the values of the controller."""
        if "loss" in logs:
            self._require_finite()
            means = self.metrics.logged.take(self.accelerator.reduce)
            scales = self.identification.scales() if self.args.with_scorer and means else {}
            logs = {**logs, **means, **scales}
            counts = self.metrics.take_weights(self.accelerator.reduce)
            if counts and self.metrics.weights is not None and self.group.is_main_process:
                histogram = (self.state.global_step, self.metrics.weights.edges, counts)
                append_histogram(self._run_folder, *histogram)
                log_histogram(self.callback_handler.callbacks, *histogram)
        super().log(logs, start_time)

    def adapt(self) -> None:
        """One step of the controller from the metrics since its last one, where the step just done is the time."""
        constants = self.args.time_constants
        if self.args.with_scorer and self.state.global_step % constants.controller_steps == 0:
            self.identification.adapt(self.metrics.window.take(self.accelerator.reduce))

    def prepare_save(self) -> None:
        """Refuses to save a run whose loss or weights are not finite, and sums up the weights of all processes."""
        self._require_finite()
        if self.metrics.weights is not None:
            self.metrics.weights.reduce(self.accelerator.reduce)

    def _require_finite(self) -> None:
        last_checkpoint = partial(last_complete_checkpoint, self._run_folder)
        self.metrics.require_finite(self.accelerator.gather, last_checkpoint)

    def describe_run(self, folder: Path) -> None:
        """Writes settings, provenance and weights of the run; into a checkpoint also the scores it is weighted by."""
        write_provenance(folder, self.args, self.provenance, self.metrics.weights)
        if self.args.calibrates and folder != self._run_folder and isinstance(self.train_dataset, Chunks):
            copy_scores(self.train_dataset, self._run_folder, folder)


def _row_number(batch: Batch) -> torch.Tensor:
    """`(N,)`, a number of each chunk: its frame, which sources of a mixture number alike."""
    source = batch.get("source_index")
    return batch["index"] if source is None else batch["index"] + source * 2**40
