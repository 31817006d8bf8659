"""Which chunks a finding concerns, and how much it harms them."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import coded_table

from hf_ptr.detection.check import Severity
from hf_ptr.detection.chunk_faults import chunk_harm, chunks_next_to_faults, least_harm
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.harm import HARM, harm_of, parse_harm, require_harm
from hf_ptr.detection.registry import all_checks
from hf_ptr.errors import InputError


def finding(
    episode: int, first: int, last: int, probability: float, severity: Severity = "fault", check: str = "a/b"
) -> Finding:
    return Finding(check, episode, first, last, probability, severity, 1.0, "frames", "cause", "action")


def test_a_chunk_has_the_faults_of_its_observation_and_its_actions() -> None:
    table = coded_table([12, 20]).select([1])
    found = chunk_harm([finding(1, 9, 10, 0.8)], table, chunk_size=3)
    # Frames t .. t + 2 touch 9 and 10 from t = 7 to 10.
    assert np.flatnonzero(found).tolist() == [7, 8, 9, 10]
    assert set(found[found > 0]) == {0.8}


def test_the_largest_expected_harm_counts_and_notes_have_none() -> None:
    table = coded_table([6, 6, 6])
    findings = [
        finding(0, 0, 5, 0.5),
        finding(0, 3, 3, 0.9),
        finding(1, 0, 5, 1.0, "note"),
        finding(7, 0, 5, 1.0),
    ]
    found = chunk_harm(findings, table, chunk_size=2)
    assert found.tolist() == [0.5, 0.5, 0.9, 0.9, 0.5, 0.5] + [0.0] * 12


def test_noise_of_actions_is_half_excused_and_no_other_fault() -> None:
    table = coded_table([3, 3, 3, 3])
    findings = [
        finding(0, 0, 2, 0.8, check="action/noise"),
        finding(1, 0, 2, 0.8, check="action/lag"),
        finding(2, 0, 2, 0.8, check="action/noise"),
        finding(2, 1, 1, 0.6, check="action/lag"),
        finding(3, 0, 2, 0.8, "note", check="action/noise"),
    ]
    found = least_harm(findings, table, chunk_size=1)
    assert found.tolist() == [0.4] * 3 + [0.8] * 3 + [0.4, 0.6, 0.4] + [0.0] * 3
    own = least_harm(findings, table, chunk_size=1, harm={"action/noise": 0.5})
    assert own.tolist() == [0.2] * 3 + [0.8] * 3 + [0.2, 0.6, 0.2] + [0.2] * 3


def test_nothing_reaches_beyond_its_episode() -> None:
    table = coded_table([6, 6])
    found = chunk_harm([finding(1, 0, 0, 1.0), finding(0, 5, 9, 1.0)], table, chunk_size=4)
    assert np.flatnonzero(found).tolist() == [2, 3, 4, 5, 6]


def test_beside_a_fault_of_state_or_action_are_the_other_chunks_of_its_episode() -> None:
    table = coded_table([6, 6, 6, 6])
    findings = [
        finding(0, 2, 3, 0.9, check="action/noise"),
        finding(1, 0, 5, 0.9, check="state/offset"),
        finding(2, 2, 3, 0.9, check="camera/frozen"),
        finding(3, 2, 3, 0.9, "note", "action/held"),
    ]
    harm = chunk_harm(findings, table, chunk_size=1)
    found = chunks_next_to_faults(findings, table, harm)
    # A whole episode has no other chunks; the score does not see the images; a note is not a fault.
    assert np.flatnonzero(found).tolist() == [0, 1, 4, 5]
    # A fault without harm explains a low score of its own frames, too.
    harm = chunk_harm(findings, table, chunk_size=1, harm={"state/offset": 0.0})
    found = chunks_next_to_faults(findings, table, harm)
    assert np.flatnonzero(found).tolist() == [0, 1, 4, 5, *range(6, 12)]


@pytest.mark.parametrize(("last", "explained"), [(3, [4, 5, 6, 7, 8, 9]), (4, [])])
def test_a_fault_in_most_of_an_episode_does_not_excuse_the_rest(last: int, explained: list[int]) -> None:
    table = coded_table([10])
    findings = [finding(0, 0, last, 1.0, check="action/gain")]
    found = chunks_next_to_faults(findings, table, chunk_harm(findings, table, chunk_size=1))
    assert np.flatnonzero(found).tolist() == explained


def test_the_attempt_that_fails_is_harmful_and_the_next_one_is_not() -> None:
    table = coded_table([10])
    found = chunk_harm([finding(0, 2, 5, 1.0, "note", "progress/retry")], table, chunk_size=2)
    assert found.tolist() == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0]


def test_the_user_decides_about_the_harm_of_a_check() -> None:
    fault, note = finding(0, 0, 5, 0.8, check="action/noise"), finding(1, 0, 5, 0.5, "note", "time/pause")
    table = coded_table([6, 6])
    assert set(chunk_harm([fault, note], table, chunk_size=1)) == {0.8, 0.0}
    own = parse_harm(["action/noise=0.25", "time/pause=1"], "--harm")
    found = chunk_harm([fault, note], table, chunk_size=1, harm=own)
    assert found == pytest.approx([0.2] * 6 + [0.5] * 6)


def test_the_table_names_checks_that_exist() -> None:
    assert set(HARM) <= {check.name for check in all_checks()}
    assert all(0.0 <= harm <= 1.0 for harm in HARM.values())
    assert harm_of(finding(0, 0, 1, 1.0)) == 1.0 and harm_of(finding(0, 0, 1, 1.0, "note")) == 0.0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["action/noise"], r"--harm 'action/noise' is not a harm; write CHECK=HARM"),
        (["action/nose=1"], r"--harm: unknown check 'action/nose'. Did you mean 'action/noise'\?"),
        (["action/noise=2"], r"--harm: the harm of action/noise is 2.0; it must be a number between 0 and 1"),
        (["action/noise=much"], r"--harm: the harm of action/noise is 'much'; it must be"),
        (["action/noise=nan"], r"--harm: the harm of action/noise is nan; it must be"),
    ],
)
def test_a_wrong_harm_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_harm(texts, "--harm")


def test_true_is_not_a_harm() -> None:
    with pytest.raises(InputError, match="the harm of time/pause is True"):
        require_harm({"time/pause": True}, "harm")
