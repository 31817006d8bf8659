"""Noise is told from a light tremor by its size; a spike is a leap that the robot does not follow."""

import numpy as np
import pytest

from hf_ptr.detection.checks.noise import white_noise
from hf_ptr.detection.checks.spikes import _leap
from hf_ptr.detection.windows import WHOLE, Windows


@pytest.mark.parametrize("size", [0.05, 0.1])
def test_noise_is_measured_on_a_motion(size):
    rng = np.random.default_rng(0)
    motion = np.sin(np.linspace(0, 12, 400))[:, None] * np.array([1.0, 2.0, 0.5])
    whole = Windows(WHOLE, np.array([0]), np.array([400]))
    assert white_noise(motion, whole).max() < 0.005
    noisy = white_noise(motion + rng.normal(0, size, motion.shape), whole)
    assert np.sqrt((noisy**2).mean()) == pytest.approx(size, rel=0.2)


def test_a_spike_stands_out_of_a_motion_and_a_step_does_not():
    values = np.linspace(0, 1, 60)[:, None].repeat(2, axis=1)
    values[30:32, 0] += 1.0
    values[30:, 1] += 1.0
    away, moved = _leap(values)
    ratio = np.abs(away) / moved
    assert (np.flatnonzero(ratio[:, 0] > 2) == [30, 31]).all()
    assert (ratio[:, 1] < 2).all()
