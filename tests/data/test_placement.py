"""Which frame of a video file belongs to which row: by order, by time with a measured distance, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_ptr.data.video.frame_index import FrameIndex
from hf_ptr.data.video.placement import Placement, place

PATH = Path("file-000.mp4")
NTSC = 30000 / 1001


def index(seconds: np.ndarray, start: float = 0.0) -> FrameIndex:
    seconds = np.asarray(seconds, dtype=np.float64)
    labels = np.round(seconds * 90_000).astype(np.int64)
    empty = np.zeros(0, dtype=np.int64)
    return FrameIndex(labels, seconds, start, empty, empty.reshape(0, 2), 48, 64, 30.0)


def steady(count: int, rate: float = 30.0) -> np.ndarray:
    return np.arange(count) / rate


def nominal(*lengths: int, rate: float = 30.0) -> dict[int, tuple[float, int]]:
    starts = np.cumsum([0, *lengths[:-1]]) / rate
    return {number: (float(start), length) for number, (start, length) in enumerate(zip(starts, lengths, strict=True))}


def frames(placement: Placement, episode: int = 0) -> list[int]:
    assert placement.episodes[episode].problem is None
    return placement.episodes[episode].frames.tolist()


@pytest.mark.parametrize(("rate", "fps"), [(NTSC, 30), (24000 / 1001, 24), (60000 / 1001, 60), (30, 30)])
@pytest.mark.parametrize("measured", [False, True])
def test_as_many_frames_as_rows_go_by_order(rate: float, fps: float, measured: bool) -> None:
    lengths = [900] * 6
    found = place(PATH, index(steady(5400, rate)), nominal(*lengths, rate=rate if measured else fps), fps)
    for episode in range(6):
        assert frames(found, episode) == list(range(900 * episode, 900 * (episode + 1)))
    if rate == fps:
        assert found.notes == ()
        return
    (note,) = found.notes
    # Seconds of rows and frames differ by 0.1 %.
    apart = (900 if measured else 5400) / 1001
    assert f"up to {apart:.1f} frames away" in note and "in order" in note
    assert f"runs at {rate:.5g} frames per second and info.json has {fps} (half a frame after 500 frames)" in note


def test_a_drift_of_from_timestamp_goes_by_order() -> None:
    episodes = {number: (number * (40 / 30 + 0.02), 40) for number in range(10)}
    found = place(PATH, index(steady(400)), episodes, 30)
    assert all(frames(found, number) == list(range(40 * number, 40 * number + 40)) for number in range(10))
    assert "episode 9 are up to 5.4 frames away" in found.notes[0]
    # One frame too many at the end, and nothing says where: the order is not known, and the time is wrong.
    found = place(PATH, index(steady(401)), episodes, 30)
    assert frames(found, 0) == list(range(40))
    for number in range(1, 10):
        problem = found.episodes[number].problem
        assert problem is not None and f"from_timestamp of episode {number} is {0.6 * number:.1f} frames" in problem


def test_a_variable_rate_goes_by_order_without_a_note_if_time_stamps_follow_it() -> None:
    seconds = np.cumsum(np.r_[0, np.random.default_rng(0).uniform(0.02, 0.09, 199)])
    episodes = {0: (0.0, 200)}
    assert place(PATH, index(seconds), episodes, 30, lambda episode: seconds).notes == ()
    found = place(PATH, index(seconds), episodes, 30)
    assert frames(found) == list(range(200)) and "away from the times" in found.notes[0]


def test_time_stamps_find_the_frames_of_rows_that_were_dropped() -> None:
    kept = np.delete(np.arange(100), [20, 21, 70])
    found = place(PATH, index(steady(100)), {0: (0.0, 97)}, 30, lambda episode: kept / 30)
    assert frames(found) == kept.tolist()
    assert found.notes == ("file-000.mp4 has 100 frames, the table 97; frames are chosen by time",)


@pytest.mark.parametrize("start", [0.0, 5.0, 0.7 / 30])
def test_extra_frames_and_any_first_time_stamp(start: float) -> None:
    found = place(PATH, index(steady(42), start), {3: (0.0, 40)}, 30)
    assert frames(found, 3) == list(range(40)) and "has 42 frames, the table 40" in found.notes[0]
    # from_timestamp on the clock of the file.
    found = place(PATH, index(steady(85), start), {0: (start, 40), 1: (start + 43 / 30, 40)}, 30)
    assert frames(found, 0) == list(range(40)) and frames(found, 1) == list(range(43, 83))


def test_extra_frames_between_episodes_of_a_slower_camera() -> None:
    # Starts are measured in the video, and only the first episode has two frames without a row.
    episodes = {0: (0.0, 700), 1: (702 / NTSC, 700)}
    found = place(PATH, index(steady(1402, NTSC)), episodes, 30)
    assert frames(found, 1) == list(range(702, 1402))
    problem = found.episodes[0].problem
    assert problem is not None and "up to 0.7 frames away" in problem and "(half a frame after 500 frames)" in problem


@pytest.mark.parametrize("rate", [NTSC, 30 * 1.001, 27.0])
def test_a_drift_is_refused_along_the_whole_file(rate: float) -> None:
    """In a dense video the nearest frame is never more than half a frame away, however far the drift has gone."""
    lengths = [30] * 200
    found = place(PATH, index(steady(6001, rate)), nominal(*lengths), 30)
    for number in range(200):
        # 200 episodes of one second.
        apart = abs(rate - 30) * number
        if apart > 0.55:
            assert found.episodes[number].problem is not None, number
        if apart + abs(rate - 30) < 0.45:
            assert frames(found, number) == list(range(30 * number, 30 * number + 30))
    last = found.episodes[199].problem
    assert last is not None and f"up to {abs(rate - 30) * (200 - 1 / 30):.1f} frames away" in last
    if rate == NTSC:
        assert "frames are chosen by time, up to 0." in found.notes[0] and "runs at 29.97 frames" in found.notes[0]


def test_a_slower_camera_with_an_extra_frame_is_read_until_half_a_frame() -> None:
    found = place(PATH, index(steady(301, NTSC)), {0: (0.0, 300)}, 30)
    assert frames(found) == list(range(300)) and "up to 0.30 frames away" in found.notes[0]
    problem = place(PATH, index(steady(1801, NTSC)), {0: (0.0, 1800)}, 30).episodes[0].problem
    assert problem is not None and "up to 1.8 frames away" in problem and "re-encode" in problem


def test_a_missing_frame_is_refused_with_its_row() -> None:
    # A gap in the time stamps of the video.
    found = place(PATH, index(np.delete(steady(40), 17)), {7: (0.0, 40)}, 30).episodes[7]
    assert found.frame == 17 and found.problem is not None
    assert "nearest to row 17 of episode 7 is 1.00 frames away" in found.problem
    # No gap: the video ends early.
    found = place(PATH, index(steady(39)), {7: (0.0, 40)}, 30).episodes[7]
    assert found.frame == 39 and found.problem is not None
    assert "is shorter than the table: it has 39 frames of the episode's 40" in found.problem
    # In a file of several episodes, the others are read, with a note.
    both = place(PATH, index(steady(79)), nominal(40, 40), 30)
    assert frames(both, 0) == list(range(40)) and both.episodes[1].problem is not None
    assert both.notes == ("file-000.mp4 has 79 frames, the table 80; frames are chosen by time",)


@pytest.mark.parametrize("rate", [30, NTSC])
def test_a_file_that_was_cut_off_keeps_what_it_has(rate: float) -> None:
    episodes = {number: (number * 40 / rate, 40) for number in range(4)}
    found = place(PATH, index(steady(90, rate)), episodes, 30)
    assert frames(found, 0) == list(range(40)) and frames(found, 1) == list(range(40, 80))
    for number, left in ((2, 10), (3, 0)):
        problem = found.episodes[number].problem
        assert problem is not None and f"has {left} frames of the episode's 40" in problem
        assert found.episodes[number].frame == left


def test_rows_of_the_next_episode_are_not_taken() -> None:
    # The first episode lost a frame, and the second starts where the first ends.
    found = place(PATH, index(steady(79)), {0: (0.0, 40), 1: (39 / 30, 40)}, 30)
    assert frames(found, 1) == list(range(39, 79))
    assert "has 39 frames of the episode's 40" in str(found.episodes[0].problem)
    # A missing and a doubled frame leave the count right, which the starts contradict.
    found = place(PATH, index(steady(80)), {0: (0.0, 40), 1: (39 / 30, 40)}, 30)
    assert "episode 1 are up to 1.0 frames away" in found.notes[0]


def test_every_second_frame_of_a_faster_video() -> None:
    found = place(PATH, index(steady(80, 60)), {0: (0.0, 40)}, 30)
    assert frames(found) == list(range(0, 80, 2))


def test_starts_that_are_all_zero_are_refused_or_noted() -> None:
    found = place(PATH, index(steady(81)), {0: (0.0, 40), 1: (0.0, 40)}, 30)
    assert found.episodes[0].problem is not None and frames(found, 1) == list(range(40))
    found = place(PATH, index(steady(80)), {0: (0.0, 40), 1: (0.0, 40)}, 30)
    assert frames(found, 1) == list(range(40, 80)) and "up to 40.0 frames away" in found.notes[0]
