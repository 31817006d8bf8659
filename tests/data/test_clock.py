"""Time stamps of real clocks: the rate counts, not the jitter; gaps and drift are measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import coded_table
from spoiling import edit_rows

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.clock import clock_problems, stretches
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import DataWarning, InputError


def kinds(seconds: np.ndarray, fps: float) -> list[str]:
    return [problem.kind for problem in clock_problems(seconds.astype(np.float32), fps)]


@pytest.mark.parametrize("frames", [2, 3, 10, 40, 300])
@pytest.mark.parametrize("deviation", [0.002, 0.004, 0.008])
def test_jitter_is_not_another_rate(frames: int, deviation: float) -> None:
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, deviation, frames).clip(-0.015, 0.015)
        seconds = np.arange(frames) / 30 + noise
        errors = [problem for problem in clock_problems(seconds, 30) if problem.severity == "error"]
        assert errors == [] or (np.diff(seconds) < 0).any()


@pytest.mark.parametrize(
    ("fps", "unit"), [(60, 0.001), (120, 0.01), (30, 0.01), (100, 0.01), (240, 0.01), (30, 1 / 15), (20, 1), (50, 1)]
)
@pytest.mark.parametrize("frames", [60, 75, 400])
def test_rounded_stamps_are_right(fps: float, unit: float, frames: int) -> None:
    seconds = np.floor(np.arange(frames) / fps / unit) * unit
    assert kinds(seconds, fps) == []
    assert not stretches(seconds, fps).any()


def test_a_coarse_clock_hides_neither_a_pause_nor_another_rate() -> None:
    seconds = np.floor(np.arange(400) / 20)
    seconds[200:] += 3
    assert stretches(seconds, 20).tolist() == [0] * 200 + [1] * 200
    (problem,) = clock_problems(np.floor(np.arange(400) / 15), 20)
    assert problem.kind == "fps" and problem.amount == pytest.approx(15, rel=0.02)


def test_steps_that_alternate_are_right_on_average() -> None:
    assert kinds(np.cumsum(np.tile([0.02, 0.0466667], 50)), 30) == []


@pytest.mark.parametrize("start", [0.0, 0.02, 3.0, 1.7e9])
def test_a_clock_may_start_at_any_time(start: float) -> None:
    assert clock_problems(start + np.arange(50) / 30, 30) == []


@pytest.mark.parametrize("rate", [10, 15, 20, 25, 29, 31, 60, 100])
def test_another_rate_is_an_error_that_names_it(rate: int) -> None:
    (problem,) = clock_problems(np.arange(60) / rate, 30)
    assert problem.severity == "error" and problem.kind == "fps" and problem.amount == pytest.approx(rate, rel=0.01)
    assert f"timestamps give {rate} frames per second, info.json 30" in problem.message


def test_broadcast_rates_drift_without_being_another_rate() -> None:
    (problem,) = clock_problems(np.arange(18_000) * 1001 / 30_000, 30)
    assert (
        problem.severity == "note"
        and problem.kind == "timestamp_drift"
        and problem.amount == pytest.approx(18, abs=0.1)
    )


def test_a_pause_is_a_gap_and_the_rate_counts_without_it() -> None:
    seconds = np.arange(100) / 30
    seconds[50:] += 5
    gap, drift = clock_problems(seconds, 30)
    assert gap.severity == "note" and (gap.kind, gap.frame) == ("timestamp_gaps", 50)
    assert gap.amount == pytest.approx(5 + 1 / 30) and drift.amount == pytest.approx(150)
    # The same pause hides no wrong rate.
    slow = np.arange(100) / 28
    slow[50:] += 5
    (problem,) = clock_problems(slow, 30)
    assert problem.severity == "error" and problem.amount == pytest.approx(28)


def test_many_dropped_frames_are_counted() -> None:
    kept = np.flatnonzero(np.arange(200) % 6 != 3)
    rate, gap, drift = clock_problems(kept / 10, 10)
    assert rate.kind == "frame_rate" and rate.message.startswith(
        "8.34 frames per second on average, info.json says 10"
    )
    assert gap.severity == "note" and gap.message.startswith(
        "33 gaps in the timestamps, the longest 0.2 s before frame 3"
    )
    assert drift.amount == pytest.approx(33)


def test_stamps_out_of_order_and_all_equal() -> None:
    assert [(each.kind, each.frame, each.severity) for each in clock_problems(np.array([0, 0.1, 0.05]), 10)] == [
        ("timestamp_order", 2, "error")
    ]
    (problem,) = clock_problems(np.zeros(5), 10)
    assert problem.severity == "error" and problem.message == "all timestamps are equal"
    assert kinds(np.zeros(1), 10) == [] and kinds(np.array([0, np.nan]), 10) == ["timestamp_nan"]


@pytest.mark.parametrize(("unit", "fps"), [(0.1, 30), (0.1, 60), (1.0, 10), (1.0, 30)])
@pytest.mark.parametrize("frames", [7, 40, 200])
def test_a_pause_on_a_coarse_clock_is_a_pause(frames: int, unit: float, fps: float) -> None:
    """Neither another rate nor a tick, wherever the pause is and even if the clock does not tick otherwise."""
    for at in range(1, frames, max(1, frames // 9)):
        fine = np.arange(frames) / fps + 5.0 * (np.arange(frames) >= at)
        seconds = np.floor(fine / unit + 0.3) * unit
        assert not any(problem.kind == "fps" for problem in clock_problems(seconds, fps))
        assert stretches(seconds, fps).tolist() == [0] * at + [1] * (frames - at)
    # It hides no rate that is wrong by more than a few ticks.
    slow = np.arange(600) / (0.8 * fps) + 5.0 * (np.arange(600) >= 300)
    assert kinds(np.floor(slow / unit) * unit, fps) == ["fps"]


def test_reading_and_validating_follow_one_rule(tmp_path: Path) -> None:
    root = write_table(coded_table([30, 30]), tmp_path / "set")
    file = "data/chunk-000/file-000.parquet"
    edit_rows(file, "timestamp", lambda t: [*t[:30], *(np.array(t[30:]) * 1.1).tolist()])(root)
    with pytest.raises(InputError, match=r"episode 1: fps mismatch: timestamps give 18\.18") as caught:
        read_dataset(root)
    assert caught.value.skip == (1,) and validate_dataset(root).skippable == [1]
    assert read_dataset(root, skip=[1]).num_episodes == 1
    # A pause stops neither.
    edit_rows(file, "timestamp", lambda t: [*t[:30], *(np.arange(30) / 20 + 2.0 * (np.arange(30) > 9)).tolist()])(root)
    found = validate_dataset(root)
    assert found.usable and [(each.kind, each.episode) for each in found.problems] == [
        ("timestamp_gaps", 1),
        ("timestamp_drift", 1),
    ]
    with pytest.warns(DataWarning, match="the recording pauses in episode 1; a chunk has no target after a pause"):
        table = read_dataset(root)
    assert table.num_episodes == 2


def test_a_chunk_has_no_target_after_a_pause(tmp_path: Path) -> None:
    root = write_table(coded_table([20, 20]), tmp_path / "set")
    file = "data/chunk-000/file-000.parquet"
    pause = (np.arange(20) / 20 + 2.0 * (np.arange(20) >= 10)).tolist()
    edit_rows(file, "timestamp", lambda t: [*t[:20], *pause])(root)
    with pytest.warns(DataWarning):
        table = read_dataset(root, [1, 0])
    for each, first in ((table, 0), (table.select([1]), 0), (table.select([0, 1]), 20)):
        chunks = ChunkDataset(each, chunk_size=2, target_offset=4)
        batch = chunks.batch(range(first, first + 20))
        # Frames 6 to 9 look across the pause before frame 10, and the last four across the end.
        assert batch["has_target"].tolist() == [True] * 6 + [False] * 4 + [True] * 6 + [False] * 4
        assert batch["target_index"][6] == -1 and not batch["next_observation"][6].any()
    # A dropped frame is not a pause.
    edit_rows(file, "timestamp", lambda t: [*t[:20], *(np.arange(20) / 20 + 0.05 * (np.arange(20) >= 10)).tolist()])(
        root
    )
    assert ChunkDataset(read_dataset(root), chunk_size=2, target_offset=4).batch([26])["has_target"].all()


@pytest.mark.parametrize(("episode", "gap", "drift"), [(1, 0.21, 2.5), (9, 0.30, 76.8), (14, 0.21, 4.9)])
def test_an_episode_of_a_real_recorder_that_drops_frames_is_usable(episode: int, gap: float, drift: float) -> None:
    steps = json.loads(Path(__file__).with_name("stamps_cr5.json").read_text(encoding="utf-8"))[str(episode)]
    seconds = np.concatenate(([0], np.cumsum(steps))) / 1000
    found = [problem for problem in clock_problems(seconds, 10) if problem.kind != "frame_rate"]
    assert [(problem.kind, problem.severity) for problem in found] == [
        ("timestamp_gaps", "note"),
        ("timestamp_drift", "note"),
    ]
    assert [problem.amount for problem in found] == [pytest.approx(gap, abs=0.006), pytest.approx(drift, abs=0.1)]
    # Dropped frames are not pauses.
    assert not stretches(seconds, 10).any()


def test_an_episode_of_another_rate_has_a_note_with_the_figure() -> None:
    recorded = json.loads(Path(__file__).with_name("stamps_cr5.json").read_text(encoding="utf-8"))
    stamps = {number: np.concatenate(([0], np.cumsum(recorded[number]))) / 1000 for number in ("1", "9", "14")}
    (note,) = (problem for problem in clock_problems(stamps["9"], 10) if problem.kind == "frame_rate")
    assert note.severity == "note" and note.message == (
        "7.97 frames per second on average, info.json says 10: the motion looks 26% faster than it was"
    )
    # A pause is a gap, and not a rate.
    paused = np.concatenate([stamps["9"], stamps["9"][-1] + 20 + stamps["9"]])
    assert "7.97" in next(problem.message for problem in clock_problems(paused, 10) if problem.kind == "frame_rate")
    for number in ("1", "14"):
        assert "frame_rate" not in kinds(stamps[number], 10)
