"""Written LeRobotDataset v3.0 folders: content, and atomicity."""

from __future__ import annotations

import errno
import itertools
import json
import resource
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from data_helpers import assert_same_table, coded_table, snapshot, vector

from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import DatasetWriter, write_table
from hf_ptr.data.statistics import ImageStatistics, feature_statistics, normalization
from hf_ptr.errors import InputError

SIDE = 32
CAMERA = "observation.images.front"
FEATURES = {"observation.state": vector(3), "action": vector(2), "next.reward": vector(1)}
VIDEO = {CAMERA: {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]}}


def episode(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(length, f["shape"][0])).astype(np.float32) for name, f in FEATURES.items()}


def image(number: int, frame: int) -> np.ndarray:
    """A smooth image that depends on both numbers, preserved by a codec with subsampled colours."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.stack([4 * x + 2 * frame, 4 * y + 40 * number, 0 * x + 60], axis=-1).clip(0, 255).astype(np.uint8)


def images(number: int, length: int) -> Iterator[np.ndarray]:
    return (image(number, frame) for frame in range(length))


def grain(number: int, frame: int) -> np.ndarray:
    """Grey noise: large in the file, and not affected by colour subsampling."""
    grey = np.random.default_rng([number, frame]).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)
    return grey.repeat(3, axis=2)


def decode(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.time for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def test_a_table_is_read_back_bit_identical(tmp_path: Path) -> None:
    table = coded_table([7, 1, 12, 5])
    assert write_table(table, tmp_path / "out") == tmp_path / "out"
    assert_same_table(read_dataset(tmp_path / "out"), table)


def test_only_a_selection_is_read_back(tmp_path: Path) -> None:
    table = coded_table([7, 1, 12, 5])
    write_table(table, tmp_path / "out")
    assert_same_table(read_dataset(tmp_path / "out", [3, 1]), table.select([3, 1]))


def test_the_same_episodes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with DatasetWriter(tmp_path / name, fps=25, features={**FEATURES, **VIDEO}) as writer:
            for number in range(3):
                writer.add_episode(episode(9, number), f"task {number % 2}", {CAMERA: images(number, 9)})
    first, second = snapshot(tmp_path / "a"), snapshot(tmp_path / "b")
    assert first == second and len([c for c in first.values() if c is not None]) == 6


def test_metadata_of_v30(tmp_path: Path) -> None:
    lengths = [9, 4, 6]
    with DatasetWriter(tmp_path / "out", fps=80, features={**FEATURES, **VIDEO}, robot_type="sawyer") as writer:
        for number, (length, task) in enumerate(zip(lengths, ["open", "close", "open"], strict=True)):
            writer.add_episode(episode(length, number), task, {CAMERA: images(0, length)})
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 19, 2)
    assert info["fps"] == 80 and isinstance(info["fps"], int)
    assert info["robot_type"] == "sawyer"
    assert info["splits"] == {"train": "0:3"}
    assert (info["chunks_size"], info["data_files_size_in_mb"], info["video_files_size_in_mb"]) == (1000, 100, 200)
    assert info["data_path"].format(chunk_index=0, file_index=0) == "data/chunk-000/file-000.parquet"
    path = info["video_path"].format(video_key=CAMERA, chunk_index=0, file_index=0)
    assert path == f"videos/{CAMERA}/chunk-000/file-000.mp4" and (tmp_path / "out" / path).is_file()
    defaults = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    assert list(info["features"]) == [*FEATURES, CAMERA, *defaults]
    assert info["features"][CAMERA]["info"]["video.fps"] == 80

    tasks = pd.read_parquet(tmp_path / "out/meta/tasks.parquet")
    assert tasks.index.name == "task" and tasks["task_index"].to_dict() == {"open": 0, "close": 1}

    rows = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["episode_index"] for row in rows] == [0, 1, 2]
    assert [row["tasks"] for row in rows] == [["open"], ["close"], ["open"]]
    assert [row["length"] for row in rows] == lengths
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 9), (9, 13), (13, 19)]
    for row in rows:
        for name in ("data", "meta/episodes", f"videos/{CAMERA}"):
            assert (row[f"{name}/chunk_index"], row[f"{name}/file_index"]) == (0, 0)
    spans = [(row[f"videos/{CAMERA}/from_timestamp"], row[f"videos/{CAMERA}/to_timestamp"]) for row in rows]
    assert spans == [(0.0, 9 / 80), (9 / 80, 13 / 80), (13 / 80, 19 / 80)]
    stats = feature_statistics(episode(4, 1)["action"])
    for key, value in stats.items():
        np.testing.assert_allclose(rows[1][f"stats/action/{key}"], value)
    assert np.shape(rows[1][f"stats/{CAMERA}/mean"]) == (3, 1, 1)


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    episodes = [episode(n, n) for n in (9, 4, 6)]
    with DatasetWriter(tmp_path / "out", fps=10, features={**FEATURES, **VIDEO}) as writer:
        for number, columns in enumerate(episodes):
            length = len(columns["action"])
            writer.add_episode(columns, "go", {CAMERA: images(number, length)})
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    for name in FEATURES:
        everything = np.concatenate([columns[name] for columns in episodes])
        for key, value in feature_statistics(everything).items():
            np.testing.assert_allclose(stats[name][key], value, rtol=1e-12)
    pixels = np.concatenate([np.stack(list(images(i, n))) for i, n in enumerate((9, 4, 6))]) / 255
    assert np.shape(stats[CAMERA]["std"]) == (3, 1, 1)
    for key, reduce in (("mean", np.mean), ("std", np.std), ("max", np.max)):
        np.testing.assert_allclose(np.ravel(stats[CAMERA][key]), reduce(pixels, axis=(0, 1, 2)), atol=1e-9)
    assert stats[CAMERA]["count"] == [19] and stats["index"]["max"] == [18]


def test_tables_are_read_by_datasets(tmp_path: Path) -> None:
    table = coded_table([5, 6])
    write_table(table, tmp_path / "out")
    files = str(tmp_path / "out/data/*/*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["action"] == datasets.List(datasets.Value("float32"), length=4)
    assert loaded.features["timestamp"] == datasets.Value("float32")
    np.testing.assert_array_equal(np.array(loaded["action"], np.float32), table.columns["action"])
    assert loaded["episode_index"] == [0] * 5 + [1] * 6
    assert loaded["frame_index"] == [*range(5), *range(6)]
    assert loaded["index"] == list(range(11))
    np.testing.assert_allclose(loaded["timestamp"], np.array(loaded["frame_index"]) / 20, atol=1e-7)


def test_large_datasets_go_into_several_files(tmp_path: Path) -> None:
    writer = DatasetWriter(
        tmp_path / "out",
        fps=10,
        features={**FEATURES, **VIDEO},
        data_files_size_in_mb=0.006,
        video_files_size_in_mb=0.08,
    )
    episodes = [episode(40, n) for n in range(8)]
    with writer:
        for number, columns in enumerate(episodes):
            writer.add_episode(columns, "go", {CAMERA: (grain(number, frame) for frame in range(40))})
    rows = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for kind in ("data", f"videos/{CAMERA}"):
        used = [row[f"{kind}/file_index"] for row in rows]
        assert used == sorted(used) and 1 < max(used) < 7
    table = read_dataset(tmp_path / "out")
    for name in FEATURES:
        np.testing.assert_array_equal(table.columns[name], np.concatenate([columns[name] for columns in episodes]))
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert stats["action"]["count"] == [320]
    # The frames at every episode's span in its file are those of the episode.
    for number, row in enumerate(rows):
        file = row[f"videos/{CAMERA}/file_index"]
        times, frames = decode(tmp_path / f"out/videos/{CAMERA}/chunk-000/file-{file:03d}.mp4")
        begin = round(row[f"videos/{CAMERA}/from_timestamp"] * 10)
        assert times[begin] == pytest.approx(row[f"videos/{CAMERA}/from_timestamp"], abs=1e-6)
        assert times[begin + 39] + 0.1 == pytest.approx(row[f"videos/{CAMERA}/to_timestamp"], abs=1e-6)
        assert np.abs(frames[begin + 39].astype(int) - grain(number, 39)).mean() < 12


def test_video_frames_are_read_back_approximately(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "out", fps=80, features={**FEATURES, **VIDEO}) as writer:
        for number in range(2):
            writer.add_episode(episode(15), "go", {CAMERA: images(number, 15)})
    times, frames = decode(tmp_path / f"out/videos/{CAMERA}/chunk-000/file-000.mp4")
    np.testing.assert_allclose(times, np.arange(30) / 80, atol=1e-6)
    for position, frame in enumerate(frames):
        number, index = divmod(position, 15)
        error = np.abs(frame.astype(int) - image(number, index))
        assert error.mean() < 6
        assert error.mean() < np.abs(frame.astype(int) - image(1 - number, index)).mean()
    with av.open(str(tmp_path / f"out/videos/{CAMERA}/chunk-000/file-000.mp4")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert all(a or b for a, b in itertools.pairwise(keys))


def test_frames_are_encoded_immediately(tmp_path: Path) -> None:
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def stream(length: int) -> Iterator[np.ndarray]:
        nonlocal alive, most
        for index in range(length):
            frame = image(0, index)
            weakref.finalize(frame, gone)
            alive += 1
            most = max(most, alive)
            yield frame
            del frame

    with DatasetWriter(tmp_path / "out", fps=80, features={**FEATURES, **VIDEO}) as writer:
        writer.add_episode(episode(60), "go", {CAMERA: stream(60)})
    assert most <= 3


def test_one_instruction_per_frame(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "out", fps=80, features=FEATURES, tasks=["put", "take"]) as writer:
        writer.add_episode(episode(4), ["take", "take", "turn", "put"])
        with pytest.raises(InputError, match="episode 1 has 4 frames but 2 instructions"):
            writer.add_episode(episode(4), ["take", "put"])
    table = read_dataset(tmp_path / "out")
    assert table.tasks == ("put", "take", "turn") and table.task_index.tolist() == [1, 1, 2, 0]


def test_other_number_types_keep_their_values(tmp_path: Path) -> None:
    features = {"action": vector(2), "next.done": vector(1, "bool"), "observation.count": vector(2, "int64")}
    columns = {
        "action": np.ones((3, 2)),
        "next.done": np.array([[False], [False], [True]]),
        "observation.count": np.arange(6).reshape(3, 2),
    }
    with DatasetWriter(tmp_path / "out", fps=29.97, features=features) as writer:
        writer.add_episode(columns, "go")
    stored = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert stored["next.done"].to_pylist() == [False, False, True]
    assert stored["observation.count"].to_pylist() == [[0, 1], [2, 3], [4, 5]]
    table = read_dataset(tmp_path / "out")
    assert table.fps == 29.97
    np.testing.assert_array_equal(table.columns["next.done"], [[0], [0], [1]])


def test_an_empty_folder_may_be_filled_and_keeps_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "plain").mkdir()
    write_table(coded_table([3]), tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "plain"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "folder":
        out.mkdir()
    (out if what == "file" else out / "kept").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        write_table(coded_table([3]), out)
    assert snapshot(tmp_path) == before


def bad(name: str, value: Any) -> dict[str, np.ndarray]:
    return {**episode(5), name: value}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (bad("action", np.full((5, 2), np.nan)), "'action' is NaN or infinite in episode 1, frame 0"),
        (bad("action", np.array([[0, 0]] * 4 + [[0, np.inf]])), "'action' is NaN or infinite in episode 1, frame 4"),
        (bad("action", np.zeros((5, 3))), r"'action' of episode 1 has shape \(5, 3\); expected \(5, 2\)"),
        (bad("action", np.zeros((4, 2))), r"'action' of episode 1 has shape \(4, 2\); expected \(5, 2\)"),
        (bad("actoin", np.zeros((5, 2))), r"columns has 'actoin'.* Did you mean 'action'\?"),
        ({"action": np.zeros((5, 2))}, "columns lacks the feature 'observation.state'"),
        ({n: c[:0] for n, c in episode(5).items()}, r"expected \(at least 1, 3\)"),
    ],
)
def test_wrong_columns_write_nothing(tmp_path: Path, columns: dict[str, np.ndarray], message: str) -> None:
    with (
        pytest.raises(InputError, match=message) as caught,
        DatasetWriter(tmp_path / "deep/out", fps=10, features=FEATURES) as writer,
    ):
        writer.add_episode(episode(5), "go")
        writer.add_episode(columns, "go")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def frames_of(length: int = 5, shape: tuple[int, ...] = (SIDE, SIDE, 3), dtype: str = "uint8") -> dict[str, Any]:
    return {CAMERA: [np.zeros(shape, dtype)] * length}


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (frames_of(4), "episode 0 has 4 frames, expected 5"),
        (frames_of(6), "episode 0 has 6 frames, expected 5"),
        (frames_of(shape=(SIDE, SIDE + 2, 3)), r"frame of shape \(32, 34, 3\), uint8; expected \(32, 32, 3\)"),
        (frames_of(dtype="float32"), "float32; expected"),
        ({}, f"videos lacks the feature '{CAMERA}'"),
    ],
)
def test_wrong_videos_write_nothing(tmp_path: Path, videos: dict[str, Any], message: str) -> None:
    writer = DatasetWriter(tmp_path / "out", fps=10, features={**FEATURES, **VIDEO})
    with pytest.raises(InputError, match=message), writer:
        writer.add_episode(episode(5), "go", videos)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps is 0; it must be a positive number"),
        ({"features": VIDEO}, "no numeric vector"),
        ({"features": {**FEATURES, "note": {"dtype": "string", "shape": [1]}}}, r"'note' \(string, shape \[1\]\)"),
        ({"features": {"action": {"dtype": "float32", "shape": [2, 2]}}}, r"'action' \(float32, shape \[2, 2\]\)"),
        ({"features": {"../action": vector(2)}}, "feature name '../action' cannot be used as a file name"),
        ({"features": {**FEATURES, "cam": {"dtype": "video", "shape": [31, 32, 3]}}}, "even sides"),
    ],
)
def test_wrong_datasets_are_refused_at_once(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        DatasetWriter(tmp_path / "out", **{"fps": 10, "features": FEATURES, **arguments})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_needs_an_episode(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no episode was written"),
        DatasetWriter(tmp_path / "out", fps=10, features=FEATURES),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield image(0, 0)
        raise error

    writer = DatasetWriter(tmp_path / "deep/er/out", fps=10, features={**FEATURES, **VIDEO})
    with pytest.raises(error), writer:
        writer.add_episode(episode(5), "go", {CAMERA: images(0, 5)})
        writer.add_episode(episode(5), "go", {CAMERA: interrupted()})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="the writer is closed"):
        writer.add_episode(episode(5), "go", {CAMERA: images(0, 5)})


@pytest.mark.parametrize("when", ["add_episode", "finish"])
def test_no_space_left_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(InputError, match=r"cannot write .*out: no space left; partial output was removed") as caught,
        DatasetWriter(tmp_path / "out", fps=10, features=FEATURES) as writer,
    ):
        if when == "add_episode":
            monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
        else:
            monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
        writer.add_episode(episode(5), "go")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_video", [False, True])
def test_a_real_error_of_the_file_system_is_one_line(tmp_path: Path, with_video: bool) -> None:
    """The operating system limits the file size, so writing fails halfway, as with a full disk."""
    features = {**FEATURES, **VIDEO} if with_video else FEATURES
    noise = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE, 3), dtype=np.uint8)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = DatasetWriter(tmp_path / "out", fps=10, features=features)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*out: file too large"), writer:
            for number in range(40):
                videos = {CAMERA: noise} if with_video else None
                writer.add_episode(episode(300, number), "go", videos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


def test_image_statistics_are_exact() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (7, 20, 24, 3), dtype=np.uint8)
    counted = ImageStatistics()
    for frame in frames:
        counted.add(frame)
    stats = counted.statistics()
    pixels = frames.reshape(-1, 3) / 255
    np.testing.assert_allclose(stats["mean"].ravel(), pixels.mean(0))
    np.testing.assert_allclose(stats["std"].ravel(), pixels.std(0))
    np.testing.assert_allclose(stats["min"].ravel(), pixels.min(0))
    np.testing.assert_allclose(stats["max"].ravel(), pixels.max(0))
    for name, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        np.testing.assert_allclose(
            stats[name].ravel(), np.quantile(pixels, share, axis=0, method="inverted_cdf"), atol=1e-12
        )


def test_statistics_lose_no_digits_and_constant_dimensions_keep_scale_one() -> None:
    table = coded_table([400, 300])
    state = table.columns["observation.state"]
    state[:, 0] = 1000.0 + np.tile([0.0, 0.01], 350)
    state[:, 1] = 5.0
    state[:, 2] = np.random.default_rng(0).normal(scale=1e-6, size=700)
    stats = feature_statistics(state)
    np.testing.assert_allclose(stats["std"][0], state[:, 0].astype(np.float64).std(), rtol=1e-12)
    scale = normalization(table, ["observation.state", "action"])
    assert scale["mean"].shape == scale["std"].shape == (7,) and scale["std"].dtype == np.float32
    assert scale["std"][:3].tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(scale["std"][3:], table.columns["action"].std(axis=0, dtype=np.float64), rtol=1e-6)
    with pytest.raises(ValueError, match="array must have shape"):
        feature_statistics(np.zeros((0, 3)))
    with pytest.raises(InputError, match="Did you mean 'action'"):
        normalization(table, ["acton"])
