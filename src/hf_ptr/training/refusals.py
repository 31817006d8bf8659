"""What cannot be trained, by name and before anything is built."""

from __future__ import annotations

from typing import Any

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.errors import InputError
from hf_ptr.scoring.fitting import require_fittable
from hf_ptr.training.config import PTRConfig


def refuse(args: PTRConfig, train: Any, evaluation: Any, processor: Any, collator: Any) -> None:
    """What cannot be trained, by name and before anything is built."""
    if args.n_gpu > 1:
        raise InputError(
            f"one process has {args.n_gpu} devices; launch one process a device, as with accelerate launch --multi_gpu"
        )
    chunks = train if isinstance(train, ChunkDataset) else None
    if args.belief_tokens and train is not None and chunks is None:
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
    if chunks is not None and chunks.weights is not None and (args.with_scorer or args.calibrates):
        raise InputError(
            "the dataset brings weights, and this run would make its own; set alpha to 0 (and use_scorer not), or "
            "leave the weights out"
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
