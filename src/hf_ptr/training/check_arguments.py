"""Checks of a trainer's arguments before anything is built."""

from __future__ import annotations

from typing import Any

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks, MixtureDataset
from hf_ptr.errors import InputError
from hf_ptr.scoring.fit import require_fittable
from hf_ptr.training.calibrated_weights import parts_to_fit
from hf_ptr.training.ptr_config import PTRConfig


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
    if chunks is not None:
        _check_chunks(args, chunks)
    if collator is None and (processor is None or not hasattr(processor, "encode_instructions")):
        raise InputError("processing_class must be the processor of the policy, which encodes the instructions")
    tasks = [data.tasks for data in (train, evaluation) if isinstance(data, Chunks)]
    if collator is None and len(set(tasks)) > 1:
        raise InputError("eval_dataset has other tasks than train_dataset; select both from one dataset")


def uses_segments(args: PTRConfig, dataset: Any) -> bool:
    """Whether [`SegmentBatches`] orders the training data: with belief tokens, and for a mixture."""
    return isinstance(dataset, MixtureDataset) or (isinstance(dataset, ChunkDataset) and args.belief_tokens > 0)


def _check_chunks(args: PTRConfig, chunks: Chunks) -> None:
    if args.with_scorer and chunks.weights is not None:
        raise InputError(
            "the dataset has weights, and this run would compute its own; set alpha to 0 and leave use_scorer out, or "
            "leave the weights out"
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


def _require_targets(data: Chunks) -> None:
    names = [f"source {name}: " for name in data.source_names] if isinstance(data, MixtureDataset) else [""]
    for name, part in zip(names, data.parts if isinstance(data, MixtureDataset) else [data], strict=True):
        longest = int(part.table.lengths.max())
        if part.target_offset >= longest:
            raise InputError(
                f"{name}target_offset {part.target_offset} reaches beyond every episode, so no chunk has a "
                f"next_observation to identify; choose less than {longest}"
            )
