"""Collation of chunks, and the data loader that follows segments of consecutive chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, default_collate

from hf_ptr.data.chunks import ChunkBatch
from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.training.ptr_config import PTRConfig


class ChunkCollator:
    """
    Joins chunks (see [`ChunkDataset`]) into a batch and adds the encoded instruction of each chunk.

    Each distinct instruction is encoded once, in the constructor; a batch only looks up rows.

    Args:
        processor: processor of the policy, with `encode_instructions`.
        tasks: the instructions of the dataset; `task_index` is an index into them.

    Raises:
        InputError: the policy does not know one of the instructions.
    """

    def __init__(self, processor: Any, tasks: Sequence[str]):
        self.encoded = processor.encode_instructions(list(tasks)) if tasks else {}

    def __call__(self, chunks: Any) -> dict[str, Any]:
        batch = dict(chunks.columns) if isinstance(chunks, ChunkBatch) else default_collate(chunks)
        for name, table in self.encoded.items():
            batch[name] = table[batch["task_index"]]
        return batch


def segment_loader(
    dataset: Chunks,
    batch_size: int,
    collator: Callable[[Any], Any],
    args: PTRConfig,
    accelerator: Accelerator,
    *,
    training: bool,
) -> DataLoader:
    """
    A data loader along segments of consecutive chunks, as belief tokens need them, with the sources of a mixture
    drawn by their weights.

    Args:
        dataset: the chunks.
        batch_size: number of chunks in a micro-batch of this process.
        collator: joins chunks into a batch.
        args: settings of the run.
        accelerator: the accelerator of all processes.
        training: True shuffles the segments and yields whole optimiser steps; False keeps the order of the dataset
            and yields every chunk.
    """
    batches = SegmentBatches(
        dataset,
        batch_size,
        shuffle=training,
        seed=args.seed if args.data_seed is None else args.data_seed,
        rank=args.process_index,
        ranks=args.world_size,
        parts=args.gradient_accumulation_steps if training else 1,
        whole=not training,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        # Older versions of transformers lack these two settings.
        multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
        in_order=getattr(args, "dataloader_in_order", True),
    )
    # One process: the batches are already those of this process, and accelerate must not divide them again.
    return prepare_data_loader(
        loader,
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        # From pinned memory, the next batch is copied while the device computes.
        non_blocking=args.dataloader_pin_memory,
    )
