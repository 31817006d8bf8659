"""Late and early commands are found to a fraction of a frame, also where the model knows half of a command."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.checks.lag import Lag
from hf_ptr.detection.detector import Detector, Hit
from hf_ptr.detection.place import places
from hf_ptr.detection.planting import resample
from hf_ptr.detection.signals import Signals

CARRIERS = (3, 8, 11)


def wandering(number: int, action: np.ndarray) -> np.ndarray:
    """Commands with a slow part of each episode's own that no state shows."""
    time = np.arange(len(action))[:, None] / len(action)
    return action + 0.6 * np.sin(2 * np.pi * (0.6 * time + np.array([0.0, 0.3, 0.7]) + 0.37 * number))


def late(action: np.ndarray, frames: float) -> np.ndarray:
    return resample(action, np.arange(len(action)) - frames)


def hits(table: EpisodeTable) -> tuple[Detector, dict[int, list[Hit]]]:
    detector = Detector(Signals.of_table(table, "observation.state", "action"), [Lag])
    found = zip(detector.views, detector.measured, strict=True)
    by_episode = {view.episode.position: detector.hits(view, measured) for view, measured in found}
    return detector, {position: found for position, found in by_episode.items() if found}


def test_a_model_that_explains_half_of_a_command_gives_sound_episodes_no_lag():
    detector, found = hits(leading_table(20, wandering))
    assert detector.context.model.explained.max() < 0.8
    assert found == {}


@pytest.mark.parametrize("frames", [3.0, -3.0, 2.4])
def test_a_lag_of_a_few_frames_is_found_and_measured_though_the_model_knows_half_of_a_command(frames):
    def shifted(number: int, action: np.ndarray) -> np.ndarray:
        action = wandering(number, action)
        return late(action, frames) if number in CARRIERS else action

    _, found = hits(leading_table(20, shifted))
    assert sorted(found) == list(CARRIERS)
    for position in CARRIERS:
        whole = [hit.found.detail for hit in found[position] if hit.scale == "whole"]
        assert whole == [pytest.approx(frames, abs=0.3)]


@pytest.mark.parametrize(("slow", "found_in"), [(0, []), (4, list(CARRIERS))])
def test_quick_changes_that_lag_behind_slow_ones_are_another_response_and_no_lag(slow, found_in):
    frames = np.arange(120)

    def wide(number: int, at: np.ndarray) -> np.ndarray:
        return 3 * np.sin(2 * np.pi * (1.5 * at[:, None] / 120 + np.array([0.0, 0.2, 0.6]) + 0.37 * number))

    def quick(number: int, at: np.ndarray) -> np.ndarray:
        return 0.1 * np.sin(2 * np.pi * (np.array([8, 9, 11]) * at[:, None] / 120 + 0.37 * number))

    def added(number: int, action: np.ndarray) -> np.ndarray:
        carrier = number in CARRIERS
        both = action + wide(number, frames + 2)
        return late(both, slow * carrier) + quick(number, frames + 2 - 4 * carrier)

    table = leading_table(20, added)
    state = [wide(number, frames) + quick(number, frames) for number in range(20)]
    column = table.columns["observation.state"] + np.concatenate(state)
    _, found = hits(dataclasses.replace(table, columns={**table.columns, "observation.state": column}))
    assert sorted(found) == found_in


def test_a_lag_in_a_part_is_found_at_its_place():
    first, stop = 45, 75

    def shifted(number: int, action: np.ndarray) -> np.ndarray:
        action = wandering(number, action)
        if number in CARRIERS:
            action[first:stop] = late(action, 6)[first:stop]
        return action

    _, found = hits(leading_table(20, shifted))
    assert sorted(found) == list(CARRIERS)
    for position in CARRIERS:
        ((_, begin, end),) = places(found[position], 120)
        shared = min(end, stop) - max(begin, first)
        assert shared / (end - begin) > 0.6
