"""Videos copied from v2.1 to v3.0: the frame of every row, at its time, from any camera and container."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import hf_ptr
from data_helpers import coded_table, snapshot, with_camera, write_v21
from shade_videos import copied, number_of, write_shades
from spoiling import edit_info, edit_rows
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.expected_findings import EXPECTED_FILE
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.errors import DataWarning, InputError

CAMERA = "observation.images.top"
LENGTHS = [40, 25, 33]


def folder(root: Path, rate: Fraction | int = 20, extra: int = 0, **settings: Any) -> Path:
    """A v2.1 dataset at 20 frames per second; frame `i` of episode `e` shows `100 e + i`."""
    write_v21(with_camera(coded_table(LENGTHS), CAMERA, (48, 64)), root)
    for episode, length in enumerate(LENGTHS):
        path = root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        path.unlink()
        write_shades(path, range(100 * episode, 100 * episode + length + extra), rate=rate, **settings)
    return root


def require_frames(root: Path) -> None:
    table = read_dataset(root)
    reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps, cache_bytes=0)
    for episode, length in enumerate(LENGTHS):
        shown = [number_of(image) for image in reader.read([episode] * length, range(length))]
        assert shown == list(range(100 * episode, 100 * episode + length))


OPEN_GOP = {"g": "12", "bf": "3", "x264-params": "open-gop=1"}
KINDS: dict[str, dict[str, Any]] = {
    "as the table": {"options": {"g": "12", "bf": "3"}},
    "slower": {"rate": Fraction(20000, 1001), "options": OPEN_GOP},
    "faster": {"rate": Fraction(20200, 1001), "options": {"g": "2"}},
    "matroska": {"container": "matroska", "options": OPEN_GOP},
    "webm": {"container": "webm", "codec": "libvpx-vp9", "options": {"g": "10"}},
    "avi": {"container": "avi", "codec": "mpeg4", "options": {"g": "10", "bf": "2"}},
    "fragmented": {"mux_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "hevc": {"codec": "libx265", "options": {"g": "2", "x265-params": "log-level=error"}},
    "av1": {"codec": "libsvtav1", "options": {"g": "2"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_keeps_its_frame_at_its_own_time(tmp_path: Path, kind: str) -> None:
    root = folder(tmp_path / "v21", **KINDS[kind])
    require_frames(root)
    out = convert_lerobot(root, tmp_path / "v30")
    require_frames(out)
    assert validate_dataset(out, every_frame=True).problems == []
    clips = read_dataset(out).videos[CAMERA]
    for episode, length in enumerate(LENGTHS):
        clip = clips[episode]
        assert isinstance(clip, VideoClip)
        # LeRobot reads frames by time.
        seconds = [clip.file.index.seconds[clip.position(row, 20.0)] for row in range(length)]
        np.testing.assert_allclose(seconds, clip.start + np.arange(length) / 20, atol=1e-3)


def test_extra_frames_stay_between_the_episodes(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21", extra=2)
    with pytest.warns(DataWarning, match="has 42 frames, the table 40"):
        out = convert_lerobot(root, tmp_path / "v30")
    with pytest.warns(DataWarning, match="has 104 frames, the table 98"):
        require_frames(out)


@pytest.mark.parametrize("dropped", [[4, 5, 20], [0, 1, 20]])
def test_rows_that_were_dropped_keep_their_frames(tmp_path: Path, dropped: list[int]) -> None:
    root = folder(tmp_path / "v21", extra=3)
    kept = np.delete(np.arange(LENGTHS[1] + 3), dropped)
    table = "data/chunk-000/episode_000001.parquet"
    edit_rows(table, "timestamp", lambda _: (kept / 20).astype(np.float32).tolist())(root)
    with pytest.warns(DataWarning, match="frames are chosen by time"):
        out = convert_lerobot(root, tmp_path / "v30")
    assert len(list(out.rglob("*.mp4"))) == 3
    for dataset in (root, out):
        table_of = read_dataset(dataset)
        reader = FrameReader(CAMERA, table_of.videos[CAMERA], table_of.fps, cache_bytes=0)
        with pytest.warns(DataWarning, match="frames are chosen by time"):
            shown = [number_of(image) for image in reader.read([1] * len(kept), range(len(kept)))]
        assert shown == (100 + kept).tolist()
        assert number_of(reader.read([2], [32])[0]) == 232


def test_even_times_encode_a_camera_without_one_frame_for_each_row_again(tmp_path: Path) -> None:
    """Its frames at their own times are not those at which LeRobot looks."""
    root = folder(tmp_path / "v21", extra=3)
    kept = np.delete(np.arange(LENGTHS[1] + 3), [4, 5, 20])
    stamps = (kept / 20).astype(np.float32).tolist()
    edit_rows("data/chunk-000/episode_000001.parquet", "timestamp", lambda _: stamps)(root)
    out = tmp_path / "v30"
    with pytest.warns(DataWarning, match="25 video frames are encoded again, because"):
        convert_lerobot(root, out, even_times=True)
    assert not validate_dataset(out).refused_by_lerobot
    table = read_dataset(out)
    shown = FrameReader(CAMERA, table.videos[CAMERA], table.fps).read([1] * 25 + [2], [*range(25), 32])
    assert [number_of(image) for image in shown] == [*(100 + kept), 232]


CLOCKS = {
    "a pause": np.arange(LENGTHS[1]) / 20 + 2.0 * (np.arange(LENGTHS[1]) >= 10),
    "slower by 1.5 %": np.arange(LENGTHS[1]) / 20 * 1.015,
    "from 7 s": 7 + np.arange(LENGTHS[1]) / 20 * 1.015,
    "coarse": np.floor(np.arange(LENGTHS[1]) / 3) * 0.15,
    "not finite": np.where(np.arange(LENGTHS[1]) == 5, np.nan, np.arange(LENGTHS[1]) / 20),
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.filterwarnings("ignore::hf_ptr.errors.DataWarning")
def test_frames_get_the_times_at_which_lerobot_looks_for_them(tmp_path: Path, clock: str) -> None:
    root = folder(tmp_path / "v21")
    edit_rows("data/chunk-000/episode_000001.parquet", "timestamp", lambda _: CLOCKS[clock].tolist())(root)
    out = convert_lerobot(root, tmp_path / "v30")
    require_frames(out)
    copy = read_dataset(out)
    stamps = pq.ParquetFile(out / "data/chunk-000/file-000.parquet").read()["timestamp"].to_numpy()
    for episode, start in enumerate(copy.starts.tolist()):
        clip = copy.videos[CAMERA][episode]
        assert isinstance(clip, VideoClip)
        index = clip.file.index
        shown = index.start + index.seconds[[clip.position(row, 20.0) for row in range(LENGTHS[episode])]]
        times = stamps[start : start + LENGTHS[episode]]
        # The tolerance of LeRobot.
        np.testing.assert_allclose(shown, clip.start + times, atol=1e-4)
        if episode == 1 and clock not in ("coarse", "not finite"):
            np.testing.assert_allclose(times, CLOCKS[clock] - CLOCKS[clock][0], atol=1e-5)


@pytest.mark.filterwarnings("ignore::hf_ptr.errors.DataWarning")
def test_rows_that_lerobot_refuses_are_named_with_the_command_that_writes_a_copy_for_it(tmp_path: Path) -> None:
    root = folder(tmp_path / "my set")
    edit_rows("data/chunk-000/episode_000001.parquet", "timestamp", lambda _: CLOCKS["a pause"].tolist())(root)
    (root / "meta" / EXPECTED_FILE).write_text("- {check: time/gap, episodes: 1, reason: known}\n")
    shown = hf_ptr("validate", root, "--fail-on", "warning")
    assert shown.returncode == 1
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("warning"))
    # The last video frame of the episode is at 1.2 s, the last row at 3.2 s.
    assert line.startswith("warning: episode 1, frame 10: LeRobot refuses rows of ") and "up to 2 s away" in line
    command = f"hf-ptr convert lerobot '{root}' '{root}_v30' --even-times"
    assert shown.stdout.splitlines()[-1].endswith(command)

    # With the times of the rows, the frame of a row is not the one that torchcodec counts.
    drifting = convert_lerobot(root, tmp_path / "drifting")
    (line,) = (line for line in hf_ptr("validate", drifting).stdout.splitlines() if line.startswith("warning"))
    assert "LeRobot with torchcodec refuses rows" in line
    for source in (root, drifting):
        out = Path(f"{source}_v30")
        assert hf_ptr("convert", "lerobot", source, out, "--even-times").returncode == 0
        assert hf_ptr("validate", out, "--fail-on", "warning").returncode == 0
        require_frames(out)
        rows = [pq.ParquetFile(each / "data/chunk-000/file-000.parquet").read() for each in (out, drifting)]
        np.testing.assert_allclose(rows[0]["timestamp"][40:65].to_numpy(), np.arange(25) / 20, atol=1e-6)
        assert rows[0].drop_columns("timestamp").equals(rows[1].drop_columns("timestamp"))
        assert (out / "meta" / EXPECTED_FILE).read_text() == (root / "meta" / EXPECTED_FILE).read_text()
    with pytest.raises(InputError, match=r"is already v3.0, and LeRobot reads its times"):
        convert_lerobot(out, tmp_path / "again")


@pytest.mark.parametrize("jitter", [5e-5, 9.9e-5])
def test_even_times_replace_a_jitter_that_only_just_passes(tmp_path: Path, jitter: float) -> None:
    root = folder(tmp_path / "v21")
    even = np.arange(LENGTHS[1]) / 20
    stamps = even + jitter * (np.arange(LENGTHS[1]) % 2)
    edit_rows("data/chunk-000/episode_000001.parquet", "timestamp", lambda _: stamps.tolist())(root)
    out = convert_lerobot(root, tmp_path / "v30", even_times=True)
    rows = pq.ParquetFile(out / "data/chunk-000/file-000.parquet").read()["timestamp"].to_numpy()
    np.testing.assert_array_equal(rows[40:65], even.astype(np.float32))
    assert not validate_dataset(out).refused_by_lerobot


def test_hidden_frames_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21", extra=15, options={"g": "12", "bf": "3"})
    for path in root.rglob("*.mp4"):
        copied(path, path.with_suffix(".cut.mp4"), shift=-15 * 512).rename(path)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=re.escape("episode_000000.mp4 has frames that are not shown")):
        convert_lerobot(root, tmp_path / "v30")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("broken", ["table", "video", "listed twice"])
def test_episodes_are_left_out_and_the_others_numbered_without_gaps(tmp_path: Path, broken: str) -> None:
    root = folder(tmp_path / "v21")
    if broken == "table":
        (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1")
    elif broken == "video":
        (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    else:
        path = root / "meta/episodes.jsonl"
        path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
        edit_info(total_episodes=..., total_frames=...)(root)
    refused = CliRunner().invoke(app, ["convert", "lerobot", str(root), str(tmp_path / "v30")])
    assert isinstance(refused.exception, InputError) and str(refused.exception).endswith("(--skip-episodes 1)")
    assert not (tmp_path / "v30").exists()
    done = CliRunner().invoke(app, ["convert", "lerobot", str(root), str(tmp_path / "v30"), "--skip-episodes", "1"])
    assert done.exit_code == 0, done.exception
    out = tmp_path / "v30"
    assert validate_dataset(out, every_frame=True).problems == []
    table, source = read_dataset(out), read_dataset(root, [0, 2], skip=[1])
    assert table.episode_index.tolist() == [0, 1] and table.frame_id.tolist() == list(range(73))
    np.testing.assert_array_equal(table.feature("action"), source.feature("action"))
    reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps)
    assert [number_of(image) for image in reader.read([1, 0], [32, 39])] == [232, 39]
    stats = json.loads((out / "meta/stats.json").read_text())
    assert stats["index"]["max"] == [72] and stats["episode_index"]["max"] == [1]
