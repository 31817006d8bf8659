"""Checks of a trainer's arguments before anything is built."""

from __future__ import annotations

import warnings
from typing import Any

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks, MixtureDataset
from hf_ptr.errors import DataWarning, InputError
from hf_ptr.scoring.fit import require_fittable
from hf_ptr.training.calibrated_weights import parts_to_fit
from hf_ptr.training.ptr_config import PTRConfig

TWO_WEIGHTS = (
    "the dataset has weights, and this run would compute its own; set alpha to 0 and leave use_scorer out, or leave "
    "the weights out"
)


def check_arguments(args: PTRConfig, train: Any, evaluation: Any, processor: Any, collator: Any) -> None:
    """
    Checks the arguments of a [`PTRTrainer`].

    Args:
        args: settings of the run.
        train, evaluation: the datasets; either may be None.
        processor: processor of the policy.
        collator: the data collator; None for the default one.

    Raises:
        InputError: an argument cannot be used; the message names it and the fix.
    """
    if args.n_gpu > 1:
        raise InputError(
            f"one process has {args.n_gpu} devices; launch one process per device, e.g. accelerate launch --multi_gpu"
        )
    chunks = train if isinstance(train, Chunks) else None
    if train is not None and chunks is None and args.belief_tokens:
        raise InputError(
            f"train_dataset is a {type(train).__name__}, and belief tokens need the segments of a ChunkDataset; pass "
            "one, or set belief_tokens to 0"
        )
    if train is not None and chunks is None and args.calibrates:
        raise InputError(
            f"train_dataset is a {type(train).__name__}, and calibrated weights are fitted on a ChunkDataset; pass one"
        )
    if train is not None:
        _require_a_step(args, train)
    if chunks is not None:
        _check_chunks(args, chunks)
    if args.with_scorer and args.lambda_rank > 0 and args.per_device_train_batch_size == 1:
        warnings.warn(
            "per_device_train_batch_size is 1: L_rank permutes actions within a micro-batch, and is left out; set it "
            "to 2 or more, with fewer gradient_accumulation_steps",
            DataWarning,
            stacklevel=2,
        )
    _warn_of_warm_up(args)
    if collator is None and (processor is None or not hasattr(processor, "encode_instructions")):
        raise InputError("processing_class must be the processor of the policy, which encodes the instructions")
    tasks = [data.tasks for data in (train, evaluation) if isinstance(data, Chunks)]
    if collator is None and len(set(tasks)) > 1:
        raise InputError("eval_dataset has other tasks than train_dataset; select both from one dataset")
    if evaluation is not None:
        _require_best_metric(args, evaluation)


def _require_best_metric(args: PTRConfig, evaluation: Any) -> None:
    if args.metric_for_best_model is None:
        return
    metric = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    measured = [f"eval_{name}_loss" for name in evaluation] if isinstance(evaluation, dict) else ["eval_loss"]
    if metric not in measured:
        raise InputError(
            f"metric_for_best_model is {args.metric_for_best_model}, which no evaluation measures; set it to "
            f"{' or '.join(measured)}"
        )


def uses_segments(args: PTRConfig, dataset: Any) -> bool:
    """Whether [`SegmentBatches`] orders the training data: with belief tokens, and for a mixture."""
    return isinstance(dataset, MixtureDataset) or (isinstance(dataset, ChunkDataset) and args.belief_tokens > 0)


def _check_chunks(args: PTRConfig, chunks: Chunks) -> None:
    if args.with_scorer and chunks.weights is not None:
        raise InputError(TWO_WEIGHTS)
    if uses_segments(args, chunks) and _text(args.train_sampling_strategy) != "random":
        raise InputError(
            f"train_sampling_strategy {_text(args.train_sampling_strategy)} is not read with belief tokens or "
            "sources, which follow shuffled segments; remove it"
        )
    if args.calibrates and chunks.weights is None:
        for part in parts_to_fit(chunks).values():
            require_fittable(part)
    if args.with_scorer:
        _require_targets(chunks)
    unit = "step" if uses_segments(args, chunks) else "batch"
    rows = args.per_device_train_batch_size * args.world_size
    rows *= args.gradient_accumulation_steps if unit == "step" else 1
    if args.world_size > 1 and len(chunks) < rows:
        raise InputError(
            f"{len(chunks)} chunks are fewer than one {unit} of all processes ({rows}); lower "
            "per_device_train_batch_size"
        )


def _require_a_step(args: PTRConfig, train: Any) -> None:
    """Refuses a run of 0 steps, which would end as if it had trained."""
    chunks = len(train) if hasattr(train, "__len__") else None
    if chunks == 0:
        raise InputError("train_dataset is empty; choose episodes with at least one chunk")
    rows = args.per_device_train_batch_size * args.world_size
    if chunks is not None and chunks < rows and args.dataloader_drop_last and not uses_segments(args, train):
        raise InputError(
            f"dataloader_drop_last drops the only batch: {chunks} chunks are fewer than {rows}, so the run would make "
            "0 steps; lower per_device_train_batch_size, or remove dataloader_drop_last"
        )


def _warn_of_warm_up(args: PTRConfig) -> None:
    """Warns of a run that ends before its learning rate has risen, or before its weights count."""
    steps = args.max_steps
    if steps > 0 and args.warmup_steps >= 1 and args.get_warmup_steps(steps) >= steps:
        warnings.warn(
            f"warmup_steps {args.warmup_steps:g} lasts for the whole run of {steps} steps, whose learning rate "
            "never reaches its peak; lower it, to 0.05 for a share of the steps",
            DataWarning,
            stacklevel=3,
        )
    if steps > 0 and args.with_scorer and args.alpha > 0 and args.time_constants.nce_warmup_steps >= steps:
        warnings.warn(
            f"nce_warmup_steps {args.nce_warmup_steps} lasts for the whole run of {steps} steps: every weight is 1, "
            "as with alpha 0; lower it",
            DataWarning,
            stacklevel=3,
        )


def _text(setting: Any) -> str:
    return str(getattr(setting, "value", setting))


def _require_targets(data: Chunks) -> None:
    names = [f"source {name}: " for name in data.source_names] if isinstance(data, MixtureDataset) else [""]
    for name, part in zip(names, data.parts if isinstance(data, MixtureDataset) else [data], strict=True):
        longest = int(part.table.lengths.max())
        if part.target_offset >= longest:
            raise InputError(
                f"{name}target_offset {part.target_offset} reaches beyond every episode, so no chunk has a "
                f"next_observation to identify; choose less than {longest}"
            )
