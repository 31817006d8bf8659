"""The power card says which planted faults would be found, and what cannot be found at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from made_motions import signals_of, smooth_motions

from hf_ptr.detection.check import Candidates, Check, Found, Measurement, Plant, View
from hf_ptr.detection.checks.gain import Gain
from hf_ptr.detection.checks.noise import StateNoise
from hf_ptr.detection.checks.offset import Offset
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.power import Power, PowerCard, power_card
from hf_ptr.detection.power_text import PowerRow, power_table, unseen_table
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.unseen import Unseen, unseen
from hf_ptr.detection.windows import WHOLE

FRAMES = 100


def signals(episodes: int = 20, **options) -> Signals:
    return signals_of(smooth_motions(episodes, FRAMES, **options), names=["base", "elbow", "wrist"])


class Level(Check):
    """The mean of the state in the first dimension, against the dataset's."""

    name, unit, action, material = "state/level", "std", "look at it", 0.5

    def measure(self, view: View) -> Measurement:
        amount = np.abs(view.episode.state[:, :1].mean(axis=0))
        return {WHOLE: Candidates.events([0], [len(view.episode)], [amount])}

    def cause(self, found: Found) -> str:
        return f"shifted by {found.amount}"

    def plants(self) -> Sequence[Plant]:
        def shifted(size: float):
            return lambda episode, context, rng: episode.with_signals(state=episode.state + size)

        return [
            Plant("far", shifted(50.0), partial=False),
            Plant("near", shifted(0.01), partial=False),
            Plant("impossible", lambda episode, context, rng: None),
            Plant(
                "of the first three",
                lambda episode, context, rng: shifted(50.0)(episode, context, rng) if episode.position < 3 else None,
                partial=False,
            ),
        ]


PLANTS = Level.plants


def by_fault(card: PowerCard) -> dict[tuple[str, bool], Power]:
    return {(power.fault, power.part): power for power in card.powers}


def test_a_large_fault_would_be_found_and_a_tiny_one_not():
    found = by_fault(power_card(Detector(signals(), [Level])))
    assert (found["far", False].probability, found["far", False].copies) == (1.0, 12)
    assert found["far", False].low == pytest.approx(0.757, abs=0.001)
    assert found["near", False].probability == 0.0
    assert found["near", False].high == pytest.approx(0.243, abs=0.001)


def test_the_probability_is_none_where_too_few_episodes_can_have_the_fault():
    found = by_fault(power_card(Detector(signals(), [Level])))
    for key, copies in {("impossible", False): 0, ("impossible", True): 0, ("of the first three", False): 3}.items():
        assert (found[key].probability, found[key].low, found[key].high, found[key].copies) == (None, 0.0, 1.0, copies)


def test_a_card_is_the_same_for_a_seed_and_says_faults_whole_and_in_a_part():
    detector = Detector(signals(), [StateNoise])
    card = power_card(detector, seed=3)
    assert card == power_card(detector, seed=3)
    found = by_fault(card)
    noise = "noise of 0.2 standard deviations on the state"
    assert found[noise, False].probability == 1.0
    assert 0.0 < found[noise, True].probability < 1.0


class Blind(Check):
    """Plants a fault that only another check can find, and counts how often it is asked."""

    name, unit, action, material = "state/blind", "std", "look at it", 0.5
    asked = 0

    def measure(self, view: View) -> Measurement:
        type(self).asked += 1
        return {WHOLE: Candidates.events([0], [len(view.episode)], [0.0])}

    def cause(self, found: Found) -> str:
        return "nothing"

    def plants(self) -> Sequence[Plant]:
        far, near, *_ = Level.plants(self)
        return [dataclasses.replace(far, label="far, of a blind check"), dataclasses.replace(near, label="near too")]


def test_a_fault_that_its_own_check_misses_may_be_found_by_another_one():
    found = by_fault(power_card(Detector(signals(), [Blind, Level])))
    assert found["far, of a blind check", False].probability == 1.0
    assert found["near too", False].probability == 0.0


def test_a_fault_that_its_own_check_finds_is_measured_by_no_other(monkeypatch):
    monkeypatch.setattr(Blind, "plants", lambda self: [])
    monkeypatch.setattr(Level, "plants", lambda self: PLANTS(self)[:1])
    detector = Detector(signals(), [Level, Blind])
    before = Blind.asked
    assert by_fault(power_card(detector))["far", False].probability == 1.0
    # An offset of the state is asked of every check: of three dimensions, and with the other sign of the two that
    # the first check does not see.
    assert Blind.asked - before == 5


