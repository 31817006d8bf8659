"""Protocols that a simulator and its environments implement so that policies can be rolled out in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class RobotInterface:
    """
    Observation and action dimensions of a simulated robot under one control mode.

    Attributes:
        observations: width of each observed vector, by feature name.
        action_dim: width of the action vector.
    """

    observations: Mapping[str, int]
    action_dim: int


class Environment(Protocol):
    """One robot in one task, one episode at a time."""

    @property
    def instruction(self) -> str:
        """Instruction of the current episode."""
        ...

    @property
    def success(self) -> bool:
        """Whether the task was solved at any step since `reset`."""
        ...

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Start the episode with this seed; returns its first observation in the format of `step`."""
        ...

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute a raw action `(da,)`; returns the vectors listed in the robot's interface, float32."""
        ...

    def images(self) -> np.ndarray:
        """Current camera images in the requested order: `(cameras, height, width, 3)` uint8 RGB."""
        ...

    def close(self) -> None:
        """Release the environment's resources."""
        ...


class Simulator(Protocol):
    """
    A family of tasks for one robot.

    A simulator is pickled to worker processes and is cheap to construct: it imports its package on first use.
    """

    @property
    def name(self) -> str:
        """Display name in messages."""
        ...

    @property
    def frame_rates(self) -> tuple[float, ...]:
        """Steps per second, followed by other rates that datasets recorded at every step may state."""
        ...

    @property
    def longest_episode(self) -> int:
        """Maximum number of steps in an episode."""
        ...

    @property
    def episodes_together(self) -> int:
        """Episodes of a task stepped together in one process. The policy's noise is drawn for the whole batch."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera features, named as in datasets."""
        ...

    @property
    def interfaces(self) -> Mapping[str, RobotInterface]:
        """Interfaces by control mode. Where several match a policy, the first is used."""
        ...

    def identity(self) -> dict[str, str]:
        """
        Package versions and other settings that results depend on, in addition to policy, task and seed.

        Raises:
            InputError: the simulator is not installed, has an unsupported version, or lacks files.
        """
        ...

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        """
        Full task names in the given order; None selects the simulator's default tasks.

        Raises:
            InputError: no task is given, a name is unknown, or a name is repeated.
        """
        ...

    def steps(self, task: str) -> int:
        """Default number of steps after which an episode counts as failed."""
        ...

    def instruction(self, task: str) -> str | None:
        """Instruction of a task; None where it differs between episodes."""
        ...

    def episode_seed(self, base: int, task: str, number: int) -> int:
        """
        Environment seed of evaluation episode `number` of a task, derived from the user's seed `base`.

        Raises:
            InputError: `base` or `number` is out of range.
        """
        ...

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> Environment:
        """
        Create an environment for a task.

        Args:
            task: full name.
            control: a key of `interfaces`.
            cameras: camera features that the policy observes, in its order.
            pixels: longer side of the images that the policy reads; a higher resolution is not needed.
        """
        ...
