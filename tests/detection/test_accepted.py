"""Accepted findings: which ones an entry accepts, and what that changes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data.expected_findings import ExpectedFinding
from hf_ptr.detection.accepted import with_accepted
from hf_ptr.detection.chunk_faults import chunk_harm, chunks_next_to_faults
from hf_ptr.detection.findings import Finding, faults_in_order, flagged_episodes
from hf_ptr.detection.harm import lowered_episodes
from hf_ptr.errors import DataWarning


def lag(episode: int, first: int = 0, last: int = 39) -> Finding:
    return Finding("action/lag", episode, first, last, 0.9, "fault", 6.0, "frames", "late", "shift them")


def entry(
    episodes: set[int] | None, frames: tuple[int, int] | None = None, check: str = "action/lag"
) -> ExpectedFinding:
    chosen = None if episodes is None else tuple(range(one, one + 1) for one in sorted(episodes))
    return ExpectedFinding(check, "slow controller", chosen, frames, "f, entry 1")


@pytest.mark.parametrize(
    ("one", "accepted"),
    [
        (entry({2}), [2]),
        (entry(None), [2, 3]),
        (entry({2}, (0, 40)), [2]),
        # Half of the frames of the finding suffice, fewer do not.
        (entry({2, 3}, (0, 20)), [2, 3]),
        (entry({2, 3}, (0, 19)), []),
        (entry({2}, check="action/gain"), []),
    ],
)
@pytest.mark.filterwarnings("ignore::hf_ptr.errors.DataWarning")
def test_an_entry_accepts_its_check_episodes_and_frames(one: ExpectedFinding, accepted: list[int]) -> None:
    found = with_accepted([lag(2), lag(3)], [one], range(6))
    assert [item.episode_index for item in found if item.severity == "accepted"] == accepted
    assert all(item.action == "accepted: slow controller" for item in found if item.severity == "accepted")
    assert (
        flagged_episodes(found) == sorted({2, 3} - set(accepted)) == [f.episode_index for f in faults_in_order(found)]
    )


def test_an_entry_that_accepts_nothing_is_said_unless_its_episodes_were_not_read() -> None:
    with pytest.warns(DataWarning, match="f, entry 1: accepts no finding; remove it"):
        with_accepted([lag(2)], [entry({3})], range(6))
    with pytest.warns(DataWarning, match=r"\(unknown check 'action/lagg'. Did you mean 'action/lag'\?\); remove it"):
        with_accepted([lag(2)], [entry(None, check="action/lagg")], range(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_accepted([lag(2)], [entry({7})], range(6))


def test_an_accepted_finding_lowers_no_weight_whatever_its_harm() -> None:
    table = leading_table(4, frames=40)
    retry = Finding("progress/retry", 1, 5, 15, 0.9, "note", 1.0, "retries", "a failed grasp", "cut it out")
    before = (lag(2), retry)
    after = with_accepted(before, [entry({2}), entry({1}, check="progress/retry")], range(4))
    assert chunk_harm(before, table, chunk_size=8).any() and lowered_episodes(before) == [1]
    assert not chunk_harm(after, table, chunk_size=8, harm={"action/lag": 1.0, "progress/retry": 1.0}).any()
    assert lowered_episodes(after, {"progress/retry": 1.0}) == []
    # The score of the episode is low because of the accepted fault, which explains it.
    explained = chunks_next_to_faults(after, table, np.zeros(table.num_frames))
    assert explained.reshape(4, 40).any(axis=1).tolist() == [False, False, True, False]


def test_an_accepted_note_explains_no_low_score() -> None:
    table = leading_table(4, frames=40)
    note = Finding("state/stale_start", 1, 0, 0, 0.9, "note", 1.0, "units", "an old frame", "drop it")
    (accepted,) = with_accepted([note], [entry({1}, check="state/stale_start")], range(4))
    assert (accepted.severity, accepted.accepted_as) == ("accepted", "note")
    assert not chunks_next_to_faults([accepted], table, np.zeros(table.num_frames)).any()
