"""Simulated operators of different skill, each of which modifies the actions of the scripted expert.

The modified actions are executed and recorded, so recordings stay physically consistent. After a slip, the expert
acts from the robot's new state, which makes the following frames a recovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hf_ptr.errors import InputError, nearest

Interval = tuple[int, int]

# Fraction of the expert's displacement executed by the slow operator.
SLOW_SPEED = 0.7
# Ranges in frames: before the first incident (pause or slip), between incidents, and duration of an incident.
FRAMES_TO_FIRST = (10, 30)
FRAMES_BETWEEN = (30, 60)
PAUSE_FRAMES = (10, 20)
SLIP_FRAMES = (6, 12)


@dataclass
class Operator:
    """
    The operator of a single episode.

    Args:
        name: a key of `OPERATORS`.
        random: generator for pauses and slips.

    Attributes:
        incidents: frame intervals `[first, last)` of pauses or slips.
    """

    name: str
    random: np.random.Generator
    incidents: list[Interval] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_operators([self.name])
        self._next = int(self.random.integers(*FRAMES_TO_FIRST))
        self._push = np.zeros(3, dtype=np.float32)

    def act(self, expert: np.ndarray, frame: int) -> np.ndarray:
        """Action `(4,)` in `[-1, 1]` that replaces the expert's at `frame`. Call once per frame, in order."""
        action = expert.copy()
        if self.name == "slow":
            action[:3] *= SLOW_SPEED
        elif self.name in ("hesitant", "clumsy") and self._in_incident(frame):
            action[:3] = 0.0 if self.name == "hesitant" else self._push
        return action

    def _in_incident(self, frame: int) -> bool:
        if frame == self._next:
            last = frame + int(self.random.integers(*(PAUSE_FRAMES if self.name == "hesitant" else SLIP_FRAMES)))
            self.incidents.append((frame, last))
            self._next = last + int(self.random.integers(*FRAMES_BETWEEN))
            direction = self.random.normal(size=3)
            self._push = (direction / np.linalg.norm(direction)).astype(np.float32)
        return bool(self.incidents) and frame < self.incidents[-1][1]


OPERATORS = {
    "expert": "follows the script",
    "slow": f"moves at {SLOW_SPEED:g} of the expert's speed",
    "hesitant": "pauses at random times",
    "clumsy": "slips in a random direction at random times, and recovers",
}


def require_operators(names: Sequence[str]) -> None:
    """Check that all names are operators.

    Raises:
        InputError: no name is given, or a name is unknown; the message suggests the nearest one.
    """
    if not names:
        raise InputError(f"operators is empty; choose from {', '.join(OPERATORS)}")
    for name in names:
        if name not in OPERATORS:
            raise InputError(f"no operator {name!r}.{nearest(name, OPERATORS)} Available: {', '.join(OPERATORS)}")
