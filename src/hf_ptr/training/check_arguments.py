"""What cannot be trained, by name and before anything is built."""

from __future__ import annotations

from typing import Any

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks, MixtureDataset
from hf_ptr.errors import InputError
from hf_ptr.scoring.fit import require_fittable
from hf_ptr.training.calibrated_weights import parts_to_fit
from hf_ptr.training.ptr_config import PTRConfig


def refuse(args: PTRConfig, train: Any, evaluation: Any, processor: Any, collator: Any) -> None:
    """What cannot be trained, by name and before anything is built."""
    if args.n_gpu > 1:
        raise InputError(
            f"one process has {args.n_gpu} devices; launch one process a device, as with accelerate launch --multi_gpu"
        )
    if args.belief_tokens and train is not None and not isinstance(train, Chunks):
        raise InputError(
            f"train_dataset is a {type(train).__name__}: belief tokens walk along the segments of a ChunkDataset; "
            "pass one, or set belief_tokens to 0"
        )
    if args.calibrates and train is not None:
        if not isinstance(train, Chunks):
            raise InputError(
                f"train_dataset is a {type(train).__name__}: calibrated weights are fitted on a ChunkDataset; pass one"
            )
        for part in parts_to_fit(train).values():
            require_fittable(part)
    weights = train.weights if isinstance(train, Chunks) else None
    if weights is not None and (args.with_scorer or args.calibrates):
        raise InputError(
            "the dataset brings weights, and this run would make its own; set alpha to 0 (and use_scorer not), or "
            "leave the weights out"
        )
    if args.with_scorer and isinstance(train, Chunks):
        _require_targets(train)
    rows = args.per_device_train_batch_size * args.world_size
    rows *= args.gradient_accumulation_steps if walks(args, train) else 1
    counted = train if isinstance(train, Chunks) else None
    if counted is not None and args.world_size > 1 and len(counted) < rows:
        what = "step" if walks(args, train) else "batch"
        raise InputError(
            f"{len(counted)} chunks are fewer than one {what} of all ranks ({rows}); lower per_device_train_batch_size"
        )
    if collator is None and (processor is None or not hasattr(processor, "encode_instructions")):
        raise InputError("processing_class must be the policy's processor: it encodes the instructions")
    tasks = [data.tasks for data in (train, evaluation) if isinstance(data, Chunks)]
    if collator is None and len(set(tasks)) > 1:
        raise InputError("eval_dataset lists other tasks than train_dataset; select both from one dataset")


def walks(args: PTRConfig, dataset: Any) -> bool:
    """Whether [`SegmentBatches`] orders the training: of belief tokens, and of a mixture."""
    return isinstance(dataset, MixtureDataset) or (isinstance(dataset, ChunkDataset) and args.belief_tokens > 0)


def _require_targets(data: Chunks) -> None:
    names = [f"source {name}: " for name in data.source_names] if isinstance(data, MixtureDataset) else [""]
    for name, part in zip(names, data.parts if isinstance(data, MixtureDataset) else [data], strict=True):
        longest = int(part.table.lengths.max())
        if part.target_offset >= longest:
            raise InputError(
                f"{name}target_offset {part.target_offset} reaches beyond every "
                f"episode: no chunk has an observation after it to identify; choose less than {longest}"
            )
