"""The bulk of sound amounts: the tail that a finding must leave."""

from __future__ import annotations

import numpy as np

from hf_ptr.detection.significance import FLOOR, Bulk


def bulk_of(amounts: np.ndarray) -> Bulk:
    return Bulk.of(amounts, np.zeros(len(amounts), dtype=int), material=0.2, least_tail=0.15)


def test_amounts_that_continue_the_tail_are_probable_though_most_are_at_the_floor() -> None:
    episodes, dimensions = 25, 28
    amounts = np.zeros((episodes, dimensions))
    # Two fifths of the episodes err in one dimension each, up to 0.3.
    for row, amount in enumerate(np.linspace(0.12, 0.3, 10)):
        amounts[row, row] = amount
    one = np.zeros((1, dimensions))
    one[0, 20] = 0.35
    assert bulk_of(amounts).p(one, 0).min() > 0.01
    # Without that tail, the same amount is hardly possible.
    assert bulk_of(np.zeros((episodes, dimensions))).p(one, 0).min() < 0.001


def test_a_fifth_of_faulty_episodes_leaves_the_tail_as_it_is() -> None:
    amounts = np.zeros((25, 3))
    amounts[:5, 0] = 1.0
    bulk = bulk_of(amounts)
    assert bulk.joint_scale == 1.0 and bulk.floor == FLOOR * 0.2


def test_a_group_apart_in_one_task_is_no_habit_of_the_task_if_it_is_of_whole_episodes() -> None:
    amounts, tasks = np.full((100, 2), 0.01), np.repeat(np.arange(5), 20)
    amounts[:6, 1] = 1.5
    for whole, probable in ((True, False), (False, True)):
        bulk = Bulk.of(amounts, tasks, 0.2, 0.15, whole=whole)
        assert (bulk.p(amounts[:1], 0).min() > 0.01) == probable
    # With amounts of every size in the task, it is its habit.
    amounts[:20, 1] = np.geomspace(0.1, 1.5, 20)
    assert Bulk.of(amounts, tasks, 0.2, 0.15).p(amounts[19:20], 0).min() > 0.01
