"""Callbacks of a run: its own steps, the stop signals, the progress bar, and the histogram of the weights."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import ProgressCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_ptr.training.weight_histograms import forget_histograms_after

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Launchers pass on to their processes the Ctrl-C that the terminal has already sent: it is not a second one.
ECHO_SECONDS = 2.0
# Metrics of a log shown next to the progress bar, and their short names.
SHOWN = {"loss_action": "loss", "ptr_score": "score", "weight_mean": "weight", "ess": "ess"}
HISTOGRAM_NAME = "train/weight"


# ---- stopping


class StopSignals:
    """
    While entered, records the first SIGTERM or SIGINT; a later Ctrl-C interrupts at once. Does nothing outside the
    main thread, where Python allows no signal handlers.

    Attributes:
        received: number of the signal; 0 without a signal.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker is stopped by the run.
            return
        if not self.received:
            self.received, self._since = number, time.monotonic()
            again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            os.write(2, f"\nhf-ptr: stopping after this step, with a checkpoint{again}\n".encode())
        elif number == signal.SIGINT and time.monotonic() - self._since > ECHO_SECONDS:
            raise KeyboardInterrupt


class StopAfterStep(TrainerCallback):
    """
    Ends a run with a checkpoint after the step in which any of its processes has received a stop signal.

    Args:
        trainer: a [`ResumableTrainer`].
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1 and state.global_step == 0:
            # Trainer gives all processes one seed; the noise of each process's samples must be its own.
            torch.manual_seed(args.seed + args.process_index)

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer.stopped_by = trainer.group.all_reduce_max(trainer.stop_signals.received)
        if trainer.stopped_by:
            control.should_save = control.should_training_stop = True


class PTRSteps(TrainerCallback):
    """The method's part of the start of a run (drops records made after its checkpoint) and of each step."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            forget_histograms_after(Path(str(args.output_dir)), state.global_step)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.update_target()


# ---- progress


def use_rich_progress(trainer: Any, console: Console | None = None) -> None:
    """
    Replaces Trainer's bar with [`RichProgress`] in a terminal, unless `disable_tqdm` is set. Elsewhere the logs stay
    lines.
    """
    console = Console(stderr=True) if console is None else console
    if console.is_terminal and not trainer.args.disable_tqdm and trainer.args.local_process_index == 0:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(RichProgress(console))


class RichProgress(TrainerCallback):
    """
    A bar with the last log's action loss, score, mean weight and effective sample size over n.

    Args:
        console: console to draw on.
    """

    def __init__(self, console: Console):
        self.console = console
        self._bar: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, metrics="")
        self._bar.start()
        # A run that ends with an error does not reach on_train_end, and would leave the terminal without a cursor.
        atexit.register(self._bar.stop)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        values = [f"{name} {logs[key]:.3g}" for key, name in SHOWN.items() if key in (logs or {})]
        if self._bar is not None and values:
            self._bar.update(self._task, metrics="  ".join(values))

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


# ---- weights


def log_histogram(
    callbacks: Iterable[TrainerCallback], step: int, edges: Sequence[float], counts: Sequence[int]
) -> None:
    """
    Sends the weights since the last log to TensorBoard, trackio and Weights & Biases, whichever `report_to` names.

    Args:
        callbacks: callbacks of the trainer, after its integrations have started their runs.
        step: the optimiser step.
        edges: `B + 1` ascending bounds of the bins.
        counts: `B` numbers of weights, one per bin.
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
    """Sums use the bin centres, because only the counts of the weights are known."""
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
