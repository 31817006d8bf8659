"""LeRobot reads written datasets with equal values, in its own environment (`make test-lerobot`)."""

from __future__ import annotations

import html
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conversion_helpers import write_robomimic
from data_helpers import REAL_V21, coded_image, coded_table, vector, with_camera, write_v21
from report_helpers import fault, scores_of, written
from spoiling import edit_rows
from stored_image_helpers import images_v21, images_v30

from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.convert_robomimic import convert_robomimic
from hf_ptr.data.lerobot.metadata import read_metadata
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.rewriting import Part, write_parts
from hf_ptr.data.lerobot.validation import no_progress, validate_dataset
from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.report.page import write_report
from hf_ptr.utils.atomic_files import StagedFolder

PYTHON = os.environ.get("HF_PTR_LEROBOT_PYTHON")
pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="LeRobot needs an environment of its own: make test-lerobot"),
    # A script imports LeRobot for half a minute, or for minutes on busy cores.
    pytest.mark.timeout(3600),
]
READER, WRITER = (Path(__file__).parents[1] / "helpers" / name for name in ("lerobot_read.py", "lerobot_write.py"))
CAMERAS = ("observation.images.front", "observation.images.wrist")


def recorded(folder: Path) -> Path:
    """Two cameras, with episodes spread over several small files."""
    sizes = {CAMERAS[0]: (48, 64), CAMERAS[1]: (32, 32)}
    videos = {
        name: {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"]}
        for name, size in sizes.items()
    }
    features = {"observation.state": vector(3), "action": vector(2), "next.reward": vector(1), **videos}
    random = np.random.default_rng(0)
    with DatasetWriter(
        folder / "out", fps=10, features=features, robot_type="made", data_files_size_in_mb=0.01,
        video_files_size_in_mb=0.01,
    ) as writer:  # fmt: skip
        for episode, length in enumerate((9, 4, 14)):
            columns = {n: random.normal(size=(length, features[n]["shape"][0])) for n in list(features)[:3]}
            images = {n: [coded_image(episode, f, size) for f in range(length)] for n, size in sizes.items()}
            writer.add_episode(columns, f"task {episode % 2}", images)
    return folder / "out"


def converted(folder: Path) -> Path:
    table = with_camera(coded_table([9, 5, 12]), CAMERAS[0])
    return convert_lerobot(write_v21(table, folder / "v21"), folder / "v30")


def edited(folder: Path) -> Path:
    """Parts that begin between key frames, with the clock of a recorder that jitters."""
    root = write_v21(with_camera(coded_table([30, 25, 12]), CAMERAS[0]), folder / "v21")
    for episode, length in enumerate((30, 25, 12)):
        clock = (0.03 + np.arange(length) / 20 + np.random.default_rng(episode).uniform(0, 0.02, length)).tolist()
        edit_rows(f"data/chunk-000/episode_{episode:06d}.parquet", "timestamp", lambda _, t=clock: t)(root)
    parts = [Part(0, 3, 9), Part(0, 14, 27, shift=3), Part(2, 0, 12), Part(1, 1, 25, task="new words")]
    staged = StagedFolder(folder / "v30")
    write_parts(root, read_metadata(root), parts, staged, shifted=["action"], progress=no_progress)
    return staged.out


def robomimic(folder: Path) -> Path:
    return convert_robomimic(write_robomimic(folder / "can.hdf5", {"demo_0": 7, "demo_1": 5}), folder / "v30")


def real_robot(folder: Path) -> Path:
    return convert_lerobot(REAL_V21, folder / "v30")


def stored_images(folder: Path) -> Path:
    return images_v30(folder / "v30")


def drifting(folder: Path) -> Path:
    """The clock of a recorder that pauses, as time stamps that every decoder of LeRobot finds."""
    root = write_v21(with_camera(coded_table([30, 25, 12]), CAMERAS[0]), folder / "v21")
    clock = (np.arange(25) / 20 + 2.0 * (np.arange(25) >= 10)).tolist()
    edit_rows("data/chunk-000/episode_000001.parquet", "timestamp", lambda _: clock)(root)
    return convert_lerobot(root, folder / "v30", even_times=True)


def converted_stored_images(folder: Path) -> Path:
    return convert_lerobot(images_v21(folder / "v21", in_files=True), folder / "v30")


SOURCES: list[Callable[[Path], Path]] = [
    recorded,
    converted,
    edited,
    drifting,
    robomimic,
    stored_images,
    converted_stored_images,
]
if (REAL_V21 / "meta/info.json").is_file():
    SOURCES.append(real_robot)


def lerobot(script: Path, *arguments: object) -> None:
    """Runs a script with LeRobot's Python."""
    result = subprocess.run(
        [str(PYTHON), str(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=1700, cwd=script.parent, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("make", SOURCES)
def test_lerobot_reads_it_back_equal(make: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make(tmp_path)
    table = read_dataset(root)
    # All frames, or those at episode boundaries of a long recording.
    ends = {row for start in table.starts.tolist() for row in (start - 1, start, start + 1) if row >= 0}
    rows = sorted({*ends, table.num_frames - 1}) if table.num_frames > 100 else list(range(table.num_frames))
    lerobot(READER, root, tmp_path / "seen.npz", "pyav", *rows)
    seen = np.load(tmp_path / "seen.npz")
    assert (int(seen["frames"]), int(seen["episodes"])) == (table.num_frames, table.num_episodes)
    assert float(seen["fps"]) == table.fps
    for name, column in table.columns.items():
        np.testing.assert_array_equal(seen[name].reshape(len(rows), -1), column[rows])
    episode = np.repeat(table.episode_index, table.lengths)[rows]
    np.testing.assert_array_equal(seen["episode_index"], episode)
    np.testing.assert_array_equal(seen["frame_index"], table.frame_index[rows])
    np.testing.assert_array_equal(seen["index"], table.frame_id[rows])
    assert seen["task"].tolist() == [table.tasks[i] for i in table.task_index[rows]]
    for camera in table.videos:
        ours = FrameReader(camera, table.videos[camera], table.fps).read(episode, table.frame_index[rows])
        theirs = np.round(seen[camera].transpose(0, 2, 3, 1) * 255)
        # The same frame, with the colour conversions of two decoders.
        assert np.abs(theirs - ours).max() <= 3
        assert f"stats/{camera}/mean" in seen


@pytest.mark.parametrize("videos", [True, False])
def test_datasets_recorded_by_lerobot_are_read_as_by_lerobot(tmp_path: Path, videos: bool) -> None:
    lengths = (9, 4, 14)
    root, rows = tmp_path / "made", list(range(sum(lengths)))
    lerobot(WRITER, root, int(videos), *lengths)
    lerobot(READER, root, tmp_path / "seen.npz", "pyav", *rows)
    seen, table = np.load(tmp_path / "seen.npz"), read_dataset(root)
    assert [str(problem) for problem in validate_dataset(root, every_frame=True).errors] == []
    assert table.lengths.tolist() == list(lengths) and table.tasks == ("task 0", "task 1")
    for name, column in table.columns.items():
        np.testing.assert_array_equal(seen[name].reshape(len(rows), -1), column)
    camera = "observation.images.front"
    episode = np.repeat(table.episode_index, table.lengths)
    ours = FrameReader(camera, table.videos[camera], table.fps).read(episode, table.frame_index)
    theirs = np.round(seen[camera].transpose(0, 2, 3, 1) * 255)
    assert np.abs(theirs - ours).max() <= (3 if videos else 0)


@pytest.mark.parametrize("make", [recorded, converted])
def test_the_reports_command_leaves_the_flagged_episodes_out(make: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make(tmp_path)
    table = read_dataset(root)
    scores = written(scores_of(table, {1: 0.1}), tmp_path, [fault(1, 0, int(table.lengths[1]) - 1)])
    page = write_report(scores, tmp_path / "r.html", dataset=root).read_text()
    command = html.unescape(re.findall(r'<textarea id="command"[^>]*>(.*?)</textarea>', page, re.DOTALL)[0])
    assert command.startswith("lerobot-edit-dataset ") and command.endswith('"[1]"')
    tools = {"PATH": f"{Path(str(PYTHON)).parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    apart = {"HF_LEROBOT_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=1700, cwd=tmp_path,
        env={**os.environ, **tools, **apart},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    kept = read_dataset(Path(f"{root}_kept"))
    expected = table.select([0, 2])
    # LeRobot renumbers the remaining episodes.
    assert kept.episode_index.tolist() == [0, 1] and kept.lengths.tolist() == expected.lengths.tolist()
    assert [kept.tasks[i] for i in kept.task_index] == [table.tasks[i] for i in expected.task_index]
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(kept.columns[name], column)
    for camera in table.videos:
        ours = FrameReader(camera, table.videos[camera], table.fps).read([2, 2], [0, 3])
        theirs = FrameReader(camera, kept.videos[camera], kept.fps).read([1, 1], [0, 3])
        # LeRobot may re-encode the remaining videos.
        assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 12
    assert read_dataset(root).num_episodes == 3
