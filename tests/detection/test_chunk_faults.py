"""Which chunks a finding concerns."""

from __future__ import annotations

import numpy as np
from data_helpers import coded_table

from hf_ptr.detection.check import Severity
from hf_ptr.detection.chunk_faults import chunk_fault_probability, chunks_beside_faults
from hf_ptr.detection.findings import Finding


def finding(
    episode: int, first: int, last: int, probability: float, severity: Severity = "fault", check: str = "a/b"
) -> Finding:
    return Finding(check, episode, first, last, probability, severity, 1.0, "frames", "cause", "action")


def test_a_chunk_has_the_faults_of_its_actions_and_of_its_target() -> None:
    table = coded_table([12, 20]).select([1])
    found = chunk_fault_probability([finding(1, 9, 10, 0.8)], table, chunk_size=3, target_offset=6)
    # Actions t .. t + 2 touch frames 9 and 10 from t = 7 to 10; the target t + 6 from t = 3 to 4.
    assert np.flatnonzero(found).tolist() == [3, 4, 7, 8, 9, 10]
    assert set(found[found > 0]) == {0.8}


def test_the_most_probable_fault_counts_and_notes_do_not() -> None:
    table = coded_table([6, 6, 6])
    findings = [
        finding(0, 0, 5, 0.5),
        finding(0, 3, 3, 0.9),
        finding(1, 0, 5, 1.0, "note"),
        finding(7, 0, 5, 1.0),
    ]
    found = chunk_fault_probability(findings, table, chunk_size=2, target_offset=1)
    assert found.tolist() == [0.5, 0.5, 0.9, 0.9, 0.5, 0.5] + [0.0] * 12


def test_nothing_reaches_beyond_its_episode() -> None:
    table = coded_table([6, 6])
    found = chunk_fault_probability(
        [finding(1, 0, 0, 1.0), finding(0, 5, 9, 1.0)], table, chunk_size=4, target_offset=4
    )
    assert np.flatnonzero(found).tolist() == [1, 2, 3, 4, 5, 6]


def test_beside_a_fault_of_state_or_action_are_the_other_chunks_of_its_episode() -> None:
    table = coded_table([6, 6, 6, 6])
    findings = [
        finding(0, 2, 3, 0.9, check="action/noise"),
        finding(1, 0, 5, 0.9, check="state/offset"),
        finding(2, 2, 3, 0.9, check="camera/frozen"),
        finding(3, 2, 3, 0.9, "note", "action/held"),
    ]
    probability = chunk_fault_probability(findings, table, chunk_size=1, target_offset=1)
    found = chunks_beside_faults(findings, table, probability)
    # A whole episode has no other chunks; the score does not see the images; a note is not a fault.
    assert np.flatnonzero(found).tolist() == [0, 4, 5]
