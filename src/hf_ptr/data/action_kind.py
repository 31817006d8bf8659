"""Whether actions are target positions of the state, decided by the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import row_blocks

# A position differs from the state at the same frame by less than this share of its standard deviation, in most
# dimensions; velocities and displacements differ by more than 1.
FOLLOWS_BELOW = 0.5
# The share of dimensions: some may have other units, such as a gripper command of 0 or 1.
FOLLOWING_DIMENSIONS = 0.6


@dataclass(frozen=True)
class ActionKind:
    """
    The decision.

    Attributes:
        is_position: whether the actions are target positions of the state, dimension by dimension.
        reason: why, for users.
    """

    is_position: bool
    reason: str


def action_kind(table: EpisodeTable, state: str, action: str) -> ActionKind:
    """
    Whether the actions are target positions of the state.

    They are if state and action have the same width, and the action is close to the state of the same frame in most
    dimensions that change: their root mean square difference is below [`FOLLOWS_BELOW`] standard deviations of the
    action.

    Args:
        table: the episodes.
        state, action: names of the features.

    Raises:
        InputError: the table lacks a feature.
    """
    states, actions = table.feature(state), table.feature(action)
    if states.shape[1] != actions.shape[1]:
        return ActionKind(False, f"the state has {states.shape[1]} dimensions and the action {actions.shape[1]}")
    difference = np.sqrt(sum(_squares(one - other) for one, other in _pairs(actions, states)) / len(actions))
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in row_blocks(actions)) / len(actions)
    deviation = np.sqrt(sum(_squares(block - mean) for block in row_blocks(actions)) / len(actions))
    moving = deviation > 1e-6
    if not moving.any():
        return ActionKind(False, "the action never changes")
    ratio = difference[moving] / deviation[moving]
    share = float((ratio < FOLLOWS_BELOW).mean())
    typical = f"it differs from the state by {np.median(ratio):.2g} standard deviations (median over dimensions)"
    if share >= FOLLOWING_DIMENSIONS:
        return ActionKind(True, f"the action is a target position: {typical}")
    return ActionKind(False, f"the action is not a position of the state: {typical}")


def _pairs(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(row_blocks(one), row_blocks(other), strict=True)


def _squares(values: np.ndarray) -> np.ndarray:
    return np.square(values, dtype=np.float64).sum(axis=0)
