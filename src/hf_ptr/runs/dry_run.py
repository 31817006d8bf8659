"""The dry run of a recipe: data, policy, steps and memory of the run, without training."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments

from hf_ptr.equations import kl_bound
from hf_ptr.errors import InputError
from hf_ptr.runs.build import read_inputs
from hf_ptr.runs.memory import bytes_on_each, kept_bytes, step_bytes
from hf_ptr.runs.operations import SEVERAL, step_operations, time_in_words
from hf_ptr.runs.recipe import Recipe, load_recipe
from hf_ptr.runs.run import require_same_run
from hf_ptr.training.ptr_config import PTRConfig, default_of
from hf_ptr.training.ptr_trainer import PTRTrainer

# Settings of the method that the plan states by themselves, or that `alpha` decides.
STATED = {"scoring", "score_settings", "harm", "alpha", "belief_tokens", "nce_warmup_steps", "use_scorer"}
# The others, whose defaults are those of the paper: the plan names them where a run differs.
PUBLISHED = [
    field
    for field in dataclasses.fields(PTRConfig)
    if field.name not in STATED | {base.name for base in dataclasses.fields(TrainingArguments)}
]


def plan_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """
    Reads recipe and data, builds the policy, and returns the plan of the run. Writes nothing.

    Returns:
        The sections of the plan: `data`, `policy`, `steps`, `method`, `memory`, `time`, `output`.

    Raises:
        InputError: as `run_recipe`.
    """
    recipe, for_accelerator = _load(path, overrides)
    folder = str(recipe.training.output_dir)
    require_same_run(Path(folder), recipe)
    with tempfile.TemporaryDirectory() as temporary:
        training = copy.copy(recipe.training)
        # Trainer creates its output folder, and would create the repository as well.
        training.output_dir, training.push_to_hub = temporary, False
        planned = dataclasses.replace(recipe, training=training)
        inputs = read_inputs(planned)
        # Calibrated weights need a fit, and the plan does not depend on their values.
        trainer = (inputs.uniform() if training.calibrates else inputs).trainer()
        plan = _plan(planned, trainer)
        if for_accelerator:
            plan["steps"]["devices"] = "this machine has no accelerator, which these settings need"
        return {**plan, "output": {"folder": folder}}


def _load(path: str | Path, overrides: Sequence[str]) -> tuple[Recipe, bool]:
    """The recipe, and True if it needs an accelerator that this machine lacks; it is planned on the CPU then."""
    try:
        return load_recipe(path, overrides), False
    except InputError as error:
        if torch.accelerator.is_available() or "use_cpu" not in str(error):
            raise
    recipe = load_recipe(path, [*overrides, "use_cpu=true"])
    del recipe.given["use_cpu"]
    return recipe, True


def _plan(recipe: Recipe, trainer: PTRTrainer) -> dict[str, dict[str, Any]]:
    args, data = trainer.args, recipe.data
    chunks: Any = trainer.train_dataset
    held_out: Any = trainer.eval_dataset
    tables, held_out_tables = (
        [] if part is None else [each.table for each in getattr(part, "parts", [part])] for part in (chunks, held_out)
    )
    sources = getattr(chunks, "sources", ())
    faults = [f"{source.name}: {source.truth.recipe}" for source in sources if source.truth.faults]
    batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    micro_batches = len(trainer.get_train_dataloader())
    # As Trainer counts them.
    steps_per_epoch = max(1, -(-micro_batches // args.gradient_accumulation_steps))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    parameters = list(trainer.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    fixed = sum(p.numel() for p in parameters) - trained
    few = trainer.data_collator(chunks.__getitems__(list(range(min(2, len(chunks))))))
    table_bytes = sum(column.nbytes for table in tables for column in table.columns.values())
    return {
        "data": {
            "dataset": data.dataset or ", ".join(chunks.source_names),
            "episodes": sum(table.num_episodes for table in tables),
            "chunks": f"{len(chunks):,}",
            "tasks": len({table.tasks[task] for table in tables for task in set(table.task_index.tolist())}),
            "synthetic faults": ", ".join(faults) or data.corruption,
            "held out": sum(table.num_episodes for table in held_out_tables),
        },
        "policy": {
            "class": type(trainer.model.policy).__name__,
            "parameters": f"{trained + fixed:,}",
            "trained": f"{trained:,}",
        },
        "steps": {
            "steps": f"{steps:,}",
            "chunks per step": batch_size,
            "epochs": f"{steps / steps_per_epoch:.1f}",
            "learning rate": f"{args.learning_rate:g}, {SchedulerType(args.lr_scheduler_type).value}",
            "warm-up steps": f"{args.get_warmup_steps(steps):,}",
            "devices": f"{args.world_size} x {args.device.type}",
        },
        "method": {
            "arm": arm_of(trainer),
            **_weights(trainer),
        },
        "memory": {
            **_memory(trainer, few),
            "on the host": f"{_mebibytes(table_bytes)} of vectors; images are decoded when they are needed",
        },
        "time": _time(trainer, few, trained),
    }


def _weights(trainer: PTRTrainer) -> dict[str, Any]:
    """The strength, the range and the effect of the weights; measured where they are given."""
    args = trainer.args
    given = getattr(trainer.train_dataset, "weights", None)
    if given is None or args.calibrates:
        w_min, w_max = args.weight_clip
        return {
            "α": args.alpha,
            "weight range": f"[{w_min:g}, {w_max:g}]",
            "KL(q‖p)": f"at most {kl_bound(args.alpha, w_min, w_max):.2f} nats",
        }
    share = given.double() / given.double().sum()
    divergence = float(torch.xlogy(share, share * len(share)).sum())
    return {
        "α": "not used, as the weights are given",
        "weight range": f"[{float(given.min()):g}, {float(given.max()):g}]",
        "KL(q‖p)": f"{divergence:.2f} nats",
    }


def arm_of(trainer: PTRTrainer) -> str:
    """The arm of an experiment that the settings select, in words."""
    args = trainer.args
    belief = f" with {args.belief_tokens} belief tokens" if args.belief_tokens else ""
    if args.calibrates:
        return f"calibrated weights, fitted before the first step{belief}"
    if getattr(trainer.train_dataset, "weights", None) is not None:
        return f"regression with the weights of a score file{belief}"
    if args.alpha > 0:
        warm_up = args.time_constants.nce_warmup_steps
        given = {field.name: (getattr(args, field.name), default_of(field, args.scoring)) for field in PUBLISHED}
        other = ", ".join(f"{name} {value}" for name, (value, default) in given.items() if value != default)
        method = f"PTR with {other}{belief.replace(' with', ',')}" if other else f"PTR as published{belief}"
        return f"{method}; every weight is 1 for the first {warm_up:,} steps"
    return f"plain supervised post-training{belief}"


def _time(trainer: PTRTrainer, few: dict[str, Any], trained: int) -> dict[str, str]:
    args = trainer.args
    chunks, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    operations = step_operations(trainer.model, few, chunks)
    if operations is None:
        return {"operations": "unknown before the first step of this policy"}
    # Gradients are exchanged in float32, as they are kept.
    return time_in_words(operations, chunks, accumulation, 4 * trained)


def _memory(trainer: PTRTrainer, few: dict[str, Any]) -> dict[str, str]:
    """Memory of one device, and of each of several: as many as the run has, or [`SEVERAL`]."""
    args = trainer.args
    kept, chunks = kept_bytes(trainer.model), args.per_device_train_batch_size
    step = step_bytes(trainer.model, few, chunks, args.gradient_accumulation_steps)
    peak = "unknown before the first step of this policy, whose activations depend on values"
    if step is not None:
        size = _mebibytes(kept.weights + kept.moments + step)
        peak = f"about {size} on one device with micro-batches of {chunks} chunks, within about a fifth"
    ranks = args.world_size if args.world_size > 1 else SEVERAL
    shares = [f"{_mebibytes(most)} by {way}" for way, (_, most) in bytes_on_each(kept, ranks).items()]
    return {
        "kept": f"{_mebibytes(kept.total)} of weights, gradients and AdamW on one device",
        "peak of a step": peak,
        f"on each of {ranks}": f"{', '.join(shares)}, without activations",
    }


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"
