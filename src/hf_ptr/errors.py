"""Errors and warnings about the user's input: one line that states the error, its location and its fix."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class InputError(ValueError):
    """
    Invalid input. The message is one line; the command line prints it and exits with code 2.

    Attributes:
        skip: ids of the episodes without which the input would be valid. Messages say "leave the episode out"; the
            command line adds how, with the name of its option.
    """

    def __init__(self, message: str, *, skip: Iterable[int] = ()) -> None:
        if message.startswith("Caught InputError in DataLoader worker"):
            # PyTorch raises the error of a data loader's worker again, with the worker's traceback as the message.
            message = message.rpartition(f"{type(self).__module__}.{type(self).__name__}: ")[2]
        # A quoted YAML or OS error may span several lines.
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
        self.skip = tuple(skip)

    def with_option(self, option: str) -> InputError:
        """The error with the option or key that leaves the episodes out, such as `--skip-episodes {}`."""
        return InputError(f"{self} ({option.format(','.join(map(str, self.skip)))})")


class UnknownEpisodeError(InputError):
    """
    An episode that a dataset does not have.

    Args:
        where: the dataset in words.
        episode: the id.
        known: the ids of the episodes of the dataset.

    Attributes:
        episode: the id.
    """

    def __init__(self, where: object, episode: int, known: Collection[int]) -> None:
        ids = f"; its episode ids are in {min(known)}..{max(known)}" if len(known) else ""
        super().__init__(f"{where} has no episode {episode}{ids}")
        self.episode = episode


class DataWarning(UserWarning):
    """Data that were repaired or derived, or that are suspect. The command line prints it as one line on stderr."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters unless it is an `InputError`."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if isinstance(error, InputError) else line[:200]


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the candidate nearest to ``name``, or ``""`` if none is close."""
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""
