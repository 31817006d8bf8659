"""Peculiarities of single episodes become notes with their amount and place; those of all episodes do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_motions import FPS, JOINTS, picking, signals_of, smooth_motions, wandering

from hf_ptr.data.edited_copies import CutEnds
from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.held_commands import HeldCommands
from hf_ptr.detection.checks.idle_end import IdleEnd
from hf_ptr.detection.checks.no_motion import NoMotion
from hf_ptr.detection.checks.recording_gaps import RecordingGap
from hf_ptr.detection.checks.regression import Regression
from hf_ptr.detection.checks.rests import IdleStart, Pause
from hf_ptr.detection.checks.return_motion import ReturnMotion
from hf_ptr.detection.checks.short import Short
from hf_ptr.detection.checks.slow import Slow
from hf_ptr.detection.checks.stale_start import StaleStart
from hf_ptr.detection.checks.tremor import Tremor
from hf_ptr.detection.checks.unusual_end import UnusualEnd
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.notes import Note
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.response import ResponseModel

EPISODES = 14
ODD = (4, 9)


def recordings():
    """An arm that picks something up; the way home at the end is not recorded."""
    rng = np.random.default_rng(11)
    return [tuple(values[:-30] for values in picking(rng)) for _ in range(EPISODES)]


def found(signals, check):
    """The findings of a check by episode."""
    detector = Detector(signals, [check])
    hits = [detector.hits(view, measured) for view, measured in zip(detector.views, detector.measured, strict=True)]
    return {number: [one.found for one in part] for number, part in enumerate(hits) if part}


def only(change, which=ODD):
    """The change in some episodes only."""
    return lambda number, state, action: change(state, action) if number in which else (state, action)


def at_times(times):
    """Both signals at other times, with sensor noise."""

    def change(state, action):
        frames = times(len(state))
        noise = np.random.default_rng(len(frames)).normal(0, 0.003, (2, len(frames), state.shape[1]))
        return tuple(
            np.stack([np.interp(frames, np.arange(len(values)), column) for column in values.T], axis=1) + part
            for values, part in zip((state, action), noise, strict=True)
        )

    return change


def tremble(state, action):
    return state, action + np.random.default_rng(2).normal(0, 0.017, action.shape) * (np.arange(JOINTS + 1) < JOINTS)


def jump_at_start(state, action):
    return np.concatenate([state[:2] + 1.5, state[2:]]), action


def again(length):
    """To frame 40, back to 15, and on."""
    return np.concatenate([np.arange(40), np.arange(40, 15, -1), np.arange(15, length)]).astype(float)


CASES = {
    "pause": (Pause, at_times(lambda n: np.r_[np.arange(15), np.full(40, 15.0), np.arange(15, n)]), 2.0, 0.3),
    "idle start": (IdleStart, at_times(lambda n: np.r_[np.zeros(50), np.arange(n)]), 2.5, 0.5),
    "slow": (Slow, at_times(lambda n: np.arange(0, n - 1, 0.55)), 0.8, 0.25),
    "short": (Short, lambda state, action: (state[:45], action[:45]), 0.5, 0.2),
    "held commands": (HeldCommands, lambda s, a: (s, a[np.arange(len(a)) // 2 * 2]), 0.5, 0.1),
    "tremor": (Tremor, tremble, None, None),
    "stale start": (StaleStart, jump_at_start, None, None),
    "way back": (ReturnMotion, at_times(lambda n: np.r_[np.arange(n), np.arange(n - 1, 0, -1.5)]), None, None),
    "way driven again": (Regression, at_times(again), None, None),
    "end": (
        UnusualEnd,
        lambda s, a: (np.r_[s, s[-1:] + np.linspace(0, 2, 20)[:, None]], np.r_[a, a[-20:]]),
        None,
        None,
    ),
    "no motion": (NoMotion, lambda s, a: (s[:1] + 0.01 * (s - s[:1]), a[:1] + 0.01 * (a - a[:1])), 6.6, 0.2),
}


@pytest.mark.parametrize(("check", "change", "amount", "within"), CASES.values(), ids=CASES)
def test_a_peculiarity_is_found_in_its_episodes_only(check, change, amount, within):
    places = found(signals_of(recordings(), only(change)), check)
    assert sorted(places) == list(ODD)
    if amount is not None:
        assert [place.amount for (place,) in places.values()] == pytest.approx([amount] * 2, abs=within)
    assert found(signals_of(recordings()), check) == {}


@pytest.mark.parametrize("name", ["short", "end"])
def test_an_end_that_apply_cut_is_not_unfinished(name):
    check, change, *_ = CASES[name]
    signals = signals_of(recordings(), only(change))
    cut, other = (dataclasses.replace(signals.episodes[number], cut=CutEnds(False, True)) for number in ODD)
    episodes = [{ODD[0]: cut}.get(number, episode) for number, episode in enumerate(signals.episodes)]
    assert sorted(found(dataclasses.replace(signals, episodes=tuple(episodes)), check)) == [ODD[1]]
    episodes[ODD[1]] = other
    assert found(dataclasses.replace(signals, episodes=tuple(episodes)), check) == {}


def test_a_slow_operator_who_approaches_slowly_at_the_end_does_not_rest():
    def crawl(rest):
        """At 0.3 of the usual speed, and for three more seconds at a sixth of that; or the robot rests then."""

        def change(state, action):
            fast = int(np.abs(np.diff(state[10:-10], axis=0)).sum(axis=1).argmax()) + 10
            times = np.r_[np.arange(0, fast, 0.3), fast + (1 - rest) * np.arange(0, 3 * FPS) * 0.05]
            return at_times(lambda _: times)(state, action)

        return change

    motions = smooth_motions(EPISODES)
    assert found(signals_of(motions, only(crawl(0))), IdleEnd) == {}
    assert sorted(found(signals_of(motions, only(crawl(1))), IdleEnd)) == list(ODD)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("end", "no motion")])
def test_what_all_episodes_have_is_not_reported(name):
    check, change = CASES[name][:2]
    assert found(signals_of(recordings(), only(change, range(EPISODES))), check) == {}


def test_places():
    pause = found(signals_of(recordings(), only(CASES["pause"][1])), Pause)[4][0]
    assert (pause.first, pause.stop) == (pytest.approx(15, abs=3), pytest.approx(55, abs=3))
    turned = found(signals_of(recordings(), only(CASES["way driven again"][1])), Regression)[4][0]
    assert (turned.first, turned.stop) == (pytest.approx(15, abs=4), pytest.approx(65, abs=4))
    stale = found(signals_of(recordings(), only(jump_at_start)), StaleStart)[4][0]
    assert (stale.first, stale.stop) == (0, 2)


def test_a_stale_start_names_the_dimension_that_is_farthest_away():
    def one_joint(state, action):
        return np.concatenate([state[:2] + 3.0 * (np.arange(state.shape[1]) == 1), state[2:]]), action

    signals = signals_of(recordings(), only(one_joint))
    check = StaleStart(Context(signals, ResponseModel(signals)))
    assert check.cause(found(signals, StaleStart)[4][0]).endswith("from the following ones, most in dimension 1")


def test_a_fast_operator_is_neither_short_nor_slow():
    signals = signals_of(recordings(), only(at_times(lambda n: np.arange(0, n - 1, 1.5))))
    assert found(signals, Short) == {}
    assert found(signals, Slow) == {}


def test_gaps_of_the_time_stamps_are_reported_with_their_seconds():
    signals = signals_of(recordings())
    seconds = np.arange(len(signals.episodes[4])) / FPS
    after = np.arange(len(seconds)) > 30
    late = dataclasses.replace(signals.episodes[4], seconds=seconds + 0.6 * after, stretch=after.astype(np.int64))
    short = dataclasses.replace(signals.episodes[4], seconds=seconds + 0.3 * after)
    signals = dataclasses.replace(signals, episodes=(*signals.episodes[:4], late, *signals.episodes[5:]))
    places = found(signals, RecordingGap)
    # Chunks are cut at a long gap only.
    check = RecordingGap(Context(signals, ResponseModel(signals)))
    assert check.cause(places[4][0]) == "0.65 s without a frame"
    (trained,) = found(dataclasses.replace(signals, episodes=(*signals.episodes[:4], short)), RecordingGap)[4]
    assert check.cause(trained) == "0.35 s without a frame; chunks are trained across the gap"
    assert list(places) == [4]
    assert (places[4][0].first, places[4][0].stop) == (30, 32)
    assert places[4][0].amount == pytest.approx(0.65)


def test_a_rest_at_the_end_has_the_recorded_seconds():
    signals = signals_of(recordings(), only(at_times(lambda n: np.r_[np.arange(n), np.full(40, n - 1.0)]), (4,)))
    rest = found(signals, IdleEnd)[4][0].amount
    slow = [dataclasses.replace(episode, seconds=2 * episode.seconds) for episode in signals.episodes]
    twice = found(dataclasses.replace(signals, episodes=tuple(slow)), IdleEnd)
    assert twice[4][0].amount == pytest.approx(2 * rest)


@pytest.mark.parametrize(("speed", "odd"), [(1.0, list(ODD)), (0.33, [])])
def test_a_slow_operator_rests_longer_at_the_end(speed, odd):
    def waits(frames):
        return lambda n: np.r_[np.arange(0, n - 1, 1.0), np.full(frames, n - 1.0)]

    motions = [at_times(waits(40))(*one) for one in smooth_motions(EPISODES)]
    slow = only(at_times(lambda n: np.r_[np.arange(0, n - 40, speed), np.full(100, n - 1.0)]))
    assert sorted(found(signals_of(motions, slow), IdleEnd)) == odd


def test_a_rest_that_a_task_always_has_is_its_convention():
    waits = at_times(lambda n: np.r_[np.arange(n), np.full(60, n - 1.0)])
    signals = signals_of(recordings(), only(waits, ODD))
    assert sorted(found(signals, IdleEnd)) == list(ODD)
    other = [dataclasses.replace(e, task=int(e.position in ODD)) for e in signals.episodes]
    assert found(dataclasses.replace(signals, episodes=tuple(other), tasks=("a", "b")), IdleEnd) == {}


def test_an_episode_without_motion_is_found_where_it_is_planted():
    signals = signals_of(recordings())
    context = Context(signals, ResponseModel(signals))
    (plant,) = NoMotion(context).plants()
    still = plant.make(signals.episodes[2], context, np.random.default_rng(0))
    signals = dataclasses.replace(signals, episodes=(*signals.episodes[:2], still, *signals.episodes[3:]))
    assert list(found(signals, NoMotion)) == [2]


def test_notes_are_never_faults():
    assert all(check.severity == "note" for check in all_checks() if issubclass(check, Note))


def test_very_short_episodes_are_measured():
    rng = np.random.default_rng(0)
    made = [wandering(rng) for _ in range(8)]
    lengths = {0: 1, 1: 2, 2: 3, 3: 7}
    signals = signals_of(made, lambda number, *pair: tuple(part[: lengths.get(number)] for part in pair))
    detector = Detector(signals, all_checks())
    assert len(detector.measured) == 8
