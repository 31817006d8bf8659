"""Grippers and hands: the dimensions that switch between two levels, and when they are closed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_ptr.detection.signals import Episode, Scale, Signals
from hf_ptr.detection.windows import inner_rows

# Names of fingers and grippers, and names of a place or a motion of them, which do not open or close anything.
HAND = re.compile(r"grip|hand|finger|thumb|index|middle|ring|pinky|little|jaw|claw|grasp", re.IGNORECASE)
PLACE = re.compile(
    r"(^|[^a-z])(x|y|z|qx|qy|qz|qw|roll|pitch|yaw|pos|position|rot|vel|force|torque|effort)\d*$", re.IGNORECASE
)
SIDES = (
    re.compile(r"left|(^|[^a-z])l([^a-z]|$)", re.IGNORECASE),
    re.compile(r"right|(^|[^a-z])r([^a-z]|$)", re.IGNORECASE),
)
# Band around the middle of the levels, as a share of their distance to either side, in which the last level holds.
BAND = 0.15
# Shortest time that it is open or closed, seconds.
SHORTEST = 0.15
# Least share of the variance that two levels explain, least share of frames at the rarer level, mean number of
# switches of an episode, and longest time of a switch in seconds: with a name of a hand, and without.
LEVELS = {True: 0.7, False: 0.85}
RARER = 0.04
SWITCHES = 0.3
SWITCHING = {True: 1.2, False: 0.4}
# Least distance of the levels, units: an opening in metres is small next to joints in radians, but more than the noise
# of an encoder.
DISTANCE = {True: 0.02, False: 0.16}
# Least correlation of a finger with the other fingers of its hand.
TOGETHER = 0.5


@dataclass(frozen=True)
class Gripper:
    """
    A gripper, or a hand of several fingers that move together.

    Attributes:
        feature: where it is recorded.
        weights: `(d,)`, its opening or closing is the weighted sum of the feature's dimensions.
        low, high: the two levels of that sum.
        closed_high: whether it is closed at the higher level.
        place: `(n,)` int64, dimensions of the state that show where it is.
    """

    feature: Literal["state", "action"]
    weights: np.ndarray
    low: float
    high: float
    closed_high: bool
    place: np.ndarray

    def closed(self, episode: Episode, shortest: int) -> np.ndarray:
        """Whether it is closed at each frame, `(T,)` bool; it stays so for at least `shortest` frames."""
        high = _switched(getattr(episode, self.feature) @ self.weights, self.low, self.high)
        return _without_short(high == self.closed_high, shortest)

    def closings(self, episode: Episode, shortest: int) -> tuple[np.ndarray, np.ndarray]:
        """First frame of each closing and of the opening after it, or the last frame of the episode; each `(n,)`."""
        change = np.diff(self.closed(episode, shortest).astype(np.int8))
        close, opened = np.flatnonzero(change == 1) + 1, np.flatnonzero(change == -1) + 1
        after = np.append(opened, len(episode) - 1)
        return close, after[np.searchsorted(opened, close)]


def find_grippers(signals: Signals) -> tuple[Gripper, ...]:
    """
    The grippers of a dataset: those of the command, otherwise those of the state.

    Names are a hint only: a dimension counts if its values have two levels, if it is at each of them for a while, and
    switches quickly. The fingers of a hand are taken together.
    """
    for feature in ("action", "state"):
        scale: Scale = getattr(signals, feature)
        columns = [getattr(episode, feature) for episode in signals.episodes]
        able = np.flatnonzero(np.concatenate(columns).std(axis=0) > 0).tolist()
        named = [d for d in able if HAND.search(scale.names[d]) and not PLACE.search(scale.names[d])]
        groups = [
            (_group(columns, [d for d in named if _side(scale.names[d]) == side]), True) for side in (0, 1, None)
        ]
        single = np.eye(len(scale.unit))
        tried = [*groups, *((single[d], False) for d in able)]
        found: list[Gripper] = []
        for weights, by_name in tried:
            taken = any((weights != 0)[gripper.weights != 0].any() for gripper in found)
            gripper = None if taken or not weights.any() else _gripper(signals, feature, columns, weights, by_name)
            found += [] if gripper is None else [gripper]
        if found:
            return tuple(found)
    return ()


def _side(name: str) -> int | None:
    return next((side for side, pattern in enumerate(SIDES) if pattern.search(name)), None)


def _group(columns: Sequence[np.ndarray], dimensions: list[int]) -> np.ndarray:
    """Weights of the mean of fingers that move together, each with the sign of its motion."""
    weights = np.zeros(columns[0].shape[1])
    if dimensions:
        inner = np.concatenate([part[:, dimensions] - part[:, dimensions].mean(axis=0) for part in columns])
        common = np.linalg.svd(inner.T @ inner)[0][:, 0]
        common = common * np.sign(common[np.abs(common).argmax()])
        joint = inner @ common
        size = np.sqrt((inner**2).sum(axis=0) * (joint**2).sum()) + 1e-12
        together = np.abs(inner.T @ joint) / size > TOGETHER
        weights[dimensions] = np.where(together, np.sign(common), 0.0) / max(together.sum(), 1)
    return weights


def _gripper(
    signals: Signals,
    feature: Literal["state", "action"],
    columns: Sequence[np.ndarray],
    weights: np.ndarray,
    by_name: bool,
) -> Gripper | None:
    """The gripper of the given weights if its values are those of one."""
    values = [inner_rows(part) @ weights for part in columns]
    together = np.concatenate(values)
    low, high = two_levels(together)
    if high - low < DISTANCE[by_name]:
        return None
    rest = np.minimum(np.abs(together - low), np.abs(together - high))
    switched = [_switched(part, low, high) for part in values]
    switches = sum(int((np.diff(part.astype(np.int8)) != 0).sum()) for part in switched)
    rarer = np.concatenate(switched).mean()
    share = (together - low) / (high - low)
    between = ((share > 0.25) & (share < 0.75)).sum() / signals.fps / max(switches, 1)
    if (
        1 - (rest**2).mean() / together.var() < LEVELS[by_name]
        or min(rarer, 1 - rarer) < RARER
        or switches < SWITCHES * len(values)
        or between > SWITCHING[by_name]
    ):
        return None
    # Episodes begin open, as a rule.
    closed_high = np.mean([part[0] for part in switched]) < 0.5
    state = signals.state
    own = (weights != 0) if feature == "state" else np.zeros(len(state.unit), dtype=bool)
    name = getattr(signals, feature).names[int(np.flatnonzero(weights)[0])]
    side = _side(name)
    other = -1 if side is None else 1 - side
    place = [
        d
        for d in np.flatnonzero(state.moves & ~state.two_valued & ~own)
        if not (HAND.search(state.names[d]) and not PLACE.search(state.names[d])) and _side(state.names[d]) != other
    ]
    return Gripper(feature, weights, low, high, bool(closed_high), np.array(place, dtype=np.int64))


def two_levels(values: np.ndarray) -> tuple[float, float]:
    """The two levels of values `(n,)`: the means of two clusters; equal where all values are."""
    low, high = np.quantile(values, [0.02, 0.98])
    if low == high:
        # One of the levels is rare.
        low, high = values.min(), values.max()
    for _ in range(20):
        upper = values > (low + high) / 2
        if upper.all() or not upper.any():
            break
        low, high = values[~upper].mean(), values[upper].mean()
    return float(low), float(high)


def _switched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Whether values `(T,)` are at the high level; between the levels they keep the last one."""
    share = (values - low) / (high - low) - 0.5
    known = np.abs(share) > BAND
    if not known.any():
        return share > 0
    frames = np.arange(len(values))
    last = np.maximum.accumulate(np.where(known, frames, -1))
    return share[np.where(last < 0, np.flatnonzero(known)[0], last)] > 0


def _without_short(values: np.ndarray, shortest: int) -> np.ndarray:
    """Bool values `(T,)` without runs of fewer than `shortest` frames, except at the ends."""
    values = values.copy()
    while True:
        edges = np.flatnonzero(np.diff(values.astype(np.int8)) != 0) + 1
        short = np.flatnonzero(np.diff(edges) < shortest)
        if not len(short):
            return values
        values[edges[short[0]] : edges[short[0] + 1]] ^= True
