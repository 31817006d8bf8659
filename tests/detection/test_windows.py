"""Runs of frames, and rows without the ends of an episode."""

from __future__ import annotations

import numpy as np
import pytest

from hf_ptr.detection.findings import Finding, faults_in_order
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE
from hf_ptr.detection.windows import inner_rows


@pytest.mark.parametrize(
    ("mask", "first", "stop"),
    [("0110100", [1, 4], [3, 5]), ("111", [0], [3]), ("000", [], []), ("101", [0, 2], [1, 3]), ("", [], [])],
)
def test_runs_begin_and_stop_also_at_the_ends(mask: str, first: list[int], stop: list[int]) -> None:
    found = runs_of(np.array([one == "1" for one in mask], dtype=bool))
    assert [part.tolist() for part in found] == [first, stop]


def test_the_ends_are_left_out_unless_the_episode_is_short() -> None:
    values = np.arange(8 * STALE).reshape(4 * STALE, 2)
    assert inner_rows(values) is values
    longer = np.arange(4 * STALE + 1)
    assert inner_rows(longer).tolist() == longer.tolist()[STALE:-STALE]


def test_faults_are_in_order_by_episode_probability_and_length() -> None:
    def fault(episode: int, first: int, last: int, probability: float, severity: str = "fault") -> Finding:
        return Finding("a/b", episode, first, last, probability, severity, 1.0, "frames", "", "")

    findings = [
        fault(4, 0, 9, 0.7),
        fault(2, 5, 9, 0.982),
        fault(2, 0, 9, 0.979),
        fault(2, 0, 50, 0.6),
        fault(1, 0, 9, 1, "note"),
    ]
    assert faults_in_order(findings) == [findings[2], findings[1], findings[3], findings[0]]
