"""A block of consecutive episodes in which a figure of the episodes is another one."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.stats import t as student

# Least episodes of a block, and outside of it; and least share of the episodes.
LEAST = 4
LEAST_SHARE = 0.06
# Episodes at which a block may begin or end in a first search; the best ones are searched around closely.
EDGES = 96
# Deviations that the figures are clipped to in the search: a block has several episodes.
CLIP = 20.0
# A block differs by so many deviations within its sides, and so large a share of either side is on its own side.
DEVIATIONS = 3.0
SEPARATED = 0.9
# Probability of such a difference by chance, over all blocks and figures.
CHANCE = 0.001
# A drift has no edge: the episodes next to one differ by this share of the difference. They are looked for among so
# many episodes on either side, or so many for each task; a task needs some on both.
NEAR = 5
EDGE = 0.6
WIDTH = 10
WIDTH_TASKS = 4
NEAR_LEAST = 3
# An edge is between two tasks if each has at least half of the episodes on its side, and at most a fifth on the other.
OWN_SIDE, OTHER_SIDE = 0.5, 0.2


@dataclass(frozen=True)
class Change:
    """
    A block of episodes that differs from the others of the same tasks.

    Attributes:
        inside: `(E,)` bool, the episodes of the smaller side.
        difference: median of the smaller side minus that of the other.
        deviation: robust standard deviation within the sides.
    """

    inside: np.ndarray
    difference: float
    deviation: float

    @property
    def first(self) -> int:
        """Position of the first episode of the smaller side."""
        return int(np.flatnonzero(self.inside)[0])

    @property
    def chance(self) -> float:
        """Probability that so many episodes are consecutive, or all others are, in a random order."""
        count, inside = len(self.inside), int(self.inside.sum())
        return min(1.0, count / comb(count, inside))

    @property
    def halves(self) -> bool:
        """Whether both sides are about as large."""
        return bool(self.inside.mean() > 0.45)


def find_change(figures: np.ndarray, tasks: np.ndarray, tests: int, least: float) -> Change | None:
    """
    The block of episodes with another level of a figure, if there is one.

    Compared are episodes of the same task: a task that begins with the block explains the difference as well.

    Args:
        figures: `(E,)`, in the order of the recording.
        tasks: `(E,)` task of each episode.
        tests: number of figures that are searched.
        least: least difference that counts.
    """
    count = len(figures)
    size = max(LEAST, round(LEAST_SHARE * count))
    if count < 2 * size + 2 or not np.isfinite(figures).all() or np.ptp(figures) < least:
        return None
    _, task = np.unique(tasks, return_inverse=True)
    step = max(float(np.median(np.abs(np.diff(figures)))) * 1.05, 0.02 * least)
    medians = np.array([np.median(figures[task == number]) for number in range(int(task.max()) + 1)])
    clipped = np.clip((figures - medians[task]) / step, -CLIP, CLIP)
    edges = np.unique(np.round(np.linspace(0, count, min(EDGES, count) + 1)).astype(int))
    i, j = _best(clipped, task, edges, size)
    if count > EDGES:
        reach = np.arange(-count // EDGES - 1, count // EDGES + 2)
        near = np.unique(np.clip(np.concatenate([[0, count], i + reach, j + reach]), 0, count))
        i, j = _best(clipped, task, near, size)
    inside = np.zeros(count, dtype=bool)
    inside[i:j] = True
    if inside.mean() > 0.5 or (inside.mean() == 0.5 and i == 0):
        inside = ~inside
    return _tested(figures, task, inside, tests, least, size)


def _best(figures: np.ndarray, task: np.ndarray, edges: np.ndarray, size: int) -> tuple[int, int]:
    """First episode of the block that explains most, and the one after its last."""
    number = int(task.max()) + 1
    members = np.bincount(task, minlength=number)
    rest = figures - (np.bincount(task, figures, number) / members)[task]
    total = np.concatenate([[0.0], np.cumsum(rest)])[edges]
    counts = np.zeros((len(figures) + 1, number))
    counts[1:] = np.cumsum(task[:, None] == np.arange(number), axis=0)
    within = counts[edges]
    best, found = -1.0, (0, len(figures))
    for row, first in enumerate(edges):
        inside = within - within[row]
        power = (inside * (1 - inside / members)).sum(axis=1)
        length = edges - first
        able = (length >= size) & (len(figures) - length >= size) & (power > 1)
        gain = np.where(able, (total - total[row]) ** 2 / np.maximum(power, 1), -1.0)
        # Where tasks leave it open, a block up to the last episode is the simplest.
        gain *= 1 + 1e-9 * (edges == len(figures))
        if gain.max() > best:
            best, found = float(gain.max()), (int(first), int(edges[gain.argmax()]))
    return found


def _tested(
    figures: np.ndarray, task: np.ndarray, inside: np.ndarray, tests: int, least: float, size: int
) -> Change | None:
    both = np.array([inside[task == t].any() and not inside[task == t].all() for t in range(int(task.max()) + 1)])
    compared = both[task]
    one, other = compared & inside, compared & ~inside
    if min(one.sum(), other.sum()) < size:
        return None
    usual = np.array([np.median(figures[other & (task == t)]) if both[t] else 0.0 for t in range(len(both))])
    rest = figures - usual[task]
    difference = float(np.median(rest[one]))
    spread = [1.4826 * float(np.median(np.abs(rest[side] - np.median(rest[side])))) for side in (one, other)]
    deviation = max(*spread, 0.05 * least)
    sign = np.sign(difference)
    if abs(difference) < max(least, DEVIATIONS * deviation):
        return None
    if (
        min((sign * rest[one] > abs(difference) / 2).mean(), (sign * rest[other] < abs(difference) / 2).mean())
        < SEPARATED
    ):
        return None
    value = abs(difference) / deviation / np.sqrt(1 / one.sum() + 1 / other.sum())
    blocks = len(figures) ** 2 / 2
    if student.sf(value, max(int(compared.sum()) - 2, 1)) * 2 * blocks * tests > CHANCE:
        return None
    steps = [
        step
        for edge in np.flatnonzero(np.diff(inside.astype(int))) + 1
        for step in [_step(rest, task, inside, int(edge))]
        if step is not None
    ]
    # A drift has no edge, and a block between two tasks may be a task with a few wrong instructions.
    if not steps or min(sign * np.array(steps)) < EDGE * abs(difference):
        return None
    return Change(inside, difference, deviation)


def _step(rest: np.ndarray, task: np.ndarray, inside: np.ndarray, edge: int) -> float | None:
    """
    Difference of the two sides of a block next to an edge; None between two tasks, or where none is on both sides.

    Where tasks were recorded one after the other, those with a wrong instruction would be compared with the others.
    """
    if _between_tasks(task, edge):
        return None
    distance = np.abs(np.arange(len(rest)) + 0.5 - edge)
    near = distance < max(WIDTH, WIDTH_TASKS * (int(task.max()) + 1))
    sides: list[list[np.ndarray]] = [[], []]
    before = np.arange(len(rest)) < edge
    for number in range(int(task.max()) + 1):
        members = near & (task == number)
        parts = [
            np.flatnonzero(members & (before == (inside[edge - 1] == wanted)) & (inside == wanted))
            for wanted in (True, False)
        ]
        if min(len(part) for part in parts) >= NEAR_LEAST:
            for side, part in zip(sides, parts, strict=True):
                side.append(part)
    if not sides[0]:
        return None
    nearest = []
    for side in sides:
        positions = np.concatenate(side)
        nearest.append(rest[positions[np.argsort(distance[positions])[:NEAR]]])
    return float(np.median(nearest[0]) - np.median(nearest[1]))


def _between_tasks(task: np.ndarray, edge: int) -> bool:
    """Whether the recording goes from one task to another at an edge."""
    before, after = task[max(0, edge - 2 * WIDTH) : edge], task[edge : edge + 2 * WIDTH]
    left, right = (int(np.bincount(side).argmax()) for side in (before, after))
    own = min((before == left).mean(), (after == right).mean())
    other = max((before == right).mean(), (after == left).mean())
    return bool(own >= OWN_SIDE and other <= OTHER_SIDE)
