"""The histogram of the weights, to whatever `report_to` names: TensorBoard, trackio and Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

NAME = "train/weight"


def show_histogram(
    callbacks: Iterable[TrainerCallback], step: int, edges: Sequence[float], counts: Sequence[int]
) -> None:
    """
    Hands the weights since the last log to those integrations of Trainer that can show how they are distributed.

    Args:
        callbacks: of the trainer, whose integrations have begun their run.
        step: the optimiser step.
        edges: `B + 1` ascending bounds of the bins.
        counts: `B`, weights in each.
    """
    for callback in callbacks:
        # Of their callbacks, Trainer's integrations open no more than this to others; `wandb` and `trackio` are what
        # a user would call, with the run that is under way.
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            _to_tensorboard(callback.tb_writer, step, edges, counts)
        elif isinstance(callback, WandbCallback):
            import wandb

            wandb.log({NAME: wandb.Histogram(np_histogram=(list(counts), list(edges))), "train/global_step": step})
        elif isinstance(callback, TrackioCallback):
            import trackio

            trackio.log({NAME: trackio.Histogram(np_histogram=(list(counts), list(edges))), "train/global_step": step})


def _to_tensorboard(writer, step: int, edges: Sequence[float], counts: Sequence[int]) -> None:
    """Sums are those of the bins' middles, as of the weights themselves only the counts are known."""
    limits, number = np.asarray(edges), np.asarray(counts)
    middle = (limits[:-1] + limits[1:]) / 2
    held = np.flatnonzero(number)
    writer.add_histogram_raw(
        NAME,
        min=float(limits[held[0]]),
        max=float(limits[held[-1] + 1]),
        num=int(number.sum()),
        sum=float(number @ middle),
        sum_squares=float(number @ middle**2),
        bucket_limits=limits[1:].tolist(),
        bucket_counts=number.tolist(),
        global_step=step,
    )
