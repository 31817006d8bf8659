"""Noise is distinguished from a light tremor by its size; a spike is a leap that the robot does not follow."""

import numpy as np
import pytest
from leading_table import leading_table
from made_motions import smooth_motions, table_of

from hf_ptr.detection.check import Context
from hf_ptr.detection.checks.noise import ActionNoise, median_variances, white_noise
from hf_ptr.detection.checks.spikes import ActionSpikes, _leap
from hf_ptr.detection.detect import detect
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals, abruptness
from hf_ptr.detection.windows import SHORT, Windows


@pytest.mark.parametrize("size", [0.05, 0.1])
def test_noise_is_measured_on_a_motion(size):
    rng = np.random.default_rng(0)
    motion = np.sin(np.linspace(0, 12, 400))[:, None] * np.array([1.0, 2.0, 0.5])
    assert white_noise(motion).max() < 0.005
    noisy = white_noise(motion + rng.normal(0, size, motion.shape))
    assert np.sqrt((noisy**2).mean()) == pytest.approx(0.88 * size, rel=0.1)


@pytest.mark.parametrize("frames", [2, 3])
def test_a_held_command_has_no_noise(frames):
    held = np.sin(np.linspace(0, 12, 400))[np.arange(400) // frames * frames, None]
    assert white_noise(held).max() < 0.005


def test_noise_in_a_part_is_measured_in_its_windows():
    rng = np.random.default_rng(0)
    motion = np.sin(np.linspace(0, 48, 6400))[:, None] * np.array([1.0, 2.0, 0.5])
    windows = Windows(SHORT, np.array([0, 1600, 3200]), np.array([1600, 3200, 4800]))
    assert (median_variances(motion, windows) < 1e-4).all()
    motion[2400:4800] += rng.normal(0, 0.1, (2400, 3))
    first, second = np.sqrt(median_variances(motion, windows).mean(axis=2))
    assert max(*first[:2], second[0]) < 0.01
    assert [second[1], first[2], second[2]] == pytest.approx([0.1] * 3, rel=0.15)


@pytest.mark.parametrize("size", [0.0, 0.08])
def test_light_noise_in_a_part_of_quiet_commands_is_found_there(size):
    rng = np.random.default_rng(0)

    def change(number, state, action):
        action = action.copy()
        action[60:100] += (number == 3) * size * action.std(axis=0) * rng.normal(0, 1, action[60:100].shape)
        return state, action

    findings = detect(table_of(smooth_motions(20, 200), change), checks=[ActionNoise], power=False).findings
    places = [(one.episode_index, one.first_frame, one.last_frame) for one in findings]
    assert places == ([(3, 61, 99)] if size else [])


def test_a_spike_stands_out_of_a_motion_and_a_step_does_not():
    values = np.linspace(0, 1, 60)[:, None].repeat(2, axis=1)
    values[30:32, 0] += 1.0
    values[30:, 1] += 1.0
    away, moved = _leap(values)
    ratio = np.abs(away) / moved
    assert (np.flatnonzero(ratio[:, 0] > 2) == [30, 31]).all()
    assert (ratio[:, 1] < 2).all()


def check_of_spikes() -> ActionSpikes:
    signals = Signals.of_table(leading_table(12), "observation.state", "action")
    return ActionSpikes(Context(signals, ResponseModel(signals)))


def test_a_leap_counts_by_how_clearly_it_exceeds_those_of_a_small_set():
    check = check_of_spikes()
    episode = check.context.signals.episodes[0]
    amounts = []
    for size in np.linspace(0.2, 3.0, 40):
        action = episode.action.copy()
        action[55, 0] += size
        view = check.context.view(episode.with_signals(action=action))
        amounts.append(check.measure(view)["event"].amount.max(initial=0.0))
    assert amounts[0] == 0 and amounts[-1] > 2
    assert np.diff(amounts).max() < 0.4


def test_leaps_of_a_dimension_that_moves_in_bursts_are_its_motion():
    rng = np.random.default_rng(0)
    bursts, steps = np.zeros((12, 120)), np.zeros((12, 120))
    bursts[:, [20, 60, 61, 90]] = 1.0
    steps[:, 50:] = 1.0
    values = np.stack([bursts, steps, np.zeros((12, 120))], axis=2) + 0.002 * rng.normal(size=(12, 120, 3))
    factor = check_of_spikes()._bursts(list(values))
    assert factor[0] > 3 and factor[1:] == pytest.approx(1.0)


def test_abruptness_is_the_share_of_the_largest_steps():
    steady, step = np.arange(101.0), np.repeat([0.0, 1.0], [50, 51])
    assert abruptness([np.stack([steady, step], axis=1)]) == pytest.approx([0.05, 1.0])
