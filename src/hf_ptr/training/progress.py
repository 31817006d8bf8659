"""How a run is shown while it trains in a terminal: one bar with what matters, instead of a dictionary a line."""

from __future__ import annotations

import atexit
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import ProgressCallback, TrainerCallback

# What is shown of a log, and as what.
SHOWN = {"loss_action": "loss", "ptr_score": "score", "weight_mean": "weight", "ess": "ess"}


def use_rich_progress(trainer: Any, console: Console | None = None) -> None:
    """
    Puts [`RichProgress`] in the place of Trainer's bar, in a terminal and unless `disable_tqdm` is set; elsewhere the
    logs stay the lines that they are.
    """
    console = Console(stderr=True) if console is None else console
    if console.is_terminal and not trainer.args.disable_tqdm and trainer.args.local_process_index == 0:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(RichProgress(console))


class RichProgress(TrainerCallback):
    """
    A bar with the last log's action loss, score, mean weight and effective sample size over n.

    Args:
        console: where it is drawn.
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
            TextColumn("{task.fields[said]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, said="")
        self._bar.start()
        # A run that ends by an error does not come to its end here, and would leave the terminal without a cursor.
        atexit.register(self._bar.stop)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        values = [f"{name} {logs[key]:.3g}" for key, name in SHOWN.items() if key in (logs or {})]
        if self._bar is not None and values:
            self._bar.update(self._task, said="  ".join(values))

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
