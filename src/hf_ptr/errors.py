"""Errors that are the user's to mend: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The input is wrong. The message is one line; the command line shows it and exits with code 2."""

    def __init__(self, message: str) -> None:
        # A quoted YAML or OS error may span lines; what the user reads is one line all the same.
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters unless it is an `InputError`."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if isinstance(error, InputError) else line[:200]


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the candidate most like ``name``, or ``""`` when none is close."""
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""