def test_commands_beyond_the_limits_of_sound_ones_are_not_cut_off():
    """A robot that always uses all of its range: a fifth of the episodes have commands far beyond it."""
    turn = 2 * np.pi * np.arange(FRAMES) / 25

    def bounded(number, state, action):
        wave = np.stack([np.sin(turn + number), np.cos(turn + number), np.sin(turn + 2 * number)], axis=1)
        return np.roll(wave, 2, axis=0) + 0.003 * (state - state.mean(axis=0)), wave

    detector = Detector(signals_of(smooth_motions(20, FRAMES), bounded, ["base", "elbow", "wrist"]), [Gain])
    model, episodes = detector.context.model, detector.context.signals.episodes
    doubled = [episode.with_signals(action=2 * episode.action) for episode in episodes[:4]]
    assert model.limits_with(episodes[:4], 0.2).highest == pytest.approx(model.limits.highest, rel=0.01)
    assert model.limits_with(doubled, 0.2).highest == pytest.approx(2 * model.limits.highest, rel=0.02)
    assert by_fault(power_card(detector))["all commands with gain 2", False].probability == 1.0


def test_the_amounts_of_faulty_episodes_make_such_amounts_less_improbable():
    detector = Detector(signals(), [Level])

    def p_of(which: Detector) -> float:
        return which.p_values(which.checks[0], WHOLE, np.array([[2.0]]), 0).item()

    before = p_of(detector)

    def contaminated_by(amounts: Sequence[float]) -> Detector:
        measured = [[{WHOLE: Candidates.events([0], [FRAMES], [amount])}] for amount in amounts]
        return detector.contaminated(np.arange(8), measured)

    # Amounts within reach of those of sound episodes widen the tail.
    assert p_of(contaminated_by([0.5] * 8)) > 10 * before
    # Amounts clearly apart from those of the others are no habit of the set.
    assert p_of(contaminated_by([5.0] * 8)) < 0.01
    # The detector itself is unchanged.
    assert p_of(detector) == before < 0.01


def reasons(detector: Detector) -> dict[str, tuple[str, ...]]:
    return {one.fault: one.dimensions for one in unseen(detector)}


def test_an_offset_of_the_state_cannot_be_seen_under_velocity_commands():
    fault = "an offset of the state by one standard deviation"
    assert fault not in reasons(Detector(signals(), [Offset]))
    assert reasons(Detector(signals(velocity=True), [Offset]))[fault] == ("base", "elbow", "wrist")


def test_resting_and_unexplained_dimensions_are_named():
    rng = np.random.default_rng(1)

    def change(number, state, action):
        state, action = state.copy(), action.copy()
        state[:, 1] = 0.5
        # Smooth, and of nothing that the state shows.
        action[:, 2] = np.cumsum(rng.normal(0, 1, len(action))) / 10
        return state, action

    found = reasons(Detector(signals_of(smooth_motions(20, FRAMES), change, ["base", "elbow", "wrist"]), []))
    assert found["any fault of state at rest"] == ("elbow",)
    assert found["lag, offset, gain or wrong values of single commands"] == ("elbow", "wrist")


def test_few_episodes_and_unavailable_checks_are_listed():
    class Never(Level):
        """Cannot be used."""

        name = "camera/never"

        @classmethod
        def unavailable(cls, context):
            return "the dataset has no cameras"

    found = {one.fault: one.reason for one in unseen(Detector(signals(6), [Never]))}
    assert found["small faults"] == "6 episodes are too few to know what is usual"
    assert found["the faults of checks that cannot run here"] == "the dataset has no cameras"


CARD = PowerCard(
    (
        Power.of("action/lag", "late by 6", False, 10, 10),
        Power.of("action/lag", "late by 6", True, 12, 24),
        Power.of("action/lag", "late by 3", False, 12, 24),
        Power.of("action/gain", "gain 2", False, 0, 10),
        Power.of("action/gain", "gain 0.5", False, 0, 2),
    ),
    (
        Unseen("a constant lag", "all have it"),
        Unseen("any fault at rest", "no motion", tuple("abcdefghi")),
    ),
)


def test_the_card_in_rows_puts_what_is_found_only_in_whole_episodes_apart() -> None:
    assert power_table(CARD) == [
        PowerRow("found if whole", "late by 6", "1.00", "0.50"),
        PowerRow("may be missed", "late by 3", "0.50", ""),
        PowerRow("mostly missed", "gain 2", "0.00", ""),
        PowerRow("cannot tell", "gain 0.5", "", ""),
    ]
    assert unseen_table(CARD) == [
        ("a constant lag", "all have it"),
        ("any fault at rest", "no motion (a, b, c, d, e, f and 3 more)"),
    ]


def test_faults_of_a_check_with_the_same_answer_share_a_row() -> None:
    powers = [Power.of("action/lag", f"late by {frames}", False, found, 10) for frames, found in ((3, 9), (6, 10))]
    assert power_table(PowerCard(tuple(powers), ())) == [PowerRow("found", "late by 3; late by 6", "0.90-1.00", "")]


def test_the_card_as_json():
    card = json.loads(json.dumps(CARD.as_json(), allow_nan=False))
    assert card["faulty_share"] == 0.2
    assert card["powers"][1] == {
        "check": "action/lag",
        "fault": "late by 6",
        "part": True,
        "probability": 0.5,
        "low": pytest.approx(0.314, abs=0.001),
        "high": pytest.approx(0.686, abs=0.001),
        "copies": 24,
    }
    assert card["powers"][4]["probability"] is None
    assert card["unseen"][1] == {"fault": "any fault at rest", "reason": "no motion", "dimensions": list("abcdefghi")}
