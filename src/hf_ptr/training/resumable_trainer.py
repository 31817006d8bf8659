"""ResumableTrainer: `transformers.Trainer` with atomic checkpoints, exact resume, stop signals and Hub pushes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import HfApi
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_ptr.training.callbacks import StopAfterStep, StopSignals, step_lines, use_rich_progress
from hf_ptr.training.checkpointing import (
    Stateful,
    clear_unfinished,
    load_state,
    resolve_resume_checkpoint,
    save_state,
    staged,
)
from hf_ptr.training.distributed import ProcessGroup
from hf_ptr.training.publishing import END_MESSAGE, CheckpointPusher, ensure_run_repository, push_run
from hf_ptr.training.run_card import write_card
from hf_ptr.training.training_state import load_progress, load_random_state, save_progress, save_random_state
from hf_ptr.utils.random_state import forked_random_state

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """
    A `Trainer` whose runs can be stopped, killed and resumed at any moment without losing anything.

    - Checkpoints are complete or absent, and contain safetensors and JSON only, no pickle.
    - A resumed run equals one that was never interrupted, to the bit: optimiser, schedule, random numbers, order of
      the data, the running mean of the loss, and every part registered by [`~ResumableTrainer.register_stateful`].
    - SIGTERM and Ctrl-C end the run after its step, with a checkpoint; `train` then returns and `stopped_by` has the
      number of the signal.
    - Checkpoints and the finished run are pushed to the Hub in one commit each, with a card.

    Arguments are those of [`Trainer`], by keyword.

    Attributes:
        group: the processes of the run.
        stopped_by: number of the signal that ended the last `train`; 0 when it reached its end.
    """

    # Trainer sets both to None in its __init__, hence these types.
    hub_model_id: Any
    push_in_progress: Any
    # Metrics next to the progress bar, and their short names.
    progress_metrics: Mapping[str, str] = MappingProxyType({"loss": "loss"})

    def __init__(self, *, callbacks: list[TrainerCallback] | None = None, **kwargs: Any):
        super().__init__(callbacks=[StopAfterStep(self), *(callbacks or [])], **kwargs)
        use_rich_progress(self, self.progress_metrics)
        self.group = ProcessGroup(self.args.process_index, self.accelerator.num_processes)
        self.stop_signals = StopSignals()
        self.stopped_by = 0
        self._has_trained = False
        self._run_folder = Path(str(self.args.output_dir))
        # FSDP2 replaces the class of the model.
        self._model_class: Any = type(self._unwrapped())
        self._stateful: dict[str, Stateful] = {}
        self._restored_with_model: set[str] = set()
        loss = LossSinceLog(self)
        self.register_stateful("loss", loss)
        self.add_callback(loss)

    def register_stateful(self, name: str, part: Stateful, with_model: bool = False) -> None:
        """
        Saves and restores the tensors of a part with every checkpoint.

        Args:
            name: of the part in the state file.
            part: with `state_dict()` and `load_state_dict(state)` of tensors.
            with_model: whether the part also belongs to the weights, and is restored with the best model.
        """
        self._stateful[name] = part
        if with_model:
            self._restored_with_model.add(name)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        As [`Trainer.train`]; `True` resumes from the newest complete checkpoint. On SIGTERM and Ctrl-C the run saves
        a checkpoint after its step and returns; see `stopped_by`.

        Args:
            resume_from_checkpoint: also `user/name` or `user/name@revision`, whose last pushed checkpoint is pulled.

        Raises:
            InputError: the checkpoint was made with another number of processes or another batch size, or no space is
                left to save.
        """
        checkpoint = resolve_resume_checkpoint(resume_from_checkpoint, self.args)
        if checkpoint is not None:
            self.check_checkpoint(checkpoint)
        clear_unfinished(self._run_folder, self.group)
        if self._has_trained and checkpoint is None:
            self.reset_state()
        self.stopped_by, self._has_trained = 0, True
        with self.stop_signals:
            with step_lines(self):
                result = super().train(checkpoint, *args, **kwargs)
            # From here on, only the main process saves.
            self.prepare_save()
            # A signal may also arrive after the last step, whose result may not have been saved yet.
            late = 0 if self.stopped_by else self.group.all_reduce_max(self.stop_signals.received)
            if late and not self.group.all_reduce_max(int(self._checkpoint_folder().is_dir())):
                self._save_checkpoint(self.model, None)
            self.stopped_by = self.stopped_by or late
        if self.stopped_by and self.group.is_main_process:
            logger.warning("stopped at step %d with a checkpoint; run again to resume", self.state.global_step)
        return result

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As [`Trainer.get_batch_samples`]; none at the end of the run."""
        if self.state.global_step >= self.state.max_steps:
            # A run that was killed after its last checkpoint and resumed would make a step too many.
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As [`Trainer.evaluate`], always with the same noise, and without moving the random state of the training."""
        with forked_random_state(self.args.device, self.args.seed):
            return super().evaluate(*args, **kwargs)

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    # ---- for sub-classes

    def check_checkpoint(self, checkpoint: str) -> None:
        """Called in all processes before a run resumes from a checkpoint. An error here changes nothing."""

    def reset_state(self) -> None:
        """Called before a second `train` that begins a new run, which keeps only the weights of the first."""

    def prepare_save(self) -> None:
        """Called in all processes before a checkpoint is saved, and after training. An error here saves nothing."""

    def describe_run(self, folder: Path) -> None:
        """Writes the files that describe the run next to the model. Called in the main process."""

    @property
    def trained_policy(self) -> Any:
        """The model that the Hub repository is for, which may have a LoRA adapter."""
        return self._unwrapped()

    # ---- saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.prepare_save()
        run, name = Path(self._get_output_dir(trial)), self._checkpoint_folder().name
        if self.hp_search_backend is None and trial is None:
            self.store_flos()
        with staged(run / name, self.group) as folder:
            self.save_model(str(folder), _internal_call=True)
            if self.state.best_global_step:
                best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
                if best.name == name or best.is_dir():
                    self.state.best_model_checkpoint = str(best)
            if not self.args.save_only_model:
                self._save_training_state(folder)
            if self.args.should_save:
                self._export_callback_states()
                # Last: its presence says that the checkpoint is complete.
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        if self.args.push_to_hub and self.is_world_process_zero() and self.push_in_progress.wants_checkpoint:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            self.push_in_progress.push(run / name, str(self.hub_model_id))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )

    def _checkpoint_folder(self) -> Path:
        return self._run_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _export_callback_states(self) -> None:
        """As Trainer does: the states of its callbacks and of its control, as JSON in the state file."""
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name, state = type(callback).__name__, callback.state()
                states: Any = self.state.stateful_callbacks
                if isinstance(states[name], list):
                    states[name].append(state)
                else:
                    states[name] = state

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self._run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._unwrapped().save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        save_state(folder, self._stateful, self.group.rank, self.args)
        self.describe_run(folder)

    def _save_training_state(self, folder: Path) -> None:
        """Optimiser, schedule, random numbers and the state of the other processes."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_deepspeed_enabled:
            # Pickles of DeepSpeed's own: see docs/distributed.md.
            engine: Any = self.model_wrapped
            engine.save_checkpoint(str(folder))
        save_progress(folder, **self._progress(), writes=bool(self.args.should_save))
        if not self.group.is_main_process:
            save_state(folder, self._stateful, self.group.rank, self.args)
        save_random_state(folder, self.group.rank, self.args.device)

    def _progress(self) -> dict[str, Any]:
        optimizer = None if self.is_deepspeed_enabled else self.optimizer
        sharded = self.model if self.is_fsdp_enabled else None
        return {"optimizer": optimizer, "scheduler": self.lr_scheduler, "sharded": sharded}

    # ---- loading

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_progress(Path(checkpoint), **self._progress())
            load_state(checkpoint, self._stateful, self.group.rank, self.args.device)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random_state(Path(checkpoint), self.group.rank, self.args.device)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        weights = self._model_class.from_pretrained(resume_from_checkpoint).state_dict()
        target: Any = self.model if model is None else model
        if self.is_fsdp_enabled:
            # Each process takes its part of the complete weights.
            set_model_state_dict(target, weights, options=StateDictOptions(full_state_dict=True))
        else:
            target.load_state_dict(weights)

    def _load_best_model(self) -> None:
        # Trainer looks for the weights of the whole module at the root of the folder.
        best = str(self.state.best_model_checkpoint)
        self._load_from_checkpoint(best)
        parts = {name: self._stateful[name] for name in self._restored_with_model}
        load_state(best, parts, self.group.rank, self.args.device)

    # ---- the Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As [`Trainer.init_hf_repo`]; raises `InputError` before anything is written where a push is impossible."""
        if self.is_world_process_zero():
            self.hub_model_id = ensure_run_repository(self.args, self.trained_policy, token, private)
            self.push_in_progress = CheckpointPusher(self.args)

    def create_model_card(
        self,
        language=None,
        license=None,
        tags=None,
        model_name=None,
        finetuned_from=None,
        tasks=None,
        dataset_tags=None,
        dataset=None,
        dataset_args=None,
    ) -> None:
        """
        Writes the card of the run into `output_dir`, from the files of the run and these values.

        Args:
            language, license, tags: as for [`Trainer.create_model_card`].
            model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: accepted as by
                [`Trainer.create_model_card`], and not used, with a warning: the run has recorded them.
        """
        values = {"language": language, "license": license, "tags": tags}
        recorded = {
            "model_name": model_name,
            "finetuned_from": finetuned_from,
            "tasks": tasks,
            "dataset_tags": dataset_tags,
            "dataset": dataset,
            "dataset_args": dataset_args,
        }
        unused = [name for name, value in recorded.items() if value is not None]
        if unused:
            logger.warning("%s: the model card has them as the run recorded them", ", ".join(unused))
        if self.is_world_process_zero():
            write_card(self._run_folder, self._run_folder, self.hub_model_id or self._run_name(), metadata=values)

    def _run_name(self) -> str:
        return self._run_folder.absolute().name

    def push_to_hub(
        self, commit_message=END_MESSAGE, blocking=True, token=None, revision=None, private=None, **card
    ) -> Any:
        """
        Pushes the run with its card in one commit. Returns the commit, or its future with `blocking=False`.

        Args:
            commit_message, blocking, token, revision, private: as for [`Trainer.push_to_hub`].
            card: as for [`~ResumableTrainer.create_model_card`].

        Raises:
            InputError: the push is impossible. Nothing of it is visible then.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.save_state()
        self.create_model_card(**card)
        self._finish_current_push()
        where: dict[str, Any] = {"revision": revision or self.args.hub_revision, "token": token or self.args.hub_token}
        push = partial(push_run, self._run_folder, self.hub_model_id, metadata=card, **where)
        message = commit_message or END_MESSAGE
        return push(message=message) if blocking else HfApi().run_as_future(push, message=message)


class LossSinceLog(TrainerCallback):
    """
    The loss that `Trainer` has added up since its last log: `Trainer` starts a new mean when it resumes.

    Args:
        trainer: whose loss it is.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._loaded: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sum of the losses, and the step of the last log; empty before training."""
        if not hasattr(self.trainer, "_tr_loss"):
            return {}
        since = torch.tensor(self.trainer._globalstep_last_logged)
        return {"sum": self.trainer._tr_loss, "from": since}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Keeps the state until training starts, when `Trainer` has set its own to zero."""
        self._loaded = state

    def on_train_begin(self, args, state, control, **kwargs):
        if self._loaded:
            self.trainer._tr_loss.copy_(self._loaded["sum"])
            self.trainer._globalstep_last_logged = int(self._loaded["from"])
            self._loaded = {}
