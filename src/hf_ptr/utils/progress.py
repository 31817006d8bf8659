"""The bar of everything that takes longer than a moment: what is done, and the time that is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# The variable by which bars of other libraries, too, are kept away.
NO_BARS = "TQDM_DISABLE"


def progress_bar(shown: bool = True) -> Progress:
    """
    A bar of jobs done with the time left, on stderr, so that results on stdout can be piped.

    Args:
        shown: False draws nothing. Nor does anything where stderr is no terminal, or bars are not wanted.
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
    """Within it no bar is drawn, ours or another library's."""
    before = os.environ.get(NO_BARS)
    os.environ[NO_BARS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_BARS]
        else:
            os.environ[NO_BARS] = before
