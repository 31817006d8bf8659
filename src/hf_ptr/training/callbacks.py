"""Callbacks of any run: stop signals and the progress bar."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import ProgressCallback, TrainerCallback

from hf_ptr.utils.progress import NO_BARS, progress_bar
from hf_ptr.utils.random_state import seed_device

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Launchers pass on to their processes the Ctrl-C that the terminal has already sent: it is not a second one.
ECHO_SECONDS = 2.0


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
            # None: the handler was not installed from Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
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
            seed_device(args.device, args.seed + args.process_index)

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer.stopped_by = trainer.group.all_reduce_max(trainer.stop_signals.received)
        if trainer.stopped_by:
            control.should_save = control.should_training_stop = True


# ---- progress


def use_rich_progress(trainer: Any, shown: Mapping[str, str], console: Console | None = None) -> None:
    """
    Replaces Trainer's bar with [`RichProgress`] in a terminal, unless `disable_tqdm` is set. Elsewhere the logs stay
    lines.
    """
    console = Console(stderr=True) if console is None else console
    if console.is_terminal and not trainer.args.disable_tqdm and trainer.args.local_process_index == 0:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(RichProgress(console, shown))


@contextmanager
def step_lines(trainer: Any) -> Iterator[None]:
    """Lines with the steps of a run inside the context, where bars are disabled because there is no terminal."""
    shown = os.environ.get(NO_BARS) == "1" and trainer.args.local_process_index == 0
    with progress_bar(shown) as progress:
        callback = StepLines(progress)
        trainer.add_callback(callback)
        try:
            yield
        finally:
            trainer.remove_callback(callback)


class StepLines(TrainerCallback):
    """
    Shows the steps of a run in a progress display.

    Args:
        progress: the display, already started.
    """

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_begin(self, args, state, control, **kwargs):
        """Adds a task with the number of steps."""
        self._task = self.progress.add_task("training, steps", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        """Updates the number of finished steps."""
        self.progress.update(self._task, completed=state.global_step)


class RichProgress(TrainerCallback):
    """
    A bar with some metrics of the last log.

    Args:
        console: to draw on.
        shown: metrics of a log, and their short names.
    """

    def __init__(self, console: Console, shown: Mapping[str, str]):
        self.console = console
        self.shown = shown
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
        values = [f"{name} {logs[key]:.3g}" for key, name in self.shown.items() if key in (logs or {})]
        if self._bar is not None and values:
            self._bar.update(self._task, metrics="  ".join(values))

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
