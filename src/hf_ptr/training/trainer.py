"""PTRTrainer: `transformers.Trainer` whose loss decides how much each recorded chunk counts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_ptr import functional as F
from hf_ptr.belief import BeliefCarry
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture import MixtureDataset
from hf_ptr.data.segments import SegmentBatches
from hf_ptr.errors import InputError
from hf_ptr.files import write_text
from hf_ptr.policies.loading import load_trainable
from hf_ptr.policies.lora import with_adapter
from hf_ptr.scoring import Candidates
from hf_ptr.scoring.fitting import require_fittable
from hf_ptr.training.calibrating import calibrated_chunks
from hf_ptr.training.collator import ChunkCollator
from hf_ptr.training.config import ARGUMENTS_FILE, PTRConfig
from hf_ptr.training.model import PTRModel, PTROutput, build_ptr_model, has_ptr_parts, tensors_under
from hf_ptr.training.objective import Losses, PTRObjective

MODEL_INPUTS = (
    "observation",
    "state",
    "instruction_ids",
    "instruction_mask",
    "actions",
    "action_mask",
    "action_dim_mask",
    "next_observation",
)
STATE_FILE = "ptr_state.safetensors"


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
        InputError: for a model that is no policy, and for what is not supported (see `_refuse`).

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
        _refuse(args, train_dataset, eval_dataset, processing_class, data_collator)
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
        for name in ("target_offset", "segment_chunks"):
            if hasattr(train_dataset, name):
                setattr(self.model.config, name, getattr(train_dataset, name))
        ranks = self.accelerator.num_processes
        self.objective = PTRObjective(args, gather=self._gather if ranks > 1 else None, ranks=ranks)
        self.carry = BeliefCarry()
        self._eval_carry = BeliefCarry()
        self._sums: dict[str, torch.Tensor] = {}
        self._batches = 0
        self._log_window: dict[str, torch.Tensor] = {}

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As [`Trainer.train`]; with `scoring="calibrated"` the weights are fitted first."""
        if self.args.calibrates and isinstance(self.train_dataset, ChunkDataset):
            resume = bool(resume_from_checkpoint)
            self.train_dataset = calibrated_chunks(self.train_dataset, self.args, self.accelerator, resume=resume)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # ---- the order of the data ----

    def get_train_dataloader(self) -> DataLoader:
        """
        Trainer's own without belief tokens; with them, one that walks segments of consecutive chunks. So does that of
        a mixture, which draws the sources by their weights.
        """
        dataset = self.train_dataset
        walked = isinstance(dataset, ChunkDataset) and self.args.belief_tokens
        if not (walked or isinstance(dataset, MixtureDataset)):
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

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """`L_total` of PTR Sec. 8 for one batch."""
        # The equations' checks of values would make the host wait for the device at every step.
        with F.unchecked():
            output = self._forward(model, inputs, self.carry)
            target = output.target
            candidates = None if target is None else candidates_of(self._policy(), inputs, target)
            losses = self.objective(
                output,
                candidates,
                self._discount(inputs),
                step=self.state.global_step,
                given_weight=inputs.get("weight"),
            )
        if losses.score is not None:
            self.objective.remember()
        self._accumulate(losses)
        return (losses.total, output) if return_outputs else losses.total

    def _forward(self, model, inputs: dict[str, Any], carry: BeliefCarry, skip: tuple[str, ...] = ()) -> PTROutput:
        """The model's pass, with the belief tokens of the step before."""
        output = model(**model_inputs(inputs, carry if self.args.belief_tokens else None, skip))
        if output.belief_tokens is not None:
            carry.remember(inputs["index"], output.belief_tokens)
        return output

    def _policy(self) -> Any:
        return self.accelerator.unwrap_model(self.model).adapter

    def _discount(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        if self.args.discount == 1.0:
            return None
        return self.args.discount ** (inputs["target_offset"] / inputs["actions"].shape[1])

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """
        `(N, …)` of every rank below each other as one constant. Each rank's rows are filled up to the full batch with
        zeros, which as `valid` mean no: ranks may differ in N, and none has to ask the others for it.
        """
        missing = self._train_batch_size - tensor.shape[0]
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
        assert output.action_loss is not None
        return output.action_loss.mean(), None, None

    # ---- metrics: summed on the device, read at logging steps ----

    def _accumulate(self, losses: Losses) -> None:
        for name, value in losses.metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._batches += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the method's metrics, as means since the last log, and lets the controller take its step."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise InputError(
                f"the loss is {logs['loss']} at step {self.state.global_step}; lower learning_rate and start again "
                "from the last checkpoint"
            )
        if "loss" in logs and self._batches:
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
        super().log(logs, start_time)

    def _read_metrics(self) -> dict[str, float]:
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].float() for name in names]) / self._batches
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, reduction="mean")
        self._sums, self._batches = {}, 0
        return dict(zip(names, stacked.tolist(), strict=True))

    # ---- checkpoints: safetensors and JSON beside what Trainer writes ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        self._save_state_file(folder)
        write_text(json.dumps(self.args.to_dict(), indent=2, default=str) + "\n", folder / ARGUMENTS_FILE)

    def _save_state_file(self, folder: str | os.PathLike) -> None:
        """Queue, controller and running metrics, which no part of the model holds."""
        state = {f"pool.{name}": value for name, value in self.objective.pool.state_dict().items()}
        state.update({f"controller.{name}": value for name, value in self.objective.controller.state_dict().items()})
        state.update({f"metrics.{name}": value.detach() for name, value in self._sums.items()})
        state.update({f"carry.{name}": value for name, value in self.carry.state_dict().items()})
        state["batches"] = torch.tensor(self._batches)
        if hasattr(self, "_tr_loss"):
            state["log.loss"] = self._tr_loss.detach()
            state["log.since"] = torch.tensor(self._globalstep_last_logged)
        save_file({name: value.contiguous() for name, value in state.items()}, Path(folder) / self._state_file())

    def _state_file(self) -> str:
        """Each rank has its own segments, and so its own belief tokens."""
        rank = self.args.process_index
        return STATE_FILE if rank == 0 else f"ptr_state_{rank}.safetensors"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.process_index > 0:
            os.makedirs(output_dir, exist_ok=True)
            self._save_state_file(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = load_objective_state(self.objective, checkpoint, self._state_file(), self.args.device)
        self.carry.load_state_dict(tensors_under(state, "carry."))
        self._log_window = tensors_under(state, "log.")
        self._sums, self._batches = tensors_under(state, "metrics."), int(state["batches"])

    def _load_best_model(self) -> None:
        # Trainer looks for the whole module's weights at the root, where only the policy's are.
        best = str(self.state.best_model_checkpoint)
        self._load_from_checkpoint(best)
        load_objective_state(self.objective, best, self._state_file(), self.args.device)

    def restore_log_window(self) -> None:
        """`Trainer` begins a new mean of the loss when it resumes; this goes on with the one that was saved."""
        if self._log_window:
            self._tr_loss.copy_(self._log_window["loss"])
            self._globalstep_last_logged = int(self._log_window["since"])
            self._log_window = {}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        saved = PTRModel.from_pretrained(resume_from_checkpoint)
        (self.model if model is None else model).load_state_dict(saved.state_dict())


def model_inputs(batch: dict[str, Any], carry: BeliefCarry | None, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """What [`PTRModel`] takes of a batch, with the belief tokens that `carry` holds for its chunks."""
    given = {name: batch[name] for name in MODEL_INPUTS if name in batch and name not in skip}
    if carry is not None:
        given["carried_tokens"], given["carried"] = carry.recall(batch["previous_index"])
    return given


def candidates_of(policy: Any, batch: dict[str, Any], target: torch.Tensor) -> Candidates:
    """The targets `(N, D)` of a batch, with what tells them apart."""
    return Candidates(
        target=target,
        target_id=batch["target_index"],
        task=batch["task_index"],
        state=policy.normalized_state(batch["state"]).detach(),
        valid=batch["next_valid"],
    )


def load_objective_state(
    objective: PTRObjective,
    folder: str | os.PathLike,
    name: str = STATE_FILE,
    device: torch.device | str = "cpu",
    with_queue: bool = True,
) -> dict[str, torch.Tensor]:
    """
    Restores controller, and queue unless told not to, from a run's or checkpoint's folder; returns all that is there.

    Raises:
        InputError: when the file is missing (as for another number of processes) or damaged.
    """
    file = Path(folder) / name
    try:
        state = load_file(file, device=str(device))
        if with_queue:
            objective.pool.load_state_dict(tensors_under(state, "pool."))
        objective.controller.load_state_dict(tensors_under(state, "controller."))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); start a new run") from error
    return state


def _refuse(args: PTRConfig, train: Any, evaluation: Any, processor: Any, collator: Any) -> None:
    """What cannot be trained, by name and before anything is built."""
    refused = {
        "fsdp": bool(args.fsdp),
        "deepspeed": bool(args.deepspeed),
        "gradient_checkpointing": bool(args.gradient_checkpointing),
        "several devices in one process": args.n_gpu > 1,
    }
    named = [name for name, found in refused.items() if found]
    if named:
        raise InputError(f"{', '.join(named)}: not supported by PTRTrainer yet; use one device a process, without it")
    chunks = train if isinstance(train, ChunkDataset) else None
    if args.belief_tokens and train is not None and not isinstance(train, ChunkDataset | MixtureDataset):
        raise InputError(
            f"train_dataset is a {type(train).__name__}: belief tokens walk along the segments of a ChunkDataset; "
            "pass one, or set belief_tokens to 0"
        )
    if args.calibrates and train is not None:
        if chunks is None:
            raise InputError(
                f"train_dataset is a {type(train).__name__}: calibrated weights are fitted on a ChunkDataset; pass one"
            )
        require_fittable(chunks)
    if chunks is not None and chunks.weights is not None:
        if args.with_scorer or args.calibrates:
            raise InputError(
                "the dataset brings weights, and this run would make its own; set alpha to 0 (and use_scorer not), or "
                "leave the weights out"
            )
        if args.gradient_accumulation_steps > 1:
            raise InputError(
                f"gradient_accumulation_steps is {args.gradient_accumulation_steps}: weights are normalised over one "
                "batch; use 1 and a larger batch"
            )
    if chunks is not None and args.with_scorer and chunks.target_offset >= int(chunks.table.lengths.max()):
        raise InputError(
            f"target_offset {chunks.target_offset} reaches beyond every episode: no chunk has an observation after "
            f"it to identify; choose less than {int(chunks.table.lengths.max())}"
        )
    rows = args.per_device_train_batch_size * args.world_size
    if chunks is not None and args.world_size > 1 and len(chunks) < rows:
        raise InputError(f"{len(chunks)} chunks are fewer than one batch of all ranks ({rows}); lower the batch size")
    if collator is None and (processor is None or not hasattr(processor, "encode_instructions")):
        raise InputError("processing_class must be the policy's processor: it encodes the instructions")
    tasks = [dataset.tasks for dataset in (train, evaluation) if isinstance(dataset, ChunkDataset)]
    if collator is None and len(set(tasks)) > 1:
        raise InputError("eval_dataset lists other tasks than train_dataset; select both from one dataset")


class _Steps(TrainerCallback):
    """What the trainer does at moments that `Trainer` opens to callbacks only."""

    def __init__(self, trainer: PTRTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_log_window()
        if args.world_size > 1 and state.global_step == 0:
            # Trainer gives all ranks one seed; the noise of a rank's samples must be its own.
            torch.manual_seed(args.seed + args.process_index)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.update_target()


def as_ptr_model(
    model: str | os.PathLike | PreTrainedModel, args: PTRConfig, peft_config: PeftConfig | None = None
) -> PTRModel:
    """
    The module to train. A [`PTRModel`], or a run's folder, with the parts that `args` ask for goes on with them;
    another run's folder gives its policy, and the parts are new. With `peft_config` an adapter trains the policy.
    """
    policy: Any = model
    if isinstance(model, str | os.PathLike):
        place = str(model)
        policy = PTRModel.from_pretrained(place) if has_ptr_parts(place) else load_trainable(place)
    if isinstance(policy, PTRModel):
        belief = policy.belief_tokenizer
        has = (policy.scorer is not None, 0 if belief is None else belief.config.num_tokens)
        if has == (args.with_scorer, args.belief_tokens):
            policy.config.scorer_shapes_policy = args.scorer_shapes_policy
            if peft_config is not None:
                policy.set_policy(with_adapter(policy.policy, peft_config))
            return policy
        if policy is model:
            raise InputError(
                f"the model has {'a' if has[0] else 'no'} scorer and {has[1]} belief tokens, and the settings ask for "
                f"{'one' if args.with_scorer else 'none'} and {args.belief_tokens}; pass its .policy, or change alpha "
                "and belief_tokens"
            )
        policy = policy.policy
    return build_ptr_model(
        policy if peft_config is None else with_adapter(policy, peft_config),
        with_scorer=args.with_scorer,
        belief_tokens=args.belief_tokens,
        target_decay=args.target_decay,
        belief_temperature=args.belief_temperature,
        belief_entropy_weight=args.belief_entropy_weight,
        belief_diversity_weight=args.belief_diversity_weight,
        scorer_shapes_policy=args.scorer_shapes_policy,
    )


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint that was written to its end: Trainer writes its state file last. None if there is none."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [folder for folder in folders if _is_complete(folder)]
    newest = max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _is_complete(folder: Path) -> bool:
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return folder.name.rpartition("-")[2].isdigit()
