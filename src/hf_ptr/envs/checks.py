"""Checks of installed packages, suites, task names and seeds, shared by the simulators."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence

from packaging.specifiers import SpecifierSet

from hf_ptr.errors import InputError, nearest


def require_version(package: str, accepted: str, title: str, install: str) -> str:
    """
    Version of an installed package.

    Args:
        package: distribution name.
        accepted: version specifier, such as `">=1.0,<1.1"`.
        title: display name in messages.
        install: installation instruction for messages.

    Raises:
        InputError: the package is not installed, or its version is not accepted.
    """
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{title} is not installed; {install}") from error
    if version not in SpecifierSet(accepted):
        raise InputError(f"{title} is installed as {package} {version}, but {accepted} is required; {install}")
    return version


def require_suite(suite: str | None, known: Collection[str], title: str, plural: str) -> str:
    """
    Validate the name of a suite.

    Args:
        suite: name given by the user.
        known: all suites.
        title: display name of the simulator in messages.
        plural: noun for the simulator's suites in messages.

    Raises:
        InputError: no suite is given, or the name is unknown; the message suggests the nearest one.
    """
    if suite is None:
        raise InputError(f"{title} has several {plural}; name one with --suite: {', '.join(known)}")
    if suite not in known:
        raise InputError(f"{title} has no suite {suite!r}.{nearest(suite, known)} Available: {', '.join(known)}")
    return suite


def select_tasks(names: Sequence[str], known: Mapping[str, object] | Sequence[str], title: str) -> list[str]:
    """
    Resolve task names, or task numbers in `known`, to full names in the given order.

    Args:
        names: names or numbers given by the user.
        known: all task names in order.
        title: name of the suite in messages.

    Raises:
        InputError: no task is given, a name is unknown, or a task is repeated.
    """
    numbered = list(known)
    if not names:
        raise InputError(f"no task of {title} was named; name at least one, such as {numbered[0]!r}")
    tasks = []
    for name in names:
        task = numbered[int(name)] if name.isdecimal() and int(name) < len(numbered) else name
        if task not in known:
            hint = nearest(task, numbered) or f" It has {len(numbered)} tasks, such as {numbered[0]!r}"
            raise InputError(f"{title} has no task {name!r}.{hint}")
        if task in tasks:
            raise InputError(f"task {task!r} is named twice; name each task once")
        tasks.append(task)
    return tasks


def require_seed(seed: int) -> None:
    """
    Validate the user's seed, which must lie in `[0, 2**32)`.

    Raises:
        InputError: the seed is out of range.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")
