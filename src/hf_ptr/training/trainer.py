"""PTRTrainer: `transformers.Trainer` whose loss decides how much each recorded chunk counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import AutoModel, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .. import functional as F
from ..scoring import Candidates
from .collator import SegmentCollator
from .config import ARGUMENTS_FILE, PTRConfig
from .model import PTRModel, build_ptr_model, tensors_under
from .objective import Losses, PTRObjective

MODEL_INPUTS = (
    "observation",
    "state",
    "instruction_ids",
    "instruction_mask",
    "actions",
    "action_mask",
    "next_observation",
    "segment_rows",
)
STATE_FILE = "ptr_state.safetensors"


class PTRTrainer(Trainer):
    """
    Post-trains a policy by Posterior-Transition Reweighting.

    Args:
        model: a policy, a [`PTRModel`], or the folder or Hub id of either.
        args: the run's settings.
        train_dataset: segments of consecutive chunks, see [`SegmentDataset`].
        eval_dataset: of the same kind; `eval_loss` is the unweighted action loss.
        processing_class: the policy's processor, which encodes the instructions.
        data_collator: packs segments into a batch; made from the processor and the dataset when left out.

    Example:
        ```python
        trainer = PTRTrainer(model=policy, args=PTRConfig(output_dir="out"), train_dataset=segments,
                             processing_class=processor)
        trainer.train()
        ```
    """

    args: PTRConfig
    model: PTRModel

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
    ):
        if data_collator is None:
            dataset = train_dataset if train_dataset is not None else eval_dataset
            data_collator = SegmentCollator(processing_class, tasks=getattr(dataset, "tasks", ()))
        super().__init__(
            model=as_ptr_model(model, args),
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[_TargetUpdate(), *(callbacks or [])],
            optimizers=optimizers,
        )
        ranks = self.accelerator.num_processes
        self.objective = PTRObjective(args, gather=self._gather if ranks > 1 else None, ranks=ranks)
        self._sums: dict[str, torch.Tensor] = {}
        self._batches = 0

    # ---- the loss ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """`L_total` of PTR Sec. 8 for one packed batch."""
        output = model(**{name: inputs[name] for name in MODEL_INPUTS if name in inputs})
        with F.unchecked():
            losses = self.objective(
                output,
                None if output.target is None else candidates_of(self._policy(), inputs, output.target),
                self._discount(inputs),
                step=self.state.global_step,
            )
        if losses.score is not None:
            self.objective.remember()
        self._accumulate(losses)
        return (losses.total, output) if return_outputs else losses.total

    def _policy(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model).policy

    def _discount(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        if self.args.discount == 1.0:
            return None
        return self.args.discount ** (inputs["target_offset"] / inputs["actions"].shape[1])

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """`(N, …)` of every rank as one `(ΣN, …)` constant; ranks may differ in N."""
        tensor = tensor.detach()
        if not self.args.cross_rank_negatives and tensor.dim() != 1:
            return tensor
        sizes = self.accelerator.gather(torch.tensor([tensor.shape[0]], device=tensor.device)).tolist()
        padded = self.accelerator.pad_across_processes(tensor, dim=0)
        rows = self.accelerator.gather(padded).split(padded.shape[0])
        return torch.cat([part[:size] for part, size in zip(rows, sizes, strict=True)])

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The unweighted action loss of a batch: evaluation never sees a weight, nor touches queue or metrics."""
        inputs = self._prepare_inputs(inputs)
        names = [name for name in MODEL_INPUTS if name in inputs and name != "next_observation"]
        with torch.no_grad():
            output = model(**{name: inputs[name] for name in names})
        return output.action_loss.mean(), None, None

    # ---- metrics: summed on the device, read at logging steps ----

    def _accumulate(self, losses: Losses) -> None:
        for name, value in losses.metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._batches += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the method's metrics, as means since the last log, and lets the controller take its step."""
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
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        self._save_state_file(folder)
        (folder / ARGUMENTS_FILE).write_text(json.dumps(self.args.to_sanitized_dict(), indent=2, default=str) + "\n")

    def _save_state_file(self, folder: str | os.PathLike) -> None:
        """Queue, controller and running metrics, which no part of the model holds."""
        state = {f"pool.{name}": value for name, value in self.objective.pool.state_dict().items()}
        state.update({f"controller.{name}": value for name, value in self.objective.controller.state_dict().items()})
        state.update({f"metrics.{name}": value.detach() for name, value in self._sums.items()})
        state["batches"] = torch.tensor(self._batches)
        save_file({name: value.contiguous() for name, value in state.items()}, os.path.join(folder, STATE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = load_objective_state(self.objective, checkpoint, device=self.args.device)
        self._sums, self._batches = tensors_under(state, "metrics."), int(state["batches"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        saved = PTRModel.from_pretrained(resume_from_checkpoint)
        (self.model if model is None else model).load_state_dict(saved.state_dict())


def candidates_of(policy: PreTrainedModel, batch: dict[str, Any], target: torch.Tensor) -> Candidates:
    """The targets `(N, D)` of a packed batch, with what tells them apart."""
    return Candidates(
        target=target,
        target_id=batch["target_index"],
        task=batch["task_index"],
        state=policy.normalized_state(batch["state"]).detach(),
        valid=batch["next_valid"],
    )


def load_objective_state(
    objective: PTRObjective, folder: str | os.PathLike, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Restores queue and controller from a run's or checkpoint's folder; returns all that the file holds."""
    state = load_file(os.path.join(folder, STATE_FILE), device=str(device))
    objective.pool.load_state_dict(tensors_under(state, "pool."))
    objective.controller.load_state_dict(tensors_under(state, "controller."))
    return state


class _TargetUpdate(TrainerCallback):
    """Moves the target encoder after each optimiser step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.update_target()


def as_ptr_model(model: str | os.PathLike | PreTrainedModel, args: PTRConfig) -> PTRModel:
    """The module to train: `model` itself if it has its PTR parts, else the policy with new ones, as `args` say."""
    if isinstance(model, PTRModel):
        return model
    policy = AutoModel.from_pretrained(model) if isinstance(model, str | os.PathLike) else model
    return build_ptr_model(
        policy,
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
