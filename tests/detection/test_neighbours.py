"""Neighbouring frames and their medians."""

from __future__ import annotations

import numpy as np
import pytest

from hf_ptr.detection.neighbours import median_of, neighbours


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7])
def test_the_median_is_that_of_numpy(count):
    arrays = np.random.default_rng(count).normal(0, 1, (count, 40, 3))
    assert median_of(list(arrays)) == pytest.approx(np.median(arrays, axis=0), abs=0)


def test_neighbours_repeat_the_ends():
    before, here, after = neighbours(np.array([[1.0], [2.0], [3.0]]), 1)
    assert (before[:, 0].tolist(), here[:, 0].tolist(), after[:, 0].tolist()) == ([1, 1, 2], [1, 2, 3], [2, 3, 3])
