"""PTRTrainer: `transformers.Trainer` whose loss decides how much each recorded chunk counts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from peft import PeftConfig
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.ptr import BeliefCarry
from hf_ptr.training.build_model import as_ptr_model, load_weights
from hf_ptr.training.calibrated_weights import calibrated_chunks, copy_scores
from hf_ptr.training.callbacks import Steps
from hf_ptr.training.check_arguments import refuse, walks
from hf_ptr.training.checkpointing import (
    clear_unfinished,
    last_complete_checkpoint,
    place_to_go_on_from,
    staged,
)
from hf_ptr.training.collator import ChunkCollator
from hf_ptr.training.dataloaders import segment_loader
from hf_ptr.training.distributed import Ranks
from hf_ptr.training.non_finite import FirstFault
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.progress import use_rich_progress
from hf_ptr.training.provenance import collect_provenance, write_provenance
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTRModel
from hf_ptr.training.ptr_state import Sidecar, load_objective_state, state_file
from hf_ptr.training.publishing import END_MESSAGE, CheckpointPusher, ensure_run_repository, push_run
from hf_ptr.training.run_card import write_card
from hf_ptr.training.running_means import RunningMeans
from hf_ptr.training.step import StepLoss
from hf_ptr.training.stopping import StopSignals, leave
from hf_ptr.training.training_state import load_progress, load_random_state, save_progress, save_random_state
from hf_ptr.training.weight_histograms import append_histogram
from hf_ptr.training.weight_loggers import show_histogram
from hf_ptr.training.weight_record import weight_record

logger = logging.getLogger(__name__)


class PTRTrainer(Trainer):
    """
    Post-trains a policy by Posterior-Transition Reweighting.

    Args:
        model: a policy, a [`PTRModel`], or the folder or Hub id of either.
        args: the run's settings.
        train_dataset: of chunks, see [`ChunkDataset`].
        eval_dataset: of the same kind; `eval_loss` is the unweighted action loss.
        processing_class: the policy's processor, which encodes the instructions.
        data_collator: joins chunks to a batch; made from the processor and the dataset when left out.
        peft_config: of a LoRA adapter that is trained in place of the policy's own weights; scorer and belief
            tokenizer are trained in full. A policy that has an adapter goes on with it.

    Raises:
        InputError: for a model that is no policy, and for what is not supported (see `refuse`).

    Example:
        ```python
        trainer = PTRTrainer(model=policy, args=PTRConfig(output_dir="out"), train_dataset=chunks,
                             processing_class=processor)
        trainer.train()
        ```
    """

    args: PTRConfig
    model: PTRModel
    objective: PTRObjective
    # Trainer sets both to None in its __init__, whence its types.
    hub_model_id: Any
    push_in_progress: Any
    # `compute_loss` normalises over the whole step, see `Window`: nothing is left to divide by.
    loss_is_scaled_for_ga = True

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
        refuse(args, train_dataset, eval_dataset, processing_class, data_collator)
        if data_collator is None:
            dataset = train_dataset if train_dataset is not None else eval_dataset
            data_collator = ChunkCollator(processing_class, tasks=getattr(dataset, "tasks", ()))
        super().__init__(
            model=as_ptr_model(model, args, peft_config),
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[Steps(self), *(callbacks or [])],
            optimizers=optimizers,
        )
        use_rich_progress(self)
        for name in ("target_offset", "segment_chunks"):
            if hasattr(train_dataset, name):
                setattr(self.model.config, name, getattr(train_dataset, name))
        self.ranks = Ranks(self.args.process_index, self.accelerator.num_processes)
        gather = self._gather if self.ranks.count > 1 else None
        self.objective = PTRObjective(args, gather, self.ranks.count)
        self.step_loss = StepLoss(self.args, self.objective, lambda: self._unwrapped().adapter, self._prepare_inputs)
        self._eval_carry = BeliefCarry()
        self._fault = FirstFault()
        self._means = RunningMeans()
        self._sidecar = Sidecar(self.args, self.objective, self.step_loss.carry, self._means, self.ranks.index)
        self._loss_since_log: dict[str, torch.Tensor] = {}
        self.stop_signals = StopSignals()
        self._run = Path(str(self.args.output_dir))
        self.stopped_by = 0
        self._saving_to: Path | None = None
        self.provenance = collect_provenance(train_dataset, self._unwrapped().policy)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        As [`Trainer.train`]; `True` finds the newest complete checkpoint. With `scoring="calibrated"` the weights are
        fitted first. On SIGTERM and on Ctrl-C the run saves a checkpoint at the end of its step, and ends as `leave`
        says.

        Args:
            resume_from_checkpoint: also `user/name` or `user/name@revision`, whose last pushed checkpoint is pulled.

        Raises:
            InputError: for a checkpoint that was made on another number of processes or with another batch, a loss or
                weight that is no number, or no space left to save.
        """
        checkpoint = place_to_go_on_from(resume_from_checkpoint, self.args)
        if self.args.calibrates and isinstance(self.train_dataset, Chunks):
            self.train_dataset = calibrated_chunks(
                self.train_dataset, self.args, self.accelerator, self.ranks, checkpoint=checkpoint
            )
        clear_unfinished(self._run, self.ranks)
        self._sidecar.record = weight_record(self.args, self.train_dataset)
        self.stopped_by = 0
        with self.stop_signals:
            result = super().train(checkpoint, *args, **kwargs)
            self._sidecar.reduce_record(self.accelerator.reduce)
            # Also one that came after the last step; what that step has trained may not be saved yet.
            late = 0 if self.stopped_by else self.ranks.largest(self.stop_signals.received)
            if late and not self.ranks.largest(int(self._checkpoint_folder().is_dir())):
                self._save_checkpoint(self.model, None)
            self.stopped_by = self.stopped_by or late
        if self.stopped_by and self.ranks.first:
            logger.warning("stopped at step %d, saved; started again, the run goes on", self.state.global_step)
        leave(self.stopped_by)
        return result

    # ---- the order of the data ----

    def get_train_dataloader(self) -> DataLoader:
        """
        Trainer's own without belief tokens; with them, one that walks segments of consecutive chunks. So does that of
        a mixture, which draws the sources by their weights.
        """
        dataset = self.train_dataset
        if not walks(self.args, dataset):
            return super().get_train_dataloader()
        assert isinstance(dataset, Chunks)
        return self._walk(dataset, self._train_batch_size, training=True)

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        """As for training, in the order of the dataset."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if not self.args.belief_tokens or not isinstance(dataset, Chunks):
            return super().get_eval_dataloader(eval_dataset)
        self._eval_carry = BeliefCarry()
        return self._walk(dataset, self.args.eval_batch_size, training=False)

    def _walk(self, dataset: Chunks, batch_size: int, training: bool) -> DataLoader:
        return segment_loader(dataset, batch_size, self.data_collator, self.args, self.accelerator, training=training)

    # ---- the loss ----

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Trainer's own; the micro-batches of the step are kept for `compute_loss`."""
        if self.state.global_step >= self.state.max_steps:
            # Killed after its last checkpoint and started again, a run would make a step too many.
            self.control.should_training_stop = True
            return [], None
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_loss.begin(batches)
        return batches, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The share that one micro-batch has of the step's `L_total`, PTR Sec. 8."""
        losses, output, last = self.step_loss(model, inputs, self.state.global_step)
        self._fault.look(output, losses.weight, losses.total, inputs, self.state.global_step + 1)
        self._means.add(losses.metrics, last)
        if self._sidecar.record is not None:
            warm_up = self.args.with_scorer and self.state.global_step < self.args.nce_warmup_steps
            self._sidecar.record.add(losses.weight, inputs.get("source_index"), warm_up)
        return (losses.total, output) if return_outputs else losses.total

    def _unwrapped(self) -> PTRModel:
        return self.accelerator.unwrap_model(self.model)

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """`(N, …)` of every rank below each other, as one constant."""
        return self.accelerator.gather(self.step_loss.filled(tensor))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As [`Trainer.evaluate`], always with the same noise, and without moving that of the training."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.args.seed)
            return super().evaluate(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The unweighted action loss of a batch: evaluation never sees a weight, nor touches queue or metrics."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            output = self.step_loss.forward(model, inputs, self._eval_carry, skip=("next_observation",))
            if output.belief_tokens is not None:
                self._eval_carry.remember(inputs["index"], output.belief_tokens)
        assert output.action_loss is not None
        return output.action_loss.mean(), None, None

    # ---- what is logged ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the method's metrics, as means since the last log, and lets the controller take its step."""
        if "loss" in logs:
            self._require_finite()
        if "loss" in logs and self._means.steps:
            means = self._means.take(partial(self.accelerator.reduce, reduction="mean"))
            logs = {**logs, **means, **self.objective.adapt(means)}
            if self._sidecar.record is not None:
                counts = self._sidecar.record.take_log(self.accelerator.reduce)
                if self.ranks.first and any(counts):
                    histogram = (self.state.global_step, self._sidecar.record.edges, counts)
                    append_histogram(self._run, *histogram)
                    show_histogram(self.callback_handler.callbacks, *histogram)
        super().log(logs, start_time)

    def _require_finite(self) -> None:
        """Stops a run whose loss or weights are no numbers, before it says or saves anything more."""
        self._fault.require_none(self.accelerator.gather, self.train_dataset, last_complete_checkpoint(self._run))

    # ---- checkpoints: safetensors and JSON beside what Trainer writes ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._require_finite()
        self._sidecar.reduce_record(self.accelerator.reduce)
        run = Path(self._get_output_dir(trial))
        name = self._checkpoint_folder().name
        push, self.args.push_to_hub = self.args.push_to_hub, False
        try:
            with staged(run / name, self.ranks) as place:
                self._saving_to = place.parent
                super()._save_checkpoint(model, trial)
                if self.state.best_model_checkpoint == str(place):
                    self.state.best_model_checkpoint = str(run / name)
                    if self.args.should_save:
                        self.state.save_to_json(str(place / TRAINER_STATE_NAME))
        finally:
            self._saving_to, self.args.push_to_hub = None, push
        if push and self.is_world_process_zero() and self.push_in_progress.wants_checkpoint:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            self.push_in_progress.push(run / name, str(self.hub_model_id))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )

    def _checkpoint_folder(self) -> Path:
        return self._run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _get_output_dir(self, trial: Any) -> str:
        """While a checkpoint is saved, the place where it is whole before it takes its name."""
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self._run)
        folder.mkdir(parents=True, exist_ok=True)
        self._unwrapped().save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        self._save_sidecar(folder)
        write_provenance(folder, self.args, self.provenance, self._sidecar.record)
        chunks = self.train_dataset
        if self.args.calibrates and folder != self._run and isinstance(chunks, Chunks):
            copy_scores(chunks, self._run, folder)

    def _save_sidecar(self, folder: Path) -> None:
        trained = hasattr(self, "_tr_loss")
        since = {"sum": self._tr_loss, "from": torch.tensor(self._globalstep_last_logged)} if trained else {}
        self._sidecar.save(folder, since)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_deepspeed_enabled:
            # Pickles of its own: see docs/distributed.md.
            engine: Any = self.model_wrapped
            engine.save_checkpoint(output_dir)
        save_progress(folder, **self._progress(), writes=bool(self.args.should_save))
        if not self.ranks.first:
            self._save_sidecar(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_progress(Path(checkpoint), **self._progress())
        self._loss_since_log = self._sidecar.load(Path(checkpoint))

    def _progress(self) -> dict[str, Any]:
        optimizer = None if self.is_deepspeed_enabled else self.optimizer
        sharded = self.model if self.is_fsdp_enabled else None
        return {"optimizer": optimizer, "scheduler": self.lr_scheduler, "sharded": sharded}

    def _save_rng_state(self, output_dir: str) -> None:
        save_random_state(Path(output_dir), self.ranks.index, self.args.device)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random_state(Path(checkpoint), self.ranks.index, self.args.device)

    def _load_best_model(self) -> None:
        # Trainer looks for the whole module's weights at the root, where only the policy's are.
        best = str(self.state.best_model_checkpoint)
        self._load_from_checkpoint(best)
        load_objective_state(self.objective, best, state_file(self.ranks.index), self.args.device)

    def restore_loss_since_log(self) -> None:
        """`Trainer` begins a new mean of the loss when it resumes; this goes on with the one that was saved."""
        if self._loss_since_log:
            self._tr_loss.copy_(self._loss_since_log["sum"])
            self._globalstep_last_logged = int(self._loss_since_log["from"])
            self._loss_since_log = {}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_weights(self.model if model is None else model, resume_from_checkpoint, self.is_fsdp_enabled)

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As [`Trainer.init_hf_repo`]; an [`InputError`] where this cannot be pushed, before anything is written."""
        if self.is_world_process_zero():
            self.hub_model_id = ensure_run_repository(self.args, self.model.policy, token, private)
            self.push_in_progress = CheckpointPusher(self.args)

    def create_model_card(self, language=None, license=None, tags=None) -> None:
        """
        Writes the run's card into `output_dir`: what its folder tells, and what is said here.

        Args:
            language, license, tags: as [`Trainer.create_model_card`].
        """
        said = {"language": language, "license": license, "tags": tags}
        if self.is_world_process_zero():
            write_card(self._run, self._run, self.hub_model_id or self._run.absolute().name, metadata=said)

    def push_to_hub(
        self, commit_message=END_MESSAGE, blocking=True, token=None, revision=None, private=None, **said
    ) -> Any:
        """
        Pushes the run with its card in one commit, and returns that, or with `blocking=False` its future.

        Args:
            commit_message, blocking, token, revision, private: as [`Trainer.push_to_hub`].
            said: as [`PTRTrainer.create_model_card`].

        Raises:
            InputError: when it cannot be pushed. Nothing of it is visible then.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.save_state()
        self.create_model_card(**said)
        self._finish_current_push()
        where: dict[str, Any] = {"revision": revision or self.args.hub_revision, "token": token or self.args.hub_token}
        push = partial(push_run, self._run, self.hub_model_id, metadata=said, **where)
        message = commit_message or END_MESSAGE
        return push(message=message) if blocking else HfApi().run_as_future(push, message=message)
