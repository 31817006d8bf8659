"""The edits that findings ask for: what becomes of each episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data.lerobot.rewriting import Part
from hf_ptr.detection import detect
from hf_ptr.detection.checks.lag import Lag
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.lag_words import frames_late, lag_words
from hf_ptr.detection.registry import all_checks
from hf_ptr.edits.choices import EDITS, parse_choices
from hf_ptr.edits.plan import Plan, plan_edits
from hf_ptr.errors import InputError

LENGTHS = {0: 100, 1: 80, 5: 60}
TASKS = ("open the door", 'say "no"')


def finding(check: str, episode: int, first: int, last: int, **changes: Any) -> Finding:
    severity = next(each.severity for each in all_checks() if each.name == check)
    values: dict[str, Any] = {"probability": 0.9, "severity": severity, "amount": 2.0, "unit": "", "cause": "a cause"}
    return Finding(check, episode, first, last, action="", **{**values, **changes})


def plan(findings: Sequence[Finding], **options: Any) -> Plan:
    return plan_edits(findings, LENGTHS, 10.0, TASKS, parse_choices(**options))


def of(found: Plan, episode: int) -> list[tuple[int, int]]:
    return [(part.first, part.stop) for part in found.parts if part.episode == episode]


def edits(found: Plan) -> list[tuple[int, str]]:
    return [(step.episode, step.edit) for step in found.steps]


def test_a_fault_is_dropped_trimmed_or_cut_by_where_it_is() -> None:
    whole = finding("action/noise", 0, 0, 99)
    end, start = finding("time/idle_end", 1, 50, 79), finding("camera/blank", 1, 0, 9)
    middle = finding("action/residual", 5, 20, 29)
    found = plan([whole, end, start, middle])
    assert (of(found, 0), of(found, 1), of(found, 5)) == ([], [(10, 50)], [(0, 20), (30, 60)])
    assert edits(found) == [(0, "drop"), (1, "trim"), (1, "trim"), (5, "cut")]
    assert (found.dropped, found.edited, found.frames) == ([0], [1, 5], 90)


def test_notes_are_kept_except_for_failed_attempts() -> None:
    notes = [
        finding(check.name, 0, 10, 49)
        for check in all_checks()
        if check.severity == "note" and check.name != "progress/retry"
    ]
    assert len(notes) > 5 and plan(notes).parts == [Part(e, 0, n) for e, n in LENGTHS.items()]
    assert plan(notes).steps == []
    # Attempts that follow each other, up to the one that succeeds.
    retries = [finding("progress/retry", 0, 20, 39), finding("progress/retry", 0, 40, 59)]
    assert of(plan(retries), 0) == [(0, 20), (60, 100)]


def test_the_user_decides() -> None:
    idle, retry = finding("time/idle_start", 0, 0, 29), finding("progress/retry", 1, 20, 39)
    noise = finding("action/noise", 5, 10, 29)
    assert of(plan([idle], edits=["time/idle_start=cut"]), 0) == [(30, 100)]
    assert of(plan([noise], edits=["action/noise=drop"]), 5) == []
    assert of(plan([noise, retry], edits=["action/noise=keep"]), 5) == [(0, 60)]
    assert edits(plan([noise, retry], only=["action/noise"])) == [(5, "cut")]
    assert edits(plan([noise, retry], skip=["action/noise"])) == [(1, "cut")]
    assert of(plan([noise], least_seconds=3.5), 5) == []


def test_a_lag_is_shifted_away() -> None:
    late = finding("action/lag", 0, 0, 99, amount=5.7, cause="commands 5.7 frames late")
    early = finding(
        "block/lag", 1, 0, 79, amount=2.1, cause="commands about 2.1 frames early from episode 1 on; maybe"
    )
    # In a part of an episode, the frames at its ends would get the actions of others.
    part = finding("action/lag", 5, 20, 39, amount=6.0, cause="commands 6.0 frames late")
    assert plan([late, early, part]).parts == [
        Part(0, 0, 94, 6), Part(1, 2, 80, -2), Part(5, 0, 20), Part(5, 40, 60)
    ]  # fmt: skip
    # Every part of a shifted episode takes its actions from its own frames.
    retry = finding("progress/retry", 0, 30, 49)
    assert plan([late, retry]).parts[:2] == [Part(0, 0, 24, 6), Part(0, 50, 94, 6)]
    assert of(plan([late], edits=["action/lag=cut"]), 0) == []


@pytest.mark.parametrize("frames", [6, -6])
def test_the_shift_undoes_the_lag_that_the_detector_finds(frames: int) -> None:
    def moved(number: int, action: np.ndarray) -> np.ndarray:
        rows = np.arange(len(action)) - (frames if number == 3 else 0)
        return action[np.clip(rows, 0, len(action) - 1)]

    faulty, sound = leading_table(20, moved), leading_table(20)
    lengths = dict(zip(faulty.episode_index.tolist(), faulty.lengths.tolist(), strict=True))
    found = detect(faulty, checks=[Lag], power=False).findings
    (part,) = plan_edits(found, {3: lengths[3]}, faulty.fps, faulty.tasks, parse_choices()).parts
    at = int(faulty.starts[3])
    shifted = faulty.columns["action"][at + part.first + part.shift : at + part.stop + part.shift]
    np.testing.assert_array_equal(shifted, sound.columns["action"][at + part.first : at + part.stop])


def test_a_lag_that_cannot_be_shifted_away_is_cut() -> None:
    unknown = finding("action/lag", 0, 0, 99, amount=5.7, cause="commands 5.7 frames apart")
    longer = finding("action/lag", 1, 0, 79, amount=90.0, cause="commands 90.0 frames late")
    found = plan([unknown, longer])
    assert (found.dropped, edits(found)) == ([0, 1], [(0, "drop"), (1, "drop")])
    # Two checks that find one lag need one shift; two different lags leave nothing that is right.
    late = finding("action/lag", 0, 0, 99, amount=5.7, cause="commands 5.7 frames late")
    same = finding("block/lag", 0, 0, 99, amount=5.0, cause="commands about 5.0 frames late from episode 0 on")
    other = finding("block/lag", 0, 0, 99, amount=5.0, cause="commands about 5.0 frames early from episode 0 on")
    assert plan([late, same]).parts[0] == Part(0, 0, 94, 6)
    assert plan([late, other]).dropped == [0]


@pytest.mark.parametrize("frames", [5.7, -5.7])
def test_the_direction_of_a_lag_is_read_from_the_words_of_checks(frames: float) -> None:
    assert frames_late(f"commands about {lag_words(frames)} from episode 1 on", 5.68) == math.copysign(5.68, frames)
    assert frames_late("the late episodes stand still", 3.0) == 0


def test_accepted_findings_are_kept() -> None:
    noise = finding("action/noise", 0, 10, 29, severity="accepted")
    retry = finding("progress/retry", 1, 20, 39, severity="accepted")
    lag = finding("action/lag", 5, 0, 59, severity="accepted", amount=3.0, cause="commands 3.0 frames late")
    assert plan([noise, retry, lag]).steps == []
    chosen = plan([noise, retry, lag], edits=["progress/retry=cut", "action/lag=shift"])
    assert edits(chosen) == [(1, "cut"), (5, "shift")]


def test_an_episode_is_split_at_a_jump() -> None:
    found = plan([finding("state/jump", 0, 39, 40)])
    assert of(found, 0) == [(0, 40), (40, 100)] and edits(found) == [(0, "split")]
    # No place is known in a longer finding.
    noise = finding("action/noise", 0, 40, 59)
    assert of(plan([noise], edits=["action/noise=split"]), 0) == [(0, 40), (60, 100)]


def test_what_is_left_and_too_short_is_left_out() -> None:
    found = plan([finding("action/noise", 0, 5, 94), finding("action/noise", 1, 9, 49)])
    assert (of(found, 0), of(found, 1)) == ([], [(50, 80)])
    assert [step.reason for step in found.reasons(1)] == ["a cause", "less than --least-seconds is left here"]
    # A short episode that only gets another instruction stays.
    relabelled = plan([], relabel=["5=close it"], least_seconds=7.0)
    assert (of(relabelled, 5), relabelled.dropped) == ([(0, 60)], [])


@pytest.mark.parametrize("text", TASKS)
def test_an_instruction_is_corrected_by_the_finding_or_the_user(text: str) -> None:
    suggested = finding("language/wrong", 0, 0, 99, cause=f"the motion is that of {text!r}")
    assert plan([suggested]).parts[0] == Part(0, 0, 100, task=text)
    assert plan([suggested], relabel=["0=close it"]).parts[0] == Part(0, 0, 100, task="close it")
    unknown = finding("language/wrong", 0, 0, 99, cause="the motion is that of 'something else'")
    missing = finding("language/missing", 1, 0, 79, cause="the instruction is empty")
    assert plan([unknown, missing]).dropped == [0, 1]
    assert plan([missing], relabel=["1,5:6=a=b"]).parts[1:] == [Part(1, 0, 80, task="a=b"), Part(5, 0, 60, task="a=b")]
    spelling = finding("language/spelling", 1, 0, 79, cause=f"another spelling of the instruction {text!r}")
    assert plan([spelling], edits=["language/spelling=relabel"]).parts[1] == Part(1, 0, 80, task=text)


def test_the_table_names_checks() -> None:
    assert set(EDITS) <= {check.name for check in all_checks()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edits": ["action/noize=cut"]}, "--edit: unknown check 'action/noize'. Did you mean 'action/noise'?"),
        (
            {"edits": ["action/noise=smooth"]},
            "is not CHECK=EDIT with an edit of cut, split, shift, relabel, drop, keep",
        ),
        ({"edits": ["action/noise"]}, "--edit 'action/noise' is not CHECK=EDIT"),
        ({"edits": ["camera/late=shift"]}, "measures no lag of the actions; shift is for action/lag, block/lag"),
        ({"only": ["noise"]}, "--only: unknown check 'noise'"),
        ({"skip": ["noise"]}, "--skip: unknown check 'noise'"),
        ({"relabel": ["4"]}, "--relabel '4' is not EPISODES="),
        ({"relabel": ["four=close it"]}, "--relabel 'four' cannot be read"),
        ({"relabel": ["4=a", "3:6=b"]}, "--relabel gives episode 4 two instructions"),
        ({"least_seconds": float("nan")}, "--least-seconds is nan"),
    ],
)
def test_wrong_choices_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_choices(**options)
    assert message in str(refused.value)
