"""Noise is distinguished from a light tremor by its size; a spike is a leap that the robot does not follow."""

import numpy as np
import pytest

from hf_ptr.detection.checks.noise import median_variance, white_noise
from hf_ptr.detection.checks.spikes import _leap
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
    motion = np.sin(np.linspace(0, 12, 400))[:, None] * np.array([1.0, 2.0, 0.5])
    windows = Windows(SHORT, np.array([0, 100, 200]), np.array([100, 200, 300]))
    assert (median_variance(motion, windows) < 1e-4).all()
    motion[100:200] += rng.normal(0, 0.1, (100, 3))
    quiet, noisy, after = np.sqrt(median_variance(motion, windows).mean(axis=1))
    assert max(quiet, after) < 0.01 and noisy == pytest.approx(0.1, rel=0.15)


def test_a_spike_stands_out_of_a_motion_and_a_step_does_not():
    values = np.linspace(0, 1, 60)[:, None].repeat(2, axis=1)
    values[30:32, 0] += 1.0
    values[30:, 1] += 1.0
    away, moved = _leap(values)
    ratio = np.abs(away) / moved
    assert (np.flatnonzero(ratio[:, 0] > 2) == [30, 31]).all()
    assert (ratio[:, 1] < 2).all()
