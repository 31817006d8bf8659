"""PTRTrainer: `transformers.Trainer` whose loss decides how much each recorded chunk counts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub import HfApi
from peft import PeftConfig
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, rotate_checkpoints
from transformers.utils import PushInProgress

from hf_ptr import functional as F
from hf_ptr.belief import BeliefCarry
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture import MixtureDataset
from hf_ptr.data.segments import SegmentBatches
from hf_ptr.data.weight_histograms import append_histogram, forget_histograms_after
from hf_ptr.errors import InputError
from hf_ptr.files import write_json, write_text
from hf_ptr.hub.places import checkpoint_folder
from hf_ptr.scoring import Candidates
from hf_ptr.training.batch import candidates_of, model_inputs
from hf_ptr.training.building import as_ptr_model
from hf_ptr.training.calibrating import calibrated_chunks
from hf_ptr.training.card import write_card
from hf_ptr.training.checkpoints import (
    clear_unfinished,
    last_complete_checkpoint,
    load_objective_state,
    require_same_topology,
    restore_replaced,
    save_state,
    staged,
    state_file,
)
from hf_ptr.training.collator import ChunkCollator
from hf_ptr.training.config import ARGUMENTS_FILE, PTRConfig
from hf_ptr.training.faults import FirstFault
from hf_ptr.training.model import PTRModel, PTROutput, tensors_under
from hf_ptr.training.objective import Losses, PTRObjective
from hf_ptr.training.progress import use_rich_progress
from hf_ptr.training.provenance import RUN_FILE, provenance
from hf_ptr.training.publishing import END_MESSAGE, push_checkpoint, push_run, repository_of
from hf_ptr.training.ranks import Ranks
from hf_ptr.training.refusals import refuse, walks
from hf_ptr.training.stopping import StopSignals, leave
from hf_ptr.training.weight_loggers import show_histogram
from hf_ptr.training.weight_record import WEIGHTS_FILE, WeightRecord, weight_record
from hf_ptr.training.window import Window

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
            callbacks=[_Steps(self), *(callbacks or [])],
            optimizers=optimizers,
        )
        use_rich_progress(self)
        for name in ("target_offset", "segment_chunks"):
            if hasattr(train_dataset, name):
                setattr(self.model.config, name, getattr(train_dataset, name))
        self.ranks = Ranks(self.args.process_index, self.accelerator.num_processes)
        several = self.ranks.count > 1
        self.objective = PTRObjective(args, gather=self._gather if several else None, ranks=self.ranks.count)
        self.carry = BeliefCarry()
        self._eval_carry = BeliefCarry()
        self._batches: list[dict[str, Any]] = []
        self._part = 0
        self._window: Window | None = None
        self._fault = FirstFault()
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._log_window: dict[str, torch.Tensor] = {}
        self._stop = StopSignals()
        self.stopped_by = 0
        self._saving_to: Path | None = None
        self._record: WeightRecord | None = None
        self.provenance = provenance(train_dataset, self.accelerator.unwrap_model(self.model).policy)

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
        if resume_from_checkpoint is True:
            restore_replaced(str(self.args.output_dir))
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise InputError(
                    f"{self.args.output_dir} holds no complete checkpoint; leave resume_from_checkpoint out"
                )
        if isinstance(resume_from_checkpoint, str):
            resume_from_checkpoint = str(checkpoint_folder(resume_from_checkpoint))
        if resume_from_checkpoint:
            require_same_topology(str(resume_from_checkpoint), self.args)
        if self.args.calibrates and isinstance(self.train_dataset, ChunkDataset):
            resume = bool(resume_from_checkpoint)
            self.train_dataset = calibrated_chunks(self.train_dataset, self.args, self.accelerator, resume=resume)
        clear_unfinished(str(self.args.output_dir), self.ranks)
        self._record = weight_record(self.args, self.train_dataset)
        self.stopped_by = 0
        with self._stop:
            result = super().train(resume_from_checkpoint, *args, **kwargs)
            if self._record is not None:
                self._record.reduce(self._sum)
            # Also one that came after the last step; what that step has trained may not be saved yet.
            late = 0 if self.stopped_by else self.ranks.largest(self.stop_signal)
            if late and not self.ranks.largest(int(self._checkpoint_folder().is_dir())):
                self._save_checkpoint(self.model, None)
            self.stopped_by = self.stopped_by or late
        if self.stopped_by and self.ranks.first:
            logger.warning(
                "stopped at step %d, which is saved; started again, the run goes on", self.state.global_step
            )
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
        assert isinstance(dataset, ChunkDataset | MixtureDataset)
        return self._walk(dataset, self._train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        """As for training, in the order of the dataset."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if not self.args.belief_tokens or not isinstance(dataset, ChunkDataset | MixtureDataset):
            return super().get_eval_dataloader(eval_dataset)
        self._eval_carry = BeliefCarry()
        return self._walk(dataset, self.args.eval_batch_size, shuffle=False)

    def _walk(self, dataset: ChunkDataset | MixtureDataset, batch_size: int, shuffle: bool) -> DataLoader:
        args = self.args
        batches = SegmentBatches(
            dataset,
            batch_size,
            shuffle=shuffle,
            seed=args.seed if args.data_seed is None else args.data_seed,
            rank=args.process_index,
            ranks=args.world_size,
            parts=args.gradient_accumulation_steps if shuffle else 1,
            whole=not shuffle,
        )
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # As if there were one process: the order is this rank's already, and must not be divided again.
        return prepare_data_loader(
            loader, device=self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    # ---- the loss ----

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Trainer's own; the micro-batches of the step are kept for `compute_loss`."""
        if self.state.global_step >= self.state.max_steps:
            # Killed after its last checkpoint and started again, a run would make a step too many.
            self.control.should_training_stop = True
            return [], None
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._batches, self._part, self._window = batches, 0, None
        return batches, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The share that one micro-batch has of the step's `L_total`, PTR Sec. 8."""
        if self._part >= len(self._batches):
            # Called on its own: the batch is a step.
            self._batches, self._part, self._window = [inputs], 0, None
        part, last = self._part, self._part + 1 == len(self._batches)
        # The equations' checks of values would make the host wait for the device at every step.
        with F.unchecked():
            if part == 0 and len(self._batches) > 1:
                self._window = self._survey(model)
            output = self._forward(model, inputs, self.carry)
            if output.belief_tokens is not None:
                self.carry.remember(inputs["index"], output.belief_tokens, last=last)
            losses = self.objective(
                output,
                self._candidates(inputs, output),
                self._discount(inputs),
                step=self.state.global_step,
                given_weight=inputs.get("weight"),
                window=self._window,
                part=part,
            )
        if losses.score is not None and last:
            self.objective.remember()
        assert output.action_loss is not None
        self._fault.look(output.action_loss, losses.weight, losses.total, inputs, self.state.global_step + 1)
        self._accumulate(losses)
        if self._record is not None:
            warm_up = self.args.with_scorer and self._warming_up()
            self._record.add(losses.weight, inputs.get("source_index"), warm_up)
        self._part += 1
        self._steps += last
        return (losses.total, output) if return_outputs else losses.total

    def _survey(self, model) -> Window:
        """
        The weights of all micro-batches of a step. Those of a scorer need a pass over each, with the very random
        numbers that the passes with gradient will draw.
        """
        batches = [self._prepare_inputs(batch) for batch in self._batches]
        if not self.args.with_scorer:
            ones = [torch.ones(len(batch["actions"]), device=self.args.device) for batch in batches]
            return self.objective.weighed([batch.get("weight", one) for batch, one in zip(batches, ones, strict=True)])
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            passes = [self._forward(model, batch, self.carry) for batch in batches]
            candidates = [
                candidates_of(self._policy(), batch, output.target)
                for batch, output in zip(batches, passes, strict=True)
                if output.target is not None
            ]
        discounts = [self._discount(batch) for batch in batches]
        return self.objective.survey(passes, candidates, discounts, self.state.global_step)

    def _forward(self, model, inputs: dict[str, Any], carry: BeliefCarry, skip: tuple[str, ...] = ()) -> PTROutput:
        """The model's pass, with the belief tokens of the step before."""
        return model(**model_inputs(inputs, carry if self.args.belief_tokens else None, skip))

    def _candidates(self, inputs: dict[str, Any], output: PTROutput) -> Candidates | None:
        return None if output.target is None else candidates_of(self._policy(), inputs, output.target)

    def _policy(self) -> Any:
        return self.accelerator.unwrap_model(self.model).adapter

    def _discount(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        if self.args.discount == 1.0:
            return None
        return self.args.discount ** (inputs["target_offset"] / inputs["actions"].shape[1])

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """
        `(N, …)` of every rank below each other as one constant. Each rank's rows are filled up to those of a full step
        with zeros, which as `valid` mean no: ranks may differ in N, and none has to ask the others for it.
        """
        missing = self._train_batch_size * max(1, len(self._batches)) - tensor.shape[0]
        filled = torch.cat((tensor.detach(), tensor.new_zeros((missing, *tensor.shape[1:]))))
        return self.accelerator.gather(filled)

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
            output = self._forward(model, inputs, self._eval_carry, skip=("next_observation",))
            if output.belief_tokens is not None:
                self._eval_carry.remember(inputs["index"], output.belief_tokens)
        assert output.action_loss is not None
        return output.action_loss.mean(), None, None

    # ---- metrics: summed on the device, read at logging steps ----

    def _accumulate(self, losses: Losses) -> None:
        for name, value in losses.metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the method's metrics, as means since the last log, and lets the controller take its step."""
        if "loss" in logs:
            self._require_finite()
        if "loss" in logs and self._steps:
            means = self._read_metrics()
            controller = self.objective.controller
            if "nce_acc" in means:
                controller.update(
                    accuracy=means["nce_acc"],
                    margin=means["nce_margin"],
                    score=means["ptr_score"],
                    valid_ratio=means["valid_ratio"],
                )
                means["scorer_temperature"] = controller.temperature
                means["beta"] = controller.beta
                means["hard_negative_ratio"] = controller.hard_negative_ratio
            logs = {**logs, **means}
            self._log_weights()
        super().log(logs, start_time)

    def _log_weights(self) -> None:
        if self._record is None:
            return
        counts = self._record.take_log(self._sum)
        if self.is_world_process_zero() and any(counts):
            edges, step = self._record.edges, self.state.global_step
            append_histogram(Path(str(self.args.output_dir)), step, edges, counts)
            show_histogram(self.callback_handler.callbacks, step, edges, counts)

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, as a tensor of its own."""
        return self.accelerator.reduce(tensor.clone(), reduction="sum")

    def _read_metrics(self) -> dict[str, float]:
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].float() for name in names]) / self._steps
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, reduction="mean")
        self._sums, self._steps = {}, 0
        return dict(zip(names, stacked.tolist(), strict=True))

    def _warming_up(self) -> bool:
        return self.state.global_step < self.args.nce_warmup_steps

    def _require_finite(self) -> None:
        """Stops a run whose loss or weights are no numbers, before it says or saves anything more."""
        dataset = self.train_dataset
        names = getattr(dataset, "source_names", None)
        if names is None:
            names = (getattr(getattr(dataset, "table", None), "source", type(dataset).__name__),)
        self._fault.require_none(self.accelerator.gather, names, last_complete_checkpoint(str(self.args.output_dir)))

    # ---- checkpoints: safetensors and JSON beside what Trainer writes ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._require_finite()
        if self._record is not None:
            self._record.reduce(self._sum)
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
        if push:
            self._push_from_checkpoint(str(run / name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )

    def _checkpoint_folder(self) -> Path:
        return Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _get_output_dir(self, trial: Any) -> str:
        """While a checkpoint is saved, the place where it is whole before it takes its name."""
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        self._save_state_file(folder)
        write_text(json.dumps(self.args.to_dict(), indent=2, default=str) + "\n", folder / ARGUMENTS_FILE)
        write_json(self.provenance, folder / RUN_FILE)
        if self._record is not None and (weights := self._record.to_dict()) is not None:
            write_json(weights, folder / WEIGHTS_FILE)

    def _save_state_file(self, folder: str | os.PathLike) -> None:
        """Queue, controller, belief tokens and running metrics, which no part of the model holds."""
        parts = {f"metrics.{name}": value for name, value in self._sums.items()}
        parts |= {f"carry.{name}": value for name, value in self.carry.state_dict().items()}
        if self._record is not None:
            parts |= {f"record.{name}": value for name, value in self._record.state_dict().items()}
        parts["steps"] = torch.tensor(self._steps)
        if hasattr(self, "_tr_loss"):
            parts["log.loss"] = self._tr_loss
            parts["log.since"] = torch.tensor(self._globalstep_last_logged)
        save_state(Path(folder) / state_file(self.ranks.index), self.objective, self.args, parts)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.ranks.first:
            os.makedirs(output_dir, exist_ok=True)
            self._save_state_file(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = load_objective_state(self.objective, checkpoint, state_file(self.ranks.index), self.args.device)
        self.carry.load_state_dict(tensors_under(state, "carry."))
        self._log_window = tensors_under(state, "log.")
        if self._record is not None and (record := tensors_under(state, "record.")):
            self._record.load_state_dict(record)
        self._sums, self._steps = tensors_under(state, "metrics."), int(state["steps"])

    def _load_best_model(self) -> None:
        # Trainer looks for the whole module's weights at the root, where only the policy's are.
        best = str(self.state.best_model_checkpoint)
        self._load_from_checkpoint(best)
        load_objective_state(self.objective, best, state_file(self.ranks.index), self.args.device)

    @property
    def stop_signal(self) -> int:
        """The signal that asked this process to stop; 0 for none."""
        return self._stop.received

    def restore_log_window(self) -> None:
        """`Trainer` begins a new mean of the loss when it resumes; this goes on with the one that was saved."""
        if self._log_window:
            self._tr_loss.copy_(self._log_window["loss"])
            self._globalstep_last_logged = int(self._log_window["since"])
            self._log_window = {}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        saved = PTRModel.from_pretrained(resume_from_checkpoint)
        loaded = self.model if model is None else model
        if self.is_fsdp_enabled:
            # Each rank takes its part of the whole weights.
            set_model_state_dict(loaded, saved.state_dict(), options=StateDictOptions(full_state_dict=True))
        else:
            loaded.load_state_dict(saved.state_dict())

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As [`Trainer.init_hf_repo`]; an [`InputError`] where this cannot be pushed, before anything is written."""
        if self.is_world_process_zero():
            self.hub_model_id = repository_of(self.args, self.model.policy, token, private)
            self.push_in_progress = None

    def create_model_card(self, license: str | None = None) -> None:
        """Writes the run's card, filled from what its folder tells, into `output_dir`."""
        folder = Path(str(self.args.output_dir))
        if self.is_world_process_zero():
            write_card(folder, folder, self.hub_model_id or folder.absolute().name, license=license)

    def push_to_hub(
        self,
        commit_message: str | None = END_MESSAGE,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
    ) -> Any:
        """
        Pushes the run with its card in one commit, and returns that, or with `blocking=False` its future.

        Args:
            commit_message, blocking, token, revision, private: as [`Trainer.push_to_hub`].
            license: its id, for the card.

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
        self.create_model_card(license)
        self._finish_current_push()
        where: dict[str, Any] = {"revision": revision or self.args.hub_revision, "token": token or self.args.hub_token}
        message = commit_message or END_MESSAGE
        pushed = partial(push_run, str(self.args.output_dir), self.hub_model_id, message=message, license=license)
        return pushed(**where) if blocking else HfApi().run_as_future(pushed, **where)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        wanted = self.args.hub_strategy != HubStrategy.END and (self.args.hub_always_push or not busy)
        if wanted and self.is_world_process_zero():
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            self.push_in_progress = self.push_in_progress if busy else PushInProgress()
            job = push_checkpoint(checkpoint_folder, self.args, str(self.hub_model_id))
            if job is not None:
                self.push_in_progress.jobs.append(job)


class _Steps(TrainerCallback):
    """What the trainer does at moments that `Trainer` opens to callbacks only."""

    def __init__(self, trainer: PTRTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_log_window()
        if state.is_world_process_zero:
            forget_histograms_after(Path(str(args.output_dir)), state.global_step)
        if args.world_size > 1 and state.global_step == 0:
            # Trainer gives all ranks one seed; the noise of a rank's samples must be its own.
            torch.manual_seed(args.seed + args.process_index)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.update_target()
        trainer = self.trainer
        trainer.stopped_by = trainer.ranks.largest(trainer.stop_signal)
        if trainer.stopped_by:
            control.should_save = control.should_training_stop = True
