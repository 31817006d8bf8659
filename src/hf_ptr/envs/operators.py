"""People who drive a robot differently: what each makes of the action that the scripted expert would take.

What an operator does is executed and recorded, so that every recording is true to the physics; after a slip the expert
acts from where the robot then is, which is a recovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hf_ptr.errors import InputError, nearest

Interval = tuple[int, int]

# The share of the expert's displacement that a slow operator makes.
SLOW = 0.7
# Frames: until the first pause or slip, between two, and how long one lasts.
FIRST = (10, 30)
BETWEEN = (30, 60)
PAUSE = (10, 20)
SLIP = (6, 12)


@dataclass
class Operator:
    """
    One episode's operator. Made anew for every episode.

    Args:
        name: a key of `OPERATORS`.
        random: draws its pauses and slips.

    Attributes:
        incidents: the intervals `[first, last)` of frames in which it paused or slipped.
    """

    name: str
    random: np.random.Generator
    incidents: list[Interval] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_operators([self.name])
        self._next = int(self.random.integers(*FIRST))
        self._push = np.zeros(3, dtype=np.float32)

    def act(self, expert: np.ndarray, frame: int) -> np.ndarray:
        """The action `(4,)` in `[-1, 1]` at a frame, instead of the expert's; frames come in order."""
        action = expert.copy()
        if self.name == "slow":
            action[:3] *= SLOW
        elif self.name in ("hesitant", "clumsy") and self._in_incident(frame):
            action[:3] = 0.0 if self.name == "hesitant" else self._push
        return action

    def _in_incident(self, frame: int) -> bool:
        if frame == self._next:
            last = frame + int(self.random.integers(*(PAUSE if self.name == "hesitant" else SLIP)))
            self.incidents.append((frame, last))
            self._next = last + int(self.random.integers(*BETWEEN))
            direction = self.random.normal(size=3)
            self._push = (direction / np.linalg.norm(direction)).astype(np.float32)
        return bool(self.incidents) and frame < self.incidents[-1][1]


OPERATORS = {
    "expert": "as the script says",
    "slow": f"at {SLOW:g} of the speed",
    "hesitant": "stands still now and then",
    "clumsy": "slips in a direction of chance now and then, and recovers",
}


def require_operators(names: Sequence[str]) -> None:
    """Check that there are such operators.

    Raises:
        InputError: one is unknown (the nearest name is suggested), or there is none.
    """
    if not names:
        raise InputError(f"operators is empty; choose from {', '.join(OPERATORS)}")
    for name in names:
        if name not in OPERATORS:
            raise InputError(f"no operator {name!r}.{nearest(name, OPERATORS)} There are: {', '.join(OPERATORS)}")
