"""The frames of findings: whole episodes, parts, and several places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from hf_ptr.detection.check import Candidates, Found
from hf_ptr.detection.detector import Hit
from hf_ptr.detection.place import places

CHECK: Any = SimpleNamespace(name="a/b")


def hit(scale: str, first: int, stop: int, amount: float, p: float) -> Hit:
    return Hit(CHECK, scale, Found(first, stop, amount, 0, amount), p)


def test_a_fault_of_the_whole_episode_has_all_its_frames() -> None:
    whole = hit("whole", 3, 97, 6.0, 1e-4)
    assert places([hit("short", 20, 40, 6.2, 1e-9), whole], 100) == [(whole, 0, 100)]
    assert places([whole], 100) == [(whole, 0, 100)]
    windows = [hit("short", first, first + 20, 20.0, 1e-9) for first in range(5, 70, 10)]
    assert places([*windows, whole], 100) == [(whole, 0, 100)]


def test_a_fault_in_a_part_has_the_frames_of_the_windows_that_show_it() -> None:
    """The mean over the whole episode shows it too, but as a fifth of its amount."""
    first, second = hit("short", 20, 40, 9.0, 1e-6), hit("short", 30, 50, 10.0, 1e-9)
    found = places([first, hit("whole", 3, 97, 2.0, 1e-12), second, hit("middle", 10, 60, 5.0, 1e-5)], 100)
    assert found == [(second, 20, 50)]


def test_an_amount_of_one_stretch_that_only_the_whole_shows_has_its_frames() -> None:
    """Sound windows may have as much; the whole of a sound episode does not."""
    whole, first = hit("whole", 3, 97, 2.0, 1e-4), np.arange(0, 90, 10)

    def placed(*amounts: float) -> tuple[int, int]:
        ((found, begin, end),) = places([whole], 100, Candidates.events(first, first + 20, amounts))
        assert found == whole
        return begin, end

    assert placed(0.1, 0.1, 0.1, 3.1, 4.0, 4.1, 1.5, 0.1, 0.1) == (30, 70)
    # Elsewhere there is some, too; or the stretch is most of the episode; or it has less than the whole.
    assert placed(0.1, 0.1, 0.1, 3.1, 4.0, 4.1, 1.5, 0.1, 1.1) == (0, 100)
    assert placed(4.0, 4.0, 4.0, 4.0, 4.0, 4.1, 1.5, 0.1, 0.1) == (0, 100)
    assert placed(0.1, 0.1, 0.1, 1.0, 1.5, 1.1, 0.1, 0.1, 0.1) == (0, 100)


def test_a_longer_window_counts_where_no_shorter_one_does() -> None:
    short, middle, event = (
        hit("short", 0, 10, 3.0, 1e-3),
        hit("middle", 50, 80, 2.0, 1e-4),
        hit("event", 90, 91, 4.0, 0),
    )
    assert places([event, middle, short], 100) == [(short, 0, 10), (middle, 50, 80), (event, 90, 91)]
