"""The detector finds planted faults, and leaves sound episodes alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from leading_table import leading_table
from scipy.ndimage import gaussian_filter1d

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.dead import Dead
from hf_ptr.detection.checks.gain import Gain
from hf_ptr.detection.checks.offset import Offset
from hf_ptr.detection.checks.spikes import ActionSpikes
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import SHORT, WHOLE
from hf_ptr.errors import InputError


def flagged(table: EpisodeTable) -> dict[int, set[str]]:
    detector = Detector(Signals.of_table(table, "observation.state", "action"), all_checks())
    found = {}
    for view, measured in zip(detector.views, detector.measured, strict=True):
        names = {hit.check.name for hit in detector.hits(view, measured)}
        if names:
            found[view.episode.position] = names
    return found


def test_sound_episodes_have_no_findings():
    assert flagged(leading_table(20)) == {}


@pytest.mark.parametrize(("usual", "found_in"), [(0.0, [3, 11]), (0.6, [])])
def test_a_gain_is_a_fault_where_it_exceeds_those_of_the_others(usual, found_in):
    """A dimension in which each episode has a gain of its own, as where it presses against something."""

    def own(number: int, action: np.ndarray) -> np.ndarray:
        doublings = 0.8 if number in (3, 11) else usual * np.sin(number)
        return action * [2.0**doublings, 1, 1]

    detector = Detector(Signals.of_table(leading_table(20, own), "observation.state", "action"), [Gain])
    found = [v.episode.position for v, m in zip(detector.views, detector.measured, strict=True) if detector.hits(v, m)]
    assert found == found_in


@pytest.mark.parametrize(("inverted", "found_in"), [((16, 17, 18, 19), []), ((16,), [16])])
def test_a_task_of_a_few_episodes_may_have_a_rule_of_its_own(inverted, found_in):
    """Four episodes of another task: where all press the other way, that is no fault."""
    table = leading_table(20, lambda number, action: action * [-1 if number in inverted else 1, 1, 1])
    task = np.repeat(np.arange(20) >= 16, table.lengths).astype(np.int64)
    table = dataclasses.replace(table, task_index=task, tasks=("put it in", "put it back"))
    detector = Detector(Signals.of_table(table, "observation.state", "action"), [Gain])
    found = [v.episode.position for v, m in zip(detector.views, detector.measured, strict=True) if detector.hits(v, m)]
    assert found == found_in


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (lambda a: np.concatenate([np.repeat(a[:1], 5, axis=0), a[:-5]]), "action/lag"),
        (lambda a: a + np.array([0.8, 0, 0]), "action/offset"),
        (lambda a: a * [-1, 1, 1], "action/gain"),
        (lambda a: np.where([True, False, False], a[:1], a), "action/dead"),
        (lambda a: a[:, [1, 0, 2]], "action/exchanged"),
        (lambda a: a[::-1], "action/residual"),
        (lambda a: a + np.random.default_rng(1).normal(0, 0.2, a.shape), "action/noise"),
        (lambda a: a + 3.0 * (np.arange(len(a))[:, None] == 50), "action/spikes"),
    ],
)
def test_each_planted_fault_is_found_by_its_check_in_its_episodes_only(fault, check):
    table = leading_table(20, lambda number, action: fault(action) if number in (3, 11) else action)
    found = flagged(table)
    assert sorted(found) == [3, 11]
    assert check in found[3]
    assert check in found[11]


def test_half_of_all_commands_is_one_finding_of_all_dimensions():
    table = leading_table(20, lambda number, action: 0.5 * action if number in (3, 11) else action)
    detector = Detector(Signals.of_table(table, "observation.state", "action"), [Gain])
    (check,) = detector.checks
    every = len(detector.context.model.names)
    for view, measured in zip(detector.views, detector.measured, strict=True):
        whole = [hit.found for hit in detector.hits(view, measured) if hit.scale == WHOLE]
        together = [found for found in whole if found.dimension == every]
        assert bool(together) == (view.episode.position in (3, 11))
        for found in together:
            assert found.detail == pytest.approx(0.5, abs=0.1)
            assert check.cause(found).startswith("commands of all dimensions with gain 0.")


def test_commands_dead_in_a_part_are_found_there():
    def stopped(number, action):
        if number in (3, 11):
            action = action.copy()
            action[40:70, 1] = action[40, 1]
        return action

    sound = Signals.of_table(leading_table(20), "observation.state", "action")
    detector = Detector(Signals.of_table(leading_table(20, stopped), "observation.state", "action"), [Dead])
    for view, measured in zip(detector.views, detector.measured, strict=True):
        hits = detector.hits(view, measured)
        assert bool(hits) == (view.episode.position in (3, 11))
        for hit in hits:
            assert hit.found.dimension == 1
            assert hit.found.first == pytest.approx(40, abs=3)
            assert hit.found.stop == pytest.approx(70, abs=3)
            way = np.ptp(sound.episodes[view.episode.position].action[42:68, 1])
            assert hit.found.detail == pytest.approx(way, rel=0.1)
            assert f"moves by {hit.found.detail:.2f} standard deviations" in hit.check.cause(hit.found)


def test_a_dimension_dead_throughout_is_no_habit_of_its_task():
    """Nine of twenty episodes of one of two tasks."""
    faulty = list(range(20, 38, 2))

    def stopped(number, action):
        return action * [1, number not in faulty, 1]

    table = leading_table(40, stopped)
    task = np.repeat(np.arange(40) >= 20, table.lengths).astype(np.int64)
    table = dataclasses.replace(table, task_index=task, tasks=("put it in", "put it back"))
    detector = Detector(Signals.of_table(table, "observation.state", "action"), [Dead])
    hits = {v.episode.position: detector.hits(v, m) for v, m in zip(detector.views, detector.measured, strict=True)}
    throughout = {number: [hit for hit in of_it if hit.scale == WHOLE] for number, of_it in hits.items()}
    assert [number for number, of_it in throughout.items() if of_it] == faulty
    assert all(hit.found.dimension == 1 and hit.found.detail > 0.25 for of_it in throughout.values() for hit in of_it)


def test_noise_does_not_hide_a_dead_dimension_and_a_usual_rest_is_none():
    noise = np.random.default_rng(2).normal(0, 0.08, (20, 120, 3))

    def stopped(number, action):
        action = action.copy()
        # Every operator lets go of the third joint for a while; two lose the second one for longer than anybody rests.
        action[60:85, 2] = action[60, 2]
        if number in (3, 11):
            action[30:80, 1] = action[30, 1]
        return action + noise[number]

    detector = Detector(Signals.of_table(leading_table(20, stopped), "observation.state", "action"), [Dead])
    found = {
        (view.episode.position, hit.found.dimension)
        for view, measured in zip(detector.views, detector.measured, strict=True)
        for hit in detector.hits(view, measured)
    }
    assert found == {(3, 1), (11, 1)}


def test_the_amount_of_leaps_is_that_of_all_leaping_values():
    def leaping(number, action):
        leaps = np.isin(np.arange(len(action)), [40, 41, 70])[:, None] * [3.0, 0.0, 0.0]
        return action + leaps if number in (3, 11) else action

    signals = Signals.of_table(leading_table(20, leaping), "observation.state", "action")
    detector = Detector(signals, [ActionSpikes])
    hits = detector.hits(detector.views[3], detector.measured[3])
    assert [(hit.found.first, hit.found.stop) for hit in hits] == [(40, 42), (70, 71)]
    for hit in hits:
        assert hit.found.amount == pytest.approx(np.sqrt(3) * 3.0 / signals.action.unit[0], rel=0.1)
        size = f"root of the sum of squares of all leaping values: {hit.found.amount:.1f} standard deviations"
        assert hit.check.cause(hit.found) == f"commands of 0 leap for a moment; {size}"


def test_a_pause_with_an_error_of_one_moment_is_not_a_shift():
    table = leading_table(20)
    signals = Signals.of_table(table, "observation.state", "action")
    context = Context(signals, ResponseModel(signals))
    episode = signals.episodes[4]
    rows = np.concatenate([np.arange(50), np.full(60, 50), np.arange(50, len(episode))])
    paused = episode.take(rows, np.arange(len(rows)) / signals.fps)
    paused.action[50:110, 0] += 0.5
    (offset,) = Detector(signals, [Offset]).checks
    still, moving = (offset.measure(context.view(each))[SHORT].amount.max() for each in (paused, episode))
    assert still < offset.material
    assert moving < offset.material


def test_one_episode_alone_is_refused():
    with pytest.raises(InputError, match="needs several"):
        Signals.of_table(leading_table(1), "observation.state", "action")


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_a_check_reads_no_other_signals_than_it_says(check):
    detector = Detector(Signals.of_table(leading_table(12), "observation.state", "action"), [check])
    if not detector.checks:
        assert detector.unavailable[check.name]
        return
    episode = detector.context.signals.episodes[4]
    noise = np.random.default_rng(2).normal(0, 1, episode.state.shape)
    others = {
        name: getattr(episode, name) + noise for name in ("state", "action") if name not in detector.checks[0].reads
    }
    changed = detector.context.view(episode.with_signals(**others))
    for scale, candidates in detector.measure(changed)[0].items():
        assert np.array_equal(candidates.amount, detector.measured[4][0][scale].amount)


def test_only_checks_that_read_a_changed_signal_measure_a_copy_again():
    detector = Detector(Signals.of_table(leading_table(12), "observation.state", "action"), all_checks())
    episode = detector.context.signals.episodes[4]
    view = detector.context.changed_view(episode.with_signals(action=episode.action + 0.3))
    names = [check.name for check in detector.checks]
    again = detector.measure_changed(view)
    assert again[names.index("state/noise")] is detector.measured[4][names.index("state/noise")]
    assert again[names.index("action/offset")]["whole"].amount.max() > 0.2
    # Other times concern every check.
    view = detector.context.changed_view(dataclasses.replace(episode, seconds=episode.seconds * 2))
    assert detector.measure_changed(view)[0] is not detector.measured[4][0]


def test_a_copy_with_other_commands_has_the_prediction_of_its_own_state():
    context = Detector(Signals.of_table(leading_table(12), "observation.state", "action"), []).context
    episode = context.signals.episodes[4]
    for changed in (
        episode.with_signals(action=episode.action + 0.3),
        episode.with_signals(state=episode.state + 0.3),
        dataclasses.replace(episode, seconds=episode.seconds * 2),
        dataclasses.replace(episode, action=episode.action[::-1], state=episode.state[::-1]),
    ):
        copy, alone = context.changed_view(changed).prediction, context.view(changed).prediction
        assert np.array_equal(copy.expected, alone.expected)
        assert np.array_equal(copy.action, alone.action)


def test_the_order_of_the_tasks_does_not_matter_to_the_model():
    tasks = np.repeat(np.arange(20) % 10, 120)
    table = dataclasses.replace(leading_table(20), task_index=tasks, tasks=tuple("abcdefghij"))
    model = Detector(Signals.of_table(table, "observation.state", "action"), all_checks()).context.model
    assert (model.explained > 0.98).all()


def test_a_glitch_and_a_short_episode_hide_no_other_fault():
    def change(number, action):
        return np.concatenate([np.repeat(action[:1], 5, axis=0), action[:-5]]) if number in (3, 11) else action

    table = leading_table(20, change)
    table.columns["observation.state"][7 * 120 + 60] += 60.0
    lengths = table.lengths.copy()
    lengths[-1] = 4
    table = table.take_rows(np.arange(19 * 120 + 4), lengths, table.episode_index)
    found = flagged(table)
    assert {3, 11} <= set(found)
    assert "state/spikes" in found[7]


def test_noise_in_two_episodes_does_not_make_a_resting_joint_one_that_moves():
    """Otherwise small differences of the sound episodes would count as shifts of that joint."""

    def noisy(number: int, action: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(number)
        action = action * [1, 1, 0.03]
        return action + random.normal(0, 1.0, action.shape) * (number in (7, 18))

    signals = Signals.of_table(leading_table(20, noisy), "observation.state", "action")
    assert signals.action.moves.tolist() == [True, True, False]
    detector = Detector(signals, [Offset])
    assert not any(detector.hits(v, m) for v, m in zip(detector.views, detector.measured, strict=True))


def test_commands_that_have_nothing_to_do_with_the_state_have_no_gain():
    rng = np.random.default_rng(5)

    def unrelated(number: int, action: np.ndarray) -> np.ndarray:
        return gaussian_filter1d(rng.normal(size=action.shape).cumsum(axis=0), 6.0, axis=0)

    table = leading_table(40, unrelated)
    state = np.concatenate([unrelated(number, np.empty((120, 3))) for number in range(40)]).astype(np.float32)
    table = dataclasses.replace(table, columns={**table.columns, "observation.state": state})
    detector = Detector(Signals.of_table(table, "observation.state", "action"), [Gain])
    assert not any(detector.hits(view, found) for view, found in zip(detector.views, detector.measured, strict=True))
