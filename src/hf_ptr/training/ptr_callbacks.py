"""Callbacks of the method: the target encoder follows the policy, and the weights are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.training.weight_histograms import forget_histograms_after

if TYPE_CHECKING:
    from hf_ptr.training.ptr_trainer import PTRTrainer

# Metrics next to the progress bar, and their short names.
PROGRESS_METRICS = {"loss_action": "loss", "ptr_score": "score", "weight_mean": "weight", "ess": "ess"}
HISTOGRAM_NAME = "train/weight"


class PTRSteps(TrainerCallback):
    """
    The method's part of a run's start (forgets what was recorded after its checkpoint) and of each of its steps.

    Args:
        trainer: whose controller takes its steps.
    """

    def __init__(self, trainer: PTRTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            forget_histograms_after(Path(str(args.output_dir)), state.global_step)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Older versions of transformers set the epoch of a resumed run on the loader that skips the batches done only,
        # which does not pass it on: the rest of the epoch would have the order of the first one.
        batches = getattr(train_dataloader, "batch_sampler", None)
        if isinstance(batches, SegmentBatches):
            batches.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.update_target()
        # Before the step is logged or saved.
        self.trainer.adapt()


def log_histogram(
    callbacks: Iterable[TrainerCallback], step: int, edges: Sequence[float], counts: Sequence[int]
) -> None:
    """
    Sends the weights since the last log to TensorBoard, trackio and Weights & Biases, whichever `report_to` names.

    Args:
        callbacks: of the trainer, after its integrations have started their runs.
        step: the optimiser step.
        edges: `B + 1` ascending bounds of the bins.
        counts: `B`, weights in each bin.
    """
    for callback in callbacks:
        # Trainer's integrations expose no more than this; `wandb` and `trackio` are called as a user would, with the
        # current run.
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            _to_tensorboard(callback.tb_writer, step, edges, counts)
        elif isinstance(callback, WandbCallback):
            import wandb

            histogram = wandb.Histogram(np_histogram=(list(counts), list(edges)))
            wandb.log({HISTOGRAM_NAME: histogram, "train/global_step": step})
        elif isinstance(callback, TrackioCallback):
            import trackio

            histogram = trackio.Histogram(np_histogram=(list(counts), list(edges)))
            trackio.log({HISTOGRAM_NAME: histogram, "train/global_step": step})


def _to_tensorboard(writer, step: int, edges: Sequence[float], counts: Sequence[int]) -> None:
    """Sums are those of the bin centres: of the weights themselves only the counts are known."""
    limits, number = np.asarray(edges), np.asarray(counts)
    middle = (limits[:-1] + limits[1:]) / 2
    filled = np.flatnonzero(number)
    writer.add_histogram_raw(
        HISTOGRAM_NAME,
        min=float(limits[filled[0]]),
        max=float(limits[filled[-1] + 1]),
        num=int(number.sum()),
        sum=float(number @ middle),
        sum_squares=float(number @ middle**2),
        bucket_limits=limits[1:].tolist(),
        bucket_counts=number.tolist(),
        global_step=step,
    )
