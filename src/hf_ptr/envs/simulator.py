"""What a simulator must offer so that policies can be rolled out in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hf_ptr.errors import InputError, nearest


@dataclass(frozen=True)
class Interface:
    """
    One way to speak with a simulator's robot.

    Attributes:
        observations: the width of every vector that is observed, by the name of its feature.
        action_dim: numbers that the robot is told.
    """

    observations: Mapping[str, int]
    action_dim: int


class Environment(Protocol):
    """One robot before one task, an episode at a time."""

    @property
    def instruction(self) -> str:
        """Of the episode that began last."""
        ...

    @property
    def success(self) -> bool:
        """Whether the task has been solved at any step since `reset`."""
        ...

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin the episode of a seed; returns its first observation, as `step` does."""
        ...

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute a raw action `(da,)`; returns the vectors that its interface names, float32."""
        ...

    def pictures(self) -> np.ndarray:
        """What its cameras see now, in their order: `(cameras, height, width, 3)` uint8 RGB."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Simulator(Protocol):
    """
    A family of tasks before one robot. It is sent to other processes, and is cheap to make: nothing is imported before
    something is asked of it.
    """

    @property
    def name(self) -> str:
        """In messages."""
        ...

    @property
    def frame_rates(self) -> tuple[float, ...]:
        """Steps a second, and after it the other rates that datasets of single steps may state."""
        ...

    @property
    def longest_episode(self) -> int:
        """Steps that an episode can have at most."""
        ...

    @property
    def episodes_together(self) -> int:
        """Episodes of a task that are stepped together in a process. The policy's noise is drawn for all of them."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features, named as in datasets."""
        ...

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """By the name of the control; of several that fit a policy, the first is taken."""
        ...

    def identity(self) -> dict[str, str]:
        """
        What a result depends on beside policy, task and seed: versions of packages.

        Raises:
            InputError: it is not installed, in another version than is known, or lacks files.
        """
        ...

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        """
        Full names of tasks in the order given, those of its default without names.

        Raises:
            InputError: there is none, one is unknown, or one is given twice.
        """
        ...

    def steps(self, task: str) -> int:
        """Steps after which an episode has failed unless the user says otherwise."""
        ...

    def instruction(self, task: str) -> str | None:
        """What the policy is told; None where that differs from episode to episode."""
        ...

    def episode_seed(self, base: int, task: str, number: int) -> int:
        """
        The seed of evaluation episode `number` of a task, for `base`, the user's seed.

        Raises:
            InputError: there is no such episode.
        """
        ...

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> Environment:
        """
        An environment of a task.

        Args:
            task: full name.
            control: one of its `interfaces`.
            cameras: that the policy sees through, in its order.
            pixels: the larger side of the pictures that the policy reads; no more detail is needed.
        """
        ...


def selected(names: Sequence[str], known: Mapping[str, object] | Sequence[str], title: str) -> list[str]:
    """
    Names of tasks, or their numbers in `known`, as full names in the order given.

    Args:
        names: as the user gives them.
        known: of all tasks, in their order.
        title: what has these tasks, in messages.

    Raises:
        InputError: as [`Simulator.tasks`].
    """
    places = list(known)
    if not names:
        raise InputError(f"no task of {title} was named; name at least one, such as {places[0]!r}")
    tasks = []
    for name in names:
        task = places[int(name)] if name.isdecimal() and int(name) < len(places) else name
        if task not in known:
            hint = nearest(task, places) or f" It has {len(places)}, such as {places[0]!r}"
            raise InputError(f"{title} has no task {name!r}.{hint}")
        if task in tasks:
            raise InputError(f"task {task!r} is named twice; name each task once")
        tasks.append(task)
    return tasks


def known_suite(suite: str | None, known: Collection[str], title: str, several: str) -> str:
    """
    A suite's name, where it is one.

    Args:
        suite: as the user gives it.
        known: all suites.
        title: of the simulator, in messages.
        several: what it has, in the message where none was named.

    Raises:
        InputError: none was named, or there is none of that name; the nearest is suggested.
    """
    if suite is None:
        raise InputError(f"{title} has several {several}; name one with --suite: {', '.join(known)}")
    if suite not in known:
        raise InputError(f"{title} has no suite {suite!r}.{nearest(suite, known)} It has: {', '.join(known)}")
    return suite


def simulator_named(name: str, suite: str | None = None) -> Simulator:
    """
    The simulator that users call so.

    Args:
        name: `metaworld`, `libero` or `robocasa`.
        suite: which of its suites of tasks, where it has several.

    Raises:
        InputError: there is none, or it has no such suite; the nearest is suggested.
    """
    if name not in SIMULATORS:
        raise InputError(f"unknown environment {name!r}.{nearest(name, SIMULATORS)} Known: {', '.join(SIMULATORS)}")
    return SIMULATORS[name](suite)


def _metaworld(suite: str | None) -> Simulator:
    from hf_ptr.envs.metaworld import MetaWorld

    if suite is not None:
        raise InputError(f"Meta-World has no suites; leave --suite {suite} out, and name --tasks")
    return MetaWorld()


def _libero(suite: str | None) -> Simulator:
    from hf_ptr.envs.libero import Libero

    return Libero(suite)


def _robocasa(suite: str | None) -> Simulator:
    from hf_ptr.envs.robocasa import RoboCasa

    return RoboCasa(suite)


SIMULATORS: dict[str, Callable[[str | None], Simulator]] = {
    "metaworld": _metaworld,
    "libero": _libero,
    "robocasa": _robocasa,
}
