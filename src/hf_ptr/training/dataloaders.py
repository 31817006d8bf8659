"""In which order a run sees its chunks, and how they reach this rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.training.ptr_config import PTRConfig


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
    Walks along segments of consecutive chunks, as belief tokens need, and through a mixture by its weights.

    Args:
        dataset: the chunks.
        batch_size: chunks of a micro-batch of this rank.
        collator: joins them to a batch.
        args: of the run.
        accelerator: of all ranks.
        training: shuffled and cut into whole optimiser steps; else in the dataset's order, nothing left out.
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
    )
    # As if there were one process: the order is this rank's already, and must not be divided again.
    return prepare_data_loader(
        loader,
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        # Out of pinned memory the next batch is copied while the device still computes.
        non_blocking=args.dataloader_pin_memory,
    )
