"""How improbable an amount is against the dataset's own bulk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Least scale of the tail, in logarithms: an amount ten percent above the bulk is never improbable.
LEAST_TAIL = 0.15
# Quantile that sets the scale of the tail: above it, up to three episodes in ten may be faulty.
UPPER = 0.67
# Share of the material amount that stands for zero.
FLOOR = 0.5


@dataclass(frozen=True)
class Bulk:
    """
    The amounts of sound episodes: an upper tail of each dimension, exponential in the logarithm, and the largest of
    all dimensions together.

    Attributes:
        middle, scale: `(d,)` median and scale of the logarithm.
        floor: amounts below it count as this.
        joint_middle, joint_scale: median and scale of the largest standardised logarithm of an episode.
    """

    middle: np.ndarray
    scale: np.ndarray
    floor: float
    joint_middle: float
    joint_scale: float

    @classmethod
    def of(cls, amounts: np.ndarray, material: float) -> Bulk:
        """The bulk of the amounts of E episodes, `(E, d)`."""
        floor = FLOOR * material
        logs = np.log(np.maximum(amounts, floor))
        middle, upper = np.quantile(logs, [0.5, UPPER], axis=0)
        spread = 1 + 1 / np.sqrt(len(amounts))
        scale = np.maximum((upper - middle) / np.log(0.5 / (1 - UPPER)) * spread, LEAST_TAIL)
        z = ((logs - middle) / scale).max(axis=1)
        lower, joint = np.quantile(z, [0.25, 0.5])
        return cls(middle, scale, floor, float(joint), max(1.0, float((joint - lower) / np.log(2) * spread)))

    def p(self, amounts: np.ndarray) -> np.ndarray:
        """Probability `(..., d)` that a sound episode has such an amount, `(..., d)`, in any dimension."""
        z = (np.log(np.maximum(amounts, self.floor)) - self.middle) / self.scale
        return 0.5 * np.exp(-np.maximum(z - self.joint_middle, 0.0) / self.joint_scale)
