"""Datasets with hardly anything in them are checked without a crash, a warning or a false alarm."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from made_motions import ACTION, STATE, Recording, signals_of, smooth_motions, table_of

from hf_ptr.detection.checks.copies import Copies
from hf_ptr.detection.checks.idle_end import IdleEnd
from hf_ptr.detection.checks.unusual_end import UnusualEnd
from hf_ptr.detection.detect import detect
from hf_ptr.detection.windows import LEAST_FRAMES, windows_of


def cut(lengths):
    """The first frames of some episodes, by their number."""
    return lambda number, *pair: tuple(values[: lengths.get(number)] for values in pair)


def still(*constant: int):
    """Recordings of different lengths whose state (0) or command (1) never changes."""

    def change(number: int, *pair: np.ndarray) -> Recording:
        state, action = (values[number:] * (place not in constant) for place, values in enumerate(pair))
        return state, action

    return change


def few() -> list[Recording]:
    return smooth_motions(9, 60)


CASES = {
    "two episodes": lambda: table_of(few()[:2]),
    "one to five frames": lambda: table_of(few(), cut({0: 1, 2: 2, 4: 3, 6: 4, 8: 5})),
    "the same in two thirds": lambda: table_of(few(), cut(dict(enumerate([1, 2, 3, 4, 5, 1])))),
    "constant state": lambda: table_of(few(), still(0)),
    "constant command": lambda: table_of(few(), still(1)),
    "both constant": lambda: table_of(few(), still(0, 1)),
    "one frame each": lambda: table_of(few(), cut(dict.fromkeys(range(9), 1))),
    "two frames each": lambda: table_of(few(), cut(dict.fromkeys(range(9), 2))),
    "integers": lambda: integers(table_of(few())),
    "a gripper alone": lambda: table_of(
        few(), lambda number, state, action: (state, np.sign(action[::2]).repeat(2, 0))
    ),
}


def integers(table):
    columns = {name: np.round(1000 * table.columns[name]).astype(np.int64) for name in (STATE, ACTION)}
    return dataclasses.replace(table, columns={**table.columns, **columns})


# Faults are planted where copies may be degenerate, too.
PLANTED = ("two episodes", "one to five frames", "constant state", "one frame each")


@pytest.mark.parametrize("case", CASES)
def test_a_degenerate_dataset_has_no_fault_and_no_warning(case: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detect(CASES[case](), power=case in PLANTED)
    # A single frame has no motion; nothing else is wrong.
    assert {one.check for one in found.findings if one.severity == "fault"} <= {"time/no_motion"}
    assert np.isfinite(found.episode_evidence).all()


def test_checks_of_motion_say_that_nothing_moves():
    unavailable = detect(CASES["both constant"](), checks=[Copies, IdleEnd, UnusualEnd], power=False).unavailable
    assert unavailable == {
        "episode/copy": "no dimension moves",
        "time/idle_end": "no dimension of the state moves",
        "progress/unusual_end": "no dimension moves",
    }


def test_an_episode_of_a_few_frames_has_no_windows():
    assert windows_of(LEAST_FRAMES - 1, 20.0) == []
    assert [one.scale for one in windows_of(LEAST_FRAMES, 20.0)] == ["whole"]


def test_names_have_no_escape_sequences():
    signals = signals_of(few(), names=("\x1b]0;title\x07", "joint 2", "a\u202eb"))
    assert signals.state.names == ("\ufffd]0;title\ufffd", "joint 2", "a\ufffdb")
