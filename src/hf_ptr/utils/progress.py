"""Progress on stderr, so that results on stdout can be piped: a bar in a terminal, a line at intervals elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Also disables the bars of other libraries, which use tqdm.
NO_BARS = "TQDM_DISABLE"
# Disables the lines as well.
QUIET = "HF_PTR_QUIET"
# Seconds between two lines. Work that takes less prints none.
LINE_EVERY = 30.0


def progress_bar(shown: bool = True) -> Progress:
    """
    Jobs done, elapsed and remaining time: a bar in a terminal; otherwise, in a log file for example, one line every
    `LINE_EVERY` seconds.

    Args:
        shown: whether to show anything. Nothing is shown inside `without_bars(lines=False)`.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    if shown and console.is_terminal and os.environ.get(NO_BARS) != "1":
        return Progress(*columns, console=console)
    if shown and os.environ.get(QUIET) != "1":
        # Without a display, the thread that counts the jobs of `track` would not run.
        return _Lines(*columns, console=console, disable=True, auto_refresh=False)
    return Progress(*columns, console=console, disable=True)


class _Lines(Progress):
    """Prints unfinished tasks at intervals. A thread does, so that one long job is not silent either."""

    def start(self) -> None:
        """Starts the thread."""
        self._ended = threading.Event()
        threading.Thread(target=self._report, args=(self._ended,), daemon=True).start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _report(self, ended: threading.Event) -> None:
        while not ended.wait(LINE_EVERY):
            for task in self.tasks:
                if task.started and not task.finished:
                    print(_line(task), file=sys.stderr, flush=True)


def _line(task: Task) -> str:
    total = "" if task.total is None else f" of {task.total:g}"
    left = task.time_remaining
    remaining = "" if left is None else f", about {_minutes(left)} left"
    return f"{task.description}: {task.completed:g}{total} after {_minutes(task.elapsed or 0.0)}{remaining}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


@contextmanager
def without_bars(*, lines: bool = True) -> Iterator[None]:
    """Disables the bars of this library and of others inside the block, and without `lines` the lines as well."""
    names = (NO_BARS,) if lines else (NO_BARS, QUIET)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
