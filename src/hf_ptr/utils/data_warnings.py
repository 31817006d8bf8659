"""Warnings about data as single lines on stderr, each text once, in the command and in its worker processes."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hf_ptr.errors import DataWarning

# The folder in which a command and its worker processes note the texts that were printed.
PRINTED = "HF_PTR_PRINTED_WARNINGS"


@contextmanager
def data_warnings_printed() -> Iterator[None]:
    """Print every `DataWarning` within the block as one line `warning: ...` on stderr, each text once."""
    before = os.environ.get(PRINTED)
    with (
        tempfile.TemporaryDirectory(prefix="hf-ptr-", ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        os.environ[PRINTED] = folder
        try:
            _install()
            yield
        finally:
            if before is None:
                os.environ.pop(PRINTED, None)
            else:
                os.environ[PRINTED] = before


def _install() -> None:
    # The default filter would show a text once for each line of code that raises it, and count those of workers apart.
    warnings.simplefilter("always", DataWarning)
    others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, DataWarning):
            others(message, category, filename, lineno, file, line)
        elif _first_time(text := " ".join(str(message).split())):
            print(f"warning: {text}", file=sys.stderr, flush=True)

    warnings.showwarning = show


def _first_time(text: str) -> bool:
    """Whether no process of this command has printed the text yet; True where the folder cannot be used."""
    name = hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()
    try:
        (Path(os.environ[PRINTED]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    except (OSError, KeyError):
        return True
    return True


def print_in_workers() -> None:
    """Install the printing in a worker process of a command, when it imports this package."""
    # Not `multiprocessing.parent_process`, which is unknown while a spawned process imports its main module.
    if PRINTED in os.environ:
        _install()
