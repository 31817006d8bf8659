"""How improbable an amount is against the dataset's own bulk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from hf_ptr.detection.majority import UPPER, away, levels, majority, majority_of_tasks, sound_quantile, tail

# Share of the material amount that stands for zero.
FLOOR = 0.5
# A task has a habit in a dimension if this share of its episodes, of at least this many, leave the bulk by `AWAY`
# scales of the tail, and so many would hardly do so at the rate of the other tasks.
HABIT = 0.15
LEAST_HABIT = 8
HARDLY = 0.01
AWAY = 5.0
# Share of these scales from which an amount is between; amounts between, as a share of those that left the bulk, up to
# which these are a group apart.
NEAR, BETWEEN = 0.4, 0.25


@dataclass(frozen=True)
class Bulk:
    """
    The amounts of sound episodes: an upper tail of each dimension, exponential in the logarithm, and the largest of
    all dimensions together.

    Attributes:
        middle: by task, `(d,)` median of the logarithm, shrunk to that of all; higher where the task has a habit.
        scale: `(d,)` scale of the tail, in logarithms.
        floor: amounts below it count as this.
        joint_middle, joint_scale: median and scale of the largest standardised logarithm of an episode.
    """

    middle: dict[int, np.ndarray]
    scale: np.ndarray
    floor: float
    joint_middle: float
    joint_scale: float

    @classmethod
    def of(
        cls, amounts: np.ndarray, tasks: np.ndarray, material: float, least_tail: float, whole: bool = True
    ) -> Bulk:
        """
        The bulk of the amounts of E episodes, `(E, d)`, of the given tasks `(E,)`; see `Check`.

        `whole`: the amounts are those of whole episodes, and not the largest of a part.
        """
        floor = FLOOR * material
        logs = np.log(np.maximum(amounts, floor))
        # Two fifths of faulty episodes would set middle and tail; those that are clearly apart do not count.
        follows = majority_of_tasks(logs, tasks, least_tail)
        middle = levels(logs, tasks, follows, 0.5)
        spread = 1 + 1 / np.sqrt(len(amounts))
        rest = away(logs, tasks, middle)
        upper = sound_quantile(rest, follows, UPPER) - sound_quantile(rest, follows, 0.5)
        scale = np.maximum(tail(upper) * spread, least_tail)
        left, near = rest / scale > AWAY, rest / scale > NEAR * AWAY
        for task in middle:
            own = tasks == task
            if LEAST_HABIT <= own.sum() < len(own):
                # One more of each, so that a rate is never 0 or 1.
                rate = (left[~own].sum(axis=0) + 1) / ((~own).sum() + 2)
                by_chance = binom.sf(left[own].sum(axis=0) - 1, own.sum(), rate)
                habit = (left[own].mean(axis=0) >= HABIT) & (by_chance < HARDLY)
                if whole:
                    # Faulty episodes are apart from the others of their task; a habit is more or less of all of them.
                    habit &= (near & ~left)[own].sum(axis=0) > BETWEEN * left[own].sum(axis=0)
                shown = np.quantile(logs[own], 1 - HABIT, axis=0)
                middle[task] = np.where(habit, np.maximum(middle[task], shown), middle[task])
        z = (away(logs, tasks, middle) / scale).max(axis=1, keepdims=True)
        follows = majority(z, 1.0)
        # Where most amounts count as the floor, only those above the median show the tail.
        lower, joint, above = (sound_quantile(z, follows, share) for share in (0.25, 0.5, UPPER))
        widest = np.maximum((joint - lower) / np.log(2), tail(above - joint)) * spread
        return cls(middle, scale, floor, float(joint[0]), max(1.0, float(widest[0])))

    def p(self, amounts: np.ndarray, task: int) -> np.ndarray:
        """Probability `(..., d)` that a sound episode of a task has such an amount, `(..., d)`, in any dimension."""
        z = (np.log(np.maximum(amounts, self.floor)) - self.middle[task]) / self.scale
        return 0.5 * np.exp(-np.maximum(z - self.joint_middle, 0.0) / self.joint_scale)


def false_discovery_level(p: np.ndarray, share: float) -> float:
    """
    The probability below which an episode is a discovery, by Benjamini and Hochberg's procedure; 0 if none is.

    Args:
        p: `(E,)`, the probability of each episode if it is sound.
        share: accepted share of false ones among the discoveries.
    """
    critical = share * np.arange(1, len(p) + 1) / len(p)
    passed = np.sort(p) <= critical
    return float(critical[passed][-1]) if passed.any() else 0.0
