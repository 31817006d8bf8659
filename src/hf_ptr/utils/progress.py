"""Progress on stderr, so that results on stdout can be piped: a bar in a terminal, a line at intervals elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
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
# Seconds of work before the first line, and between two lines. Work that takes less than the first prints none.
FIRST_AFTER, LINE_EVERY = 2.0, 10.0


def progress_bar(shown: bool = True) -> Progress:
    """
    Jobs done, elapsed and remaining time: a bar in a terminal; otherwise, in a log file for example, one line after
    `FIRST_AFTER` seconds and then every `LINE_EVERY` seconds.

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


@contextmanager
def command_lines(name: str) -> Iterator[None]:
    """
    Keeps a command from being silent before, between and after its bars: lines as of [`progress_bar`], with the time
    that it runs. Before the first bar it loads libraries and data. Nothing in a terminal.

    Args:
        name: the command.
    """
    # Only the first process of a launcher prints: the others would repeat its lines.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with progress_bar(first and not sys.stderr.isatty()) as progress:
        loading, later = (f"hf-ptr {name}: {doing}" for doing in ("loading libraries and data", "still working"))
        progress.add_task(loading, total=None, later=later)
        yield


class _Lines(Progress):
    """Prints its newest unfinished task at intervals, unless other work inside it prints."""

    def start(self) -> None:
        """Starts printing."""
        _SPEAKER.add(self)

    def stop(self) -> None:
        """Stops printing."""
        _SPEAKER.remove(self)


class _Speaker:
    """Prints a line about the innermost running work. A thread does, so that one long job is not silent either."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[_Lines] = []
        self._next = 0.0
        self._speaking = False

    def add(self, lines: _Lines) -> None:
        """Adds work, which starts the thread if there was none."""
        with self._changed:
            due = time.monotonic() + FIRST_AFTER
            # Work that starts just after a line need not wait `LINE_EVERY` for its own; short work delays no line.
            self._next = min(self._next, due) if self._running else due
            # A task with the field `later` is described by it once other work has begun inside.
            for outer in self._running:
                for task in outer.tasks:
                    outer.update(task.id, description=task.fields.get("later", task.description))
            self._running.append(lines)
            if not self._speaking:
                self._speaking = True
                threading.Thread(target=self._speak, daemon=True).start()
            self._changed.notify()

    def remove(self, lines: _Lines) -> None:
        """Removes work, which ends the thread if there is no other."""
        with self._changed:
            if lines in self._running:
                self._running.remove(lines)
            self._changed.notify()

    def _speak(self) -> None:
        while True:
            with self._changed:
                while self._running and (wait := self._next - time.monotonic()) > 0:
                    self._changed.wait(wait)
                if not self._running:
                    self._speaking = False
                    return
                self._next = time.monotonic() + LINE_EVERY
                tasks = [task for lines in self._running for task in lines.tasks if task.started and not task.finished]
            # Outside the lock: a full pipe must not stop the work.
            if tasks:
                print(_line(tasks[-1]), file=sys.stderr, flush=True)


_SPEAKER = _Speaker()


def _line(task: Task) -> str:
    jobs = "" if task.total is None else f": {task.completed:g} of {task.total:g}"
    left = task.time_remaining
    remaining = "" if left is None else f", about {_minutes(left)} left"
    return f"{task.description}{jobs} after {_minutes(task.elapsed or 0.0)}{remaining}"


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
