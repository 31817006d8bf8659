"""`detect` leads from a table to findings that are more likely faults than chance."""

from __future__ import annotations

import numpy as np
import pytest
from leading_table import leading_table
from made_motions import smooth_motions, table_of

from hf_ptr.detection.check import Candidates, Check, Found, Measurement, View
from hf_ptr.detection.checks.idle_end import IdleEnd
from hf_ptr.detection.checks.lag import Lag
from hf_ptr.detection.checks.offset import Offset
from hf_ptr.detection.detect import detect
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.windows import EVENT


def shifted_in_two(number, state, action):
    return state, action + np.array([0.8, 0, 0]) if number in (3, 11) else action


def test_faults_are_found_with_a_probability_and_the_card_comes_with_them():
    found = detect(table_of(smooth_motions(20), shifted_in_two), checks=[Offset, IdleEnd])
    assert found.flagged == [3, 11]
    assert [finding.check for finding in found.findings] == ["action/offset"] * 2
    assert all(finding.probability > 0.99 for finding in found.findings)
    assert {power.check for power in found.power.powers} == {"action/offset", "time/idle_end"}


def test_the_card_can_be_left_out():
    assert detect(table_of(smooth_motions(8)), checks=[Lag], power=False).power is None


class Doubtful(Check):
    """One episode in twenty stands out as far as chance does."""

    name, unit, action, material = "state/doubtful", "std", "look at it", 1.0

    def measure(self, view: View) -> Measurement:
        return {EVENT: Candidates.events([0], [9], [2.0 if view.episode.position == 5 else 0.0])}

    def cause(self, found: Found) -> str:
        return "doubtful"


@pytest.mark.parametrize(("episodes", "flagged", "probabilities"), [(20, [5], [0.984]), (100, [], [])])
def test_what_chance_shows_among_so_many_episodes_is_not_reported(monkeypatch, episodes, flagged, probabilities):
    monkeypatch.setattr(Detector, "p_values", lambda self, check, scale, amount, task: amount * 0 + 0.0008)
    found = detect(table_of(smooth_motions(episodes, 30)), checks=[Doubtful], power=False)
    assert found.flagged == flagged
    assert [finding.probability for finding in found.findings] == pytest.approx(probabilities)


def test_every_finding_of_a_faulty_episode_is_probable():
    def twice(number, action):
        inverted = np.isin(np.arange(len(action)) // 20, (1, 4))[:, None] * [1, 0, 0]
        return action * (1 - 2 * inverted) if number in (3, 11) else action

    found = detect(leading_table(20, twice), power=False)
    faults = [finding for finding in found.findings if finding.severity == "fault"]
    assert found.flagged == [3, 11]
    assert len(faults) > 4
    assert min(finding.probability for finding in faults) > 0.95
