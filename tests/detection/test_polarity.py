"""A two-valued command with its values exchanged is found, whether or not the state shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.polarity import Polarity
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals

FRAMES = 120


def with_gripper(
    inverted: tuple[int, ...], tasks: np.ndarray, random: bool = False, others: tuple[int, ...] = ()
) -> EpisodeTable:
    """
    Episodes with a fourth command that closes a third into the episode and opens near its end; in `others` it does so
    at the start, and again at the end.
    """
    rng = np.random.default_rng(3)

    def gripper(number: int, action: np.ndarray) -> np.ndarray:
        close, reopen = rng.integers(30, 50), rng.integers(85, 105)
        frames = np.arange(FRAMES)
        closed = (frames >= close) & (frames < reopen)
        if number in others:
            closed = ((frames >= 12) & (frames < close)) | (frames >= reopen)
        if random:
            closed = np.roll(closed, rng.integers(FRAMES))
        return np.where(closed != (number in inverted), 1.0, -1.0)

    return with_command(tasks, gripper)


def with_command(tasks: np.ndarray, command: Callable[[int, np.ndarray], np.ndarray]) -> EpisodeTable:
    """Episodes with a fourth command, of their number and their other commands."""
    table = leading_table(
        len(tasks), lambda number, action: np.concatenate([action, command(number, action)[:, None]], axis=1)
    )
    features = {**table.features, "action": {"dtype": "float32", "shape": [4], "names": None}}
    return dataclasses.replace(
        table,
        features=features,
        tasks=tuple(f"task {number}" for number in range(int(tasks.max()) + 1)),
        task_index=np.repeat(tasks, FRAMES),
    )


def found(table: EpisodeTable) -> dict[int, str]:
    detector = Detector(Signals.of_table(table, "observation.state", "action"), [Polarity])
    return {
        view.episode.position: hit.check.cause(hit.found)
        for view, measured in zip(detector.views, detector.measured, strict=True)
        for hit in detector.hits(view, measured)
    }


def test_exchanged_values_are_found_by_the_order_of_the_events():
    one_task = np.zeros(20, dtype=np.int64)
    cause = "the two values of command 3 are exchanged"
    assert found(with_gripper((2, 13), one_task)) == {2: cause, 13: cause}
    assert found(with_gripper((), one_task)) == {}


def test_the_order_belongs_to_a_task_and_a_rare_one_is_not_judged():
    # In the second task the gripper does the opposite from the start.
    second = (1, 3, 5, 7, 9, 11, 13, 15)
    tasks = np.isin(np.arange(20), second).astype(np.int64)
    assert found(with_gripper(second, tasks)) == {}
    assert sorted(found(with_gripper((*second[1:], 2), tasks))) == [1, 2]
    rare = (2, 9)
    assert found(with_gripper(rare, np.isin(np.arange(20), rare).astype(np.int64))) == {}
    # Where a task is half one way and half the other, neither half is the rule.
    task = (1, 3, 5, 7, 9, 11)
    assert found(with_gripper(task[::2], np.isin(np.arange(20), task).astype(np.int64))) == {}


def test_two_fifths_of_the_episodes_are_found():
    inverted = (1, 3, 5, 8, 9, 12, 15, 16)
    assert sorted(found(with_gripper(inverted, np.zeros(20, dtype=np.int64)))) == list(inverted)


def test_another_strategy_of_a_fifth_of_the_episodes_is_not_a_fault():
    table = with_gripper((), np.zeros(30, dtype=np.int64), others=tuple(range(0, 30, 5)))
    assert found(table) == {}


def test_a_part_of_an_episode_has_an_order_of_its_own():
    table = with_gripper((2, 13), np.zeros(20, dtype=np.int64))
    # What is left of an episode where its beginning was cut out: closed at first, open at the end.
    kept = [np.arange(FRAMES) + FRAMES * number for number in range(20)]
    kept[7] = kept[7][70:]
    lengths = np.array([len(rows) for rows in kept])
    assert sorted(found(table.take_rows(np.concatenate(kept), lengths, table.episode_index))) == [2, 13]


@pytest.mark.parametrize("rare", [0.0, 1.0])
def test_one_of_the_two_values_may_be_rare(rare: float):
    def flag(number: int, action: np.ndarray, inverted: int | None = None) -> np.ndarray:
        frames = np.arange(len(action))
        marked = (number % 2 == 0) & (frames >= 60) & (frames < 62)
        return np.where(marked != (number == inverted), rare, 1 - rare)

    assert found(with_command(np.zeros(20, dtype=np.int64), flag)) == {}
    assert list(found(with_command(np.zeros(20, dtype=np.int64), partial(flag, inverted=6)))) == [6]
    # An episode that keeps one of the two values throughout has no order of events.
    assert found(with_command(np.zeros(20, dtype=np.int64), partial(flag, inverted=7))) == {}


def test_a_command_without_an_order_has_no_polarity():
    assert found(with_gripper((4, 13), np.zeros(20, dtype=np.int64), random=True)) == {}


def test_a_dataset_without_two_valued_commands_is_not_checked():
    signals = Signals.of_table(leading_table(6), "observation.state", "action")
    assert Polarity.unavailable(Context(signals, ResponseModel(signals))) == "no command has two values"


def test_a_joint_that_steps_between_other_places_in_each_episode_has_no_two_values():
    def steps(number: int, action: np.ndarray) -> np.ndarray:
        first, then = np.random.default_rng(number).uniform(-1, 1, 2)
        return np.where(np.arange(len(action)) < 40 + number, first, then)

    signals = Signals.of_table(with_command(np.zeros(20, dtype=np.int64), steps), "observation.state", "action")
    assert signals.action.two_valued.tolist() == [False, False, False, True]
    assert Polarity.unavailable(Context(signals, ResponseModel(signals))) == "no command has two values"


def test_its_planted_fault_exchanges_the_two_values():
    signals = Signals.of_table(with_gripper((), np.zeros(20, dtype=np.int64)), "observation.state", "action")
    context = Context(signals, ResponseModel(signals))
    (plant,) = Polarity(context).plants()
    episode = signals.episodes[0]
    faulty = plant.make(episode, context, np.random.default_rng(0))
    unit, centre = signals.action.unit[3], signals.action.centre[3]
    assert faulty is not None
    assert faulty.action[:, 3] * unit + centre == pytest.approx(-(episode.action[:, 3] * unit + centre))
