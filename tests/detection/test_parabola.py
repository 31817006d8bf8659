"""The extremum between samples."""

import numpy as np
import pytest

from hf_ptr.detection.parabola import vertex


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_vertex_of_parabolas_is_exact(sign):
    places = np.array([-0.4, 0.0, 0.3])
    left, here, right = (sign * (at - places) ** 2 for at in (-1, 0, 1))
    assert vertex(left, here, right) == pytest.approx(places)


def test_values_on_a_line_have_their_vertex_in_the_middle_and_none_is_beyond_the_neighbours():
    assert vertex([1.0, 2.0], [1.0, 3.0], [1.0, 4.0]).tolist() == [0.0, 0.0]
    assert vertex(0.0, 1.0, 1.9) == 1.0
