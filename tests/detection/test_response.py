"""The commands that a state implies, in tasks with a response of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
from leading_table import leading_table

from hf_ptr.detection.detect import detect
from hf_ptr.detection.findings import flagged_episodes

EPISODES, PUSHING = 40, 12
INVERTED = (29, 32, 35, 38)


def pushing_table():
    """In the last episodes, those of another task, dimension 1 presses as fast as dimension 0 moves."""

    def command(number: int, action: np.ndarray) -> np.ndarray:
        if number >= EPISODES - PUSHING:
            pressing = action[:, 0] if number not in INVERTED else 2 * np.median(action[:, 0]) - action[:, 0]
            action = np.column_stack([action[:, 0], pressing, action[:, 2:]])
        return action

    table = leading_table(EPISODES, command)
    task = (np.arange(EPISODES) >= EPISODES - PUSHING).astype(np.int64)
    return dataclasses.replace(table, tasks=("carry", "push"), task_index=np.repeat(task, table.lengths))


def test_a_task_with_a_response_of_its_own_shows_its_own_faults() -> None:
    table = pushing_table()
    found = detect(table, state_feature="observation.state", action_feature="action", power=False)
    assert flagged_episodes(found.findings) == list(INVERTED)
