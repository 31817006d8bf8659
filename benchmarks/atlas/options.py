"""The options that the commands of the atlas share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.atlas.planted import STATE
from hf_ptr.errors import InputError, nearest


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds datasets, faults, seeds and the results file."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=PATH", help="a dataset and its name")
    parser.add_argument(
        "--state", action="append", default=[], metavar="NAME=FEATURE", help=f"its state feature; default {STATE}"
    )
    parser.add_argument("--episodes", type=int, default=100, help="most episodes of a dataset; default 100")
    parser.add_argument("--faults", help="comma-separated faults and controls, and `untouched`; default all")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds; default 2")
    parser.add_argument("--first-seed", type=int, default=1, metavar="N", help="first seed; default 1")
    parser.add_argument("--out", type=Path, help="results file; default benchmarks/results/atlas.jsonl")


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """
    The options, with `set` and `state` as dictionaries by the name of the dataset.

    Raises:
        InputError: an option has a wrong form, or names a dataset that is not given.
    """
    options = parser.parse_args(arguments)
    options.set, options.state = pairs("--set", options.set), pairs("--state", options.state)
    for name in options.state:
        if name not in options.set:
            raise InputError(f"--state names {name!r}, which no --set names.{nearest(name, list(options.set))}")
    if options.seeds < 1:
        raise InputError(f"--seeds is {options.seeds}; it must be at least 1")
    return options


def named(
    option: str, text: str | None, known: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """The names of a comma-separated option, groups expanded, in the order of `known`; all without the option."""
    names = list(known) if text is None else [name.strip() for name in text.split(",")]
    groups = groups or {}
    for name in names:
        if name not in known and name not in groups:
            choice = (*groups, *known)
            raise InputError(f"{option} names {name!r}, which the atlas does not have.{nearest(name, choice)}")
    wanted = {member for name in names for member in groups.get(name, (name,))}
    return [name for name in known if name in wanted]


def pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` options."""
    found = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise InputError(f"{option} is {value!r}; it must be NAME=VALUE")
        found[name] = rest
    return found
