"""Episode ids as users write them in options, recipes and lists: ids, ranges such as `0:16`, and lists of both."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from hf_ptr.errors import InputError

FORM = "write ids and ranges, as in 0:16,20; the end of a range is exclusive"


def parse_episodes(value: object, name: str = "episodes") -> list[int] | None:
    """
    Parses episode ids: `"0:16,20"`, `"[0, 1, 2]"`, `[0, 1, "4:8"]` or `5`. The end of a range is exclusive.

    Args:
        value: text, number or list; None means all episodes.
        name: name of the option or key, for messages.

    Returns:
        The ids in the given order, or None.

    Raises:
        InputError: the value is not a list of ids and ranges, or an empty one.
    """
    spans = parse_ranges(value, name)
    return None if spans is None else [number for span in spans for number in span]


def parse_ranges(value: object, name: str = "episodes") -> list[range] | None:
    """
    As [`parse_episodes`], without a list of all ids of a range: a text may hold `0:1000000000`.

    Raises:
        InputError: as [`parse_episodes`].
    """
    if value is None:
        return None
    spans = []
    for part in _parts(value):
        start, colon, end = part.partition(":")
        if not start.isdecimal() or (colon and not end.isdecimal()):
            span = re.fullmatch(r"(\d+)\s*(?:-|\.\.)\s*(\d+)", part)
            form = FORM if span is None else f"write {span[1]}:{int(span[2]) + 1}, the end of a range is exclusive"
            raise InputError(f"{name} {str(value)!r} cannot be read at {part!r}; {form}")
        spans.append(range(int(start), int(end) if colon else int(start) + 1))
    if not any(spans):
        raise InputError(f"{name} {str(value)!r} is an empty list; {FORM}")
    return spans


def _parts(value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)]
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        return [part.strip() for part in text.split(",")] if text.strip() else []
    return [part.strip() for part in text.split(",")]


def episode_text(value: object, name: str = "episodes") -> str:
    """
    The value of `parse_episodes` as one text, for settings that hold text.

    Raises:
        InputError: as `parse_episodes`.
    """
    parse_episodes(value, name)
    return ",".join(_parts(value))


def episode_ranges(ids: Iterable[int]) -> str:
    """The sorted ids in the form that `parse_episodes` reads, with ranges for three and more in a row: `0:16,20`."""
    runs: list[str] = []
    for _, run in itertools.groupby(enumerate(sorted(set(ids))), key=lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        runs += [f"{found[0]}:{found[-1] + 1}"] if len(found) > 2 else map(str, found)
    return ",".join(runs)
