"""Progress bars: jobs done, elapsed time and remaining time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Also disables the bars of other libraries, which use tqdm.
NO_BARS = "TQDM_DISABLE"


def progress_bar(shown: bool = True) -> Progress:
    """
    A progress bar on stderr, so that results on stdout can be piped.

    Args:
        shown: whether to draw it. It is never drawn if stderr is not a terminal, or inside `without_bars`.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal) or os.environ.get(NO_BARS) == "1",
    )


@contextmanager
def without_bars() -> Iterator[None]:
    """Disables the progress bars of this library and of others inside the block."""
    before = os.environ.get(NO_BARS)
    os.environ[NO_BARS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_BARS]
        else:
            os.environ[NO_BARS] = before
