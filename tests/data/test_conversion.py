"""Conversion of other formats to v3.0 preserves every value and frame."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversion_helpers import demonstration, write_robomimic
from data_helpers import (
    REAL_V21,
    assert_same_table,
    coded_image,
    coded_table,
    snapshot,
    with_camera,
    write_lines,
    write_v21,
    write_video,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoiling import cut_rows, damage, edit_info, edit_rows, write
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.expected_findings import EXPECTED_FILE, expected_of_dataset
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.convert_robomimic import convert_robomimic
from hf_ptr.data.lerobot.metadata_files import EDITS_FILE
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.lerobot.versions import conversion_command
from hf_ptr.data.statistics import ImageStatistics, feature_statistics, joined_statistics
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import DataWarning, InputError

CAMERA = "observation.images.top"
LENGTHS = [9, 5, 12]
DATA_1 = "data/chunk-000/episode_000001.parquet"
VIDEO_1 = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
DATA_V3 = "data/chunk-000/file-000.parquet"
# Real robot data if they are available next to the checkout, and always a synthetic folder of the same layout.
V21_SOURCES = ["built", *(["g1_bottle"] if (REAL_V21 / "meta/info.json").is_file() else [])]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes as v2.1, with videos with few key frames."""
    return write_v21(with_camera(coded_table(LENGTHS), CAMERA), tmp_path_factory.mktemp("conversion") / "v21")


@pytest.fixture(scope="session", params=V21_SOURCES)
def pair(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A v2.1 dataset and its conversion."""
    v21 = REAL_V21 if request.param == "g1_bottle" else built
    return v21, convert_lerobot(v21, tmp_path_factory.mktemp("converted") / "v30")


def test_a_converted_table_is_bit_identical(pair: tuple[Path, Path]) -> None:
    v21, v30 = pair
    table = read_dataset(v30)
    assert_same_table(table, read_dataset(v21))
    assert validate_dataset(v30).problems == []
    # Every column in its own type, not only vectors.
    stored = pq.read_table(v30 / DATA_V3)
    parts = [pq.ParquetFile(path).read() for path in sorted((v21 / "data/chunk-000").iterdir())]
    assert stored.equals(pa.concat_tables(parts))


def test_both_versions_give_the_same_batches(pair: tuple[Path, Path]) -> None:
    batches = []
    for root in pair:
        table = read_dataset(root, [0, 2])
        camera = next(iter(table.videos))
        chunks = ChunkDataset(table, chunk_size=4, target_offset=3, observation_features=[camera], image_size=24)
        # First and last frames of episodes and some in between, to detect shifts by one frame.
        ends = [0, 1, table.lengths[0] - 4, table.lengths[0] - 3, table.lengths[0] - 1, table.lengths[0]]
        batches.append(chunks.batch([*map(int, ends), len(chunks) - 4, len(chunks) - 1]))
    for key, value in batches[0].items():
        assert value.equal(batches[1][key]), key
    # There is no target after the end of an episode.
    assert batches[0]["has_target"].tolist() == [True, True, True, False, False, True, True, False]
    assert not batches[0]["next_observation"][~batches[0]["has_target"]].any()


def test_videos_are_copied_and_found_at_every_frame(built: Path, pair: tuple[Path, Path]) -> None:
    v21, v30 = pair
    if v21 != built:
        assert sum(f.stat().st_size for f in v30.rglob("*.mp4")) == pytest.approx(
            sum(f.stat().st_size for f in v21.rglob("*.mp4")), rel=0.01
        )
        return
    readers = [FrameReader(CAMERA, read_dataset(root).videos[CAMERA], 20.0, cache_bytes=0) for root in pair]
    places = [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]
    for order in (places, places[::-1]):
        images = [reader.read(*zip(*order, strict=True)) for reader in readers]
        # Copied without re-encoding: the images are bit-identical.
        np.testing.assert_array_equal(*images)
        for (episode, frame), image in zip(order, images[1], strict=True):
            assert np.abs(image.mean(axis=(0, 1)) - coded_image(episode, frame, (1, 1))[0, 0]).max() < 4
    assert len(list(v30.rglob("*.mp4"))) == 1


def test_another_encoding_begins_another_file(built: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "v21"))
    # Another key frame interval changes the header.
    write_video(root / VIDEO_1, [coded_image(1, frame, (32, 48)) for frame in range(5)], 20, key_frames=3)
    # The video of the first episode is longer than its table.
    first = f"videos/chunk-000/{CAMERA}/episode_000000.mp4"
    write_video(root / first, [coded_image(0, frame, (32, 48)) for frame in range(13)], 20)
    out = convert_lerobot(root, tmp_path / "v30")
    assert validate_dataset(out).usable
    clips = read_dataset(out).videos[CAMERA]
    assert FrameReader(CAMERA, clips, 20.0).read([0, 1, 2], [8, 4, 11])[:, 0, 0, 1].tolist() == pytest.approx(
        [20 + 15 * frame for frame in (8, 4, 11)], abs=4
    )


def test_stored_statistics_are_kept_and_missing_ones_are_computed(built: Path, tmp_path: Path) -> None:
    out = convert_lerobot(built, tmp_path / "counted")
    stats = json.loads((out / "meta/stats.json").read_text())
    for key, value in feature_statistics(read_dataset(out).feature("action")).items():
        np.testing.assert_allclose(stats["action"][key], value, rtol=1e-6)
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)
    expected = np.mean([20 + 15 * frame for length in LENGTHS for frame in range(length)]) / 255
    assert stats[CAMERA]["mean"][1][0][0] == pytest.approx(expected, abs=0.02)
    root = Path(shutil.copytree(built, tmp_path / "v21"))
    one = {key: [[[value]]] * 3 for key, value in (("min", 0.0), ("max", 1.0), ("mean", 0.25), ("std", 0.5))}
    records = [{"episode_index": i, "stats": {CAMERA: {**one, "count": [4]}}} for i in range(3)]
    write_lines(root / "meta/episodes_stats.jsonl", records)
    kept = json.loads((convert_lerobot(root, tmp_path / "kept") / "meta/stats.json").read_text())
    assert kept[CAMERA]["mean"] == one["mean"] and kept[CAMERA]["count"] == [12]


def test_pooled_statistics_are_those_of_all_frames() -> None:
    random = np.random.default_rng(0)
    recordings = [random.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for n in (3, 7)]
    parts, whole = [ImageStatistics(), ImageStatistics()], ImageStatistics()
    for part, recording in zip(parts, recordings, strict=True):
        for image in recording:
            part.add(image)
            whole.add(image)
    joined = joined_statistics([part.statistics() for part in parts])
    for key in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(joined[key], whole.statistics()[key], rtol=1e-9)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_info(codebase_version="v3.0"), r"v3\.0"),
        (damage(DATA_1, 300), "is not usable: episode 1: .* is damaged"),
        (write(VIDEO_1, "no video"), "cannot be read as a video"),
        (damage(VIDEO_1, 900), "cannot be"),
        (cut_rows(DATA_1, 2), "has 2 rows, its metadata list 5"),
        (edit_rows(DATA_1, "timestamp", lambda v: pa.array([str(t) for t in v])), "timestamp"),
    ],
)
def test_inconvertible_data_raise_one_line_and_leave_no_files(
    built: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    root = Path(shutil.copytree(built, tmp_path / "v21"))
    spoil(root)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        convert_lerobot(root, tmp_path / "deep" / "v30")
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "a\\b"])
def test_no_camera_is_written_out_of_the_folder(built: Path, tmp_path: Path, name: str) -> None:
    """With a template without the camera, an unsafe name is harmless for reading, but not for writing."""
    root = Path(shutil.copytree(built, tmp_path / "v21"))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] = info["features"].pop(CAMERA)
    info["video_path"] = f"videos/chunk-{{episode_chunk:03d}}/{CAMERA}/episode_{{episode_index:06d}}.mp4"
    (root / "meta/info.json").write_text(json.dumps(info))
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"feature name .* cannot be used as a file name"):
        convert_lerobot(root, tmp_path / "deep" / "v30")
    assert snapshot(tmp_path) == before
    info["features"]["a{b}"] = info["features"].pop(name)
    (root / "meta/info.json").write_text(json.dumps(info))
    out = convert_lerobot(root, tmp_path / "v30")
    assert validate_dataset(out).usable and list(read_dataset(out).videos) == ["a{b}"]


def test_accepted_findings_and_edits_get_the_numbers_of_the_kept_episodes(built: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "v21"))
    entry = "- {check: action/noise, episodes: EPISODE, frames: '1:3', reason: heavy}\n"
    (root / "meta" / EXPECTED_FILE).write_text(entry.replace("EPISODE", "0") + entry.replace("EPISODE", "1:3"))
    ends = {"source_first_frame": 0, "source_last_frame": 3, "source_frames": 9}
    episodes = [{"episode_index": number, "source_episode": 4 + number, **ends} for number in range(3)]
    (root / "meta" / EDITS_FILE).write_text(json.dumps({"source": "first", "episodes": episodes}))
    out = convert_lerobot(root, tmp_path / "out", skip=[0])
    (accepted,) = expected_of_dataset(out)
    assert [episode for span in accepted.episodes or () for episode in span] == [0, 1]
    assert (accepted.frames, accepted.reason) == ((1, 3), "heavy")
    edits = json.loads((out / "meta" / EDITS_FILE).read_text())
    assert edits["source"] == "first"
    assert [(each["episode_index"], each["source_episode"]) for each in edits["episodes"]] == [(0, 5), (1, 6)]
    assert read_dataset(out).cut_ends == {0: (False, True), 1: (False, True)}
    # A list of edits that cannot be renumbered is left out with a warning.
    (root / "meta" / EDITS_FILE).write_text(json.dumps({"source": "first", "episodes": episodes[:2]}))
    with pytest.warns(DataWarning, match=f"{EDITS_FILE} is left out, because it does not list the episodes"):
        other = convert_lerobot(root, tmp_path / "other", skip=[0])
    assert not (other / "meta" / EDITS_FILE).exists()


@pytest.mark.parametrize("skip", [[], [0]])
@pytest.mark.parametrize("name", [EXPECTED_FILE, EDITS_FILE])
def test_a_kept_file_in_another_encoding_is_one_line(built: Path, tmp_path: Path, name: str, skip: list[int]) -> None:
    root = Path(shutil.copytree(built, tmp_path / "v21"))
    (root / "meta" / name).write_bytes("- {reason: Prüfung}\n".encode("latin-1"))
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=f"{name} cannot be read as UTF-8 .*; correct or remove it") as caught:
        convert_lerobot(root, tmp_path / "out", skip=skip)
    assert "\n" not in str(caught.value) and snapshot(tmp_path) == before


def test_the_copy_of_a_conversion_command_is_next_to_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "data")
    for folder, expected in {
        ".": "data_v30",
        "..": "mine_v30",
        "../data/": "data_v30",
        "../data/.": "data_v30",
    }.items():
        *_, source, out = conversion_command(folder)
        assert Path(out).resolve() == Path(folder).resolve().parent / expected, folder
        assert Path(source).resolve() == Path(folder).resolve()
    assert conversion_command("sets/mine/", "_v30", "--even-times")[3:] == [
        "sets/mine",
        "sets/mine_v30",
        "--even-times",
    ]


def test_the_copy_of_a_dataset_of_the_hub_is_not_in_its_cache() -> None:
    cached = f"/cache/hub/datasets--user--my--door/snapshots/{'0a' * 20}"
    assert conversion_command(cached)[3:] == [cached, "my--door_v30"]
    assert conversion_command(f"{cached}/sets/left")[3:] == [f"{cached}/sets/left", "left_v30"]


# --- robomimic ---


def test_robomimic_is_converted_with_its_images(tmp_path: Path) -> None:
    # Demonstration 10 follows 2: numbers are not sorted as text.
    lengths = {"demo_10": 6, "demo_2": 9, "demo_0": 4}
    file = write_robomimic(tmp_path / "can.hdf5", lengths)
    out = convert_robomimic(file, tmp_path / "out")
    assert validate_dataset(out).problems == []
    table = read_dataset(out)
    assert table.lengths.tolist() == [4, 9, 6] and table.fps == 20 and table.robot_type == "Panda"
    assert table.tasks == ("PickPlaceCan",)
    for episode, seed in enumerate((2, 1, 0)):
        rows = slice(table.starts[episode], table.starts[episode] + table.lengths[episode])
        source = demonstration(int(table.lengths[episode]), seed)
        np.testing.assert_array_equal(table.feature("action")[rows], source["actions"].astype(np.float32))
        state = np.concatenate([source[f"obs/robot0_{part}"] for part in ("eef_pos", "eef_quat", "gripper_qpos")], 1)
        np.testing.assert_array_equal(table.feature("observation.state")[rows], state.astype(np.float32))
        np.testing.assert_array_equal(
            table.feature("observation.object")[rows], source["obs/object"].astype(np.float32)
        )
    assert list(table.videos) == ["observation.images.agentview"]
    images = FrameReader("agentview", table.videos["observation.images.agentview"], 20.0).read([1, 2], [8, 5])
    assert images[:, 5, 5, 1].tolist() == pytest.approx([20 + 15 * 8, 20 + 15 * 5], abs=4)


def test_the_task_comes_from_the_file_the_demonstration_or_the_user(tmp_path: Path) -> None:
    problem = json.dumps({"language_instruction": "open the drawer"})
    file = write_robomimic(tmp_path / "libero.hdf5", {"demo_0": 4, "demo_1": 4}, problem_info=problem)
    with h5py.File(file, "r+") as opened:
        opened["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "close it"})
    assert read_dataset(convert_robomimic(file, tmp_path / "a")).tasks == ("open the drawer", "close it")
    table = read_dataset(convert_robomimic(file, tmp_path / "b", task="go", fps=10, state=["object"]))
    assert table.tasks == ("go",) and table.fps == 10 and table.feature("observation.state").shape[1] == 10


def change(name: str, value: Any) -> Any:
    def edit(file: Any) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return edit


def unknown_rate(file: Any) -> None:
    file["data"].attrs["env_args"] = "{"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("data", None), "has no /data"),
        (change("data/demo_0/obs", None), "has no /data/demo_0/obs"),
        (change("data/demo_0/actions", np.zeros((3, 7))), r"has shape .* but there are 3 actions"),
        (
            change("data/demo_0/obs/object", h5py.ExternalLink("/etc/passwd", "/x")),
            "is a link; copy its target",
        ),
        (change("data/demo_0/obs/object", h5py.SoftLink("/data/demo_0/actions")), "is a link"),
        (change("data/demo_0/obs/object", np.array([b"a"] * 4)), "expected numbers"),
        (change("data/demo_1/obs/object", None), "data/demo_1 has no object, which the first demonstration has"),
        (
            change("data/demo_0/obs/robot0_eef_pos", None),
            "has no vector obs/robot0_eef_pos for the state; choose from",
        ),
        (change("data/demo_1/obs/object", np.full((5, 10), np.nan)), "is NaN or infinite in episode 1, frame 0"),
        (unknown_rate, "contains no control frequency; pass --fps"),
    ],
)
def test_a_wrong_robomimic_file_is_one_line_and_leaves_no_files(tmp_path: Path, edit: Any, message: str) -> None:
    path = write_robomimic(tmp_path / "can.hdf5", {"demo_0": 4, "demo_1": 5})
    with h5py.File(path, "r+") as file:
        edit(file)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        convert_robomimic(path, tmp_path / "out")
    assert "\n" not in str(caught.value) and snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("vectors", "images", "left_out"),
    [
        # Isaac Lab keeps a group beside the vectors, and its pictures in other types.
        ({"eef_pos": 3, "eef_quat": 4, "gripper_pos": 2}, {"table_cam": np.uint8}, ["datagen_info"]),
        ({"eef_pos": 3, "eef_quat": 4, "gripper_pos": 2}, {"table_cam": np.float32}, ["datagen_info", "table_cam"]),
        ({"ee_states": 6, "gripper_states": 2, "joint_states": 7}, {"agentview_rgb": np.uint8}, ["datagen_info"]),
    ],
)
def test_observations_that_lerobot_cannot_hold_are_left_out_with_a_warning(
    tmp_path: Path, vectors: dict[str, int], images: dict[str, Any], left_out: list[str]
) -> None:
    file = tmp_path / "demos.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(file, "w") as target:
        for number in range(2):
            demo = target.create_group(f"data/demo_{number}")
            demo.create_dataset("actions", data=random.normal(size=(5, 7)))
            for name, width in vectors.items():
                demo.create_dataset(f"obs/{name}", data=random.normal(size=(5, width)))
            for name, kind in images.items():
                demo.create_dataset(f"obs/{name}", data=random.integers(0, 255, (5, 16, 16, 3)).astype(kind))
            demo.create_dataset("obs/datagen_info/eef_pose/franka", data=np.zeros((5, 4, 4)))
    with pytest.warns(DataWarning) as seen:
        out = convert_robomimic(file, tmp_path / "out", fps=20, task="stack")
    names = sorted({re.search(r"obs/(\S+) is left out: ", str(each.message))[1] for each in seen})
    assert names == left_out
    table = read_dataset(out)
    # Without --state, the pose of end effector and gripper, by the names of each simulator.
    assert table.columns["observation.state"].shape == (10, 8 if "ee_states" in vectors else 9)
    assert list(table.videos) == [f"observation.images.{name}" for name, kind in images.items() if kind is np.uint8]


def test_values_in_another_file_are_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "can.hdf5", {"demo_0": 4})
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 10 * 8))
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/obs/object"]
        file["data/demo_0/obs"].create_dataset("object", (4, 10), "f8", external=[(str(secret), 0, 320)])
    with pytest.raises(InputError, match="is stored in another file"):
        convert_robomimic(path, tmp_path / "out")


@settings(max_examples=40, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=16), cut=st.booleans())
def test_damaged_hdf5_never_gives_a_traceback(tmp_path: Path, place: float, junk: bytes, cut: bool) -> None:
    whole = tmp_path / "whole.hdf5"
    if not whole.exists():
        write_robomimic(whole, {"demo_0": 4})
    original, path = whole.read_bytes(), tmp_path / "fuzzed.hdf5"
    start = int(place * len(original))
    path.write_bytes(original[:start] + junk + (b"" if cut else original[start + len(junk) :]))
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        convert_robomimic(path, out)
    except InputError as error:
        assert "\n" not in str(error) and not out.exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"whole.hdf5", "fuzzed.hdf5", "out"}


def test_the_command_line(built: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["convert", "lerobot", str(built), str(tmp_path / "v30")])
    assert done.exit_code == 0 and "3 episodes, 26 frames" in done.stdout
    file = write_robomimic(tmp_path / "can.hdf5", {"demo_0": 4})
    done = run(app, ["convert", "robomimic", str(file), str(tmp_path / "can"), "--state", "object, robot0_eef_pos"])
    assert done.exit_code == 0 and "1 episode, 4 frames" in done.stdout
    assert read_dataset(tmp_path / "can").feature("observation.state").shape[1] == 13
    again = run(app, ["convert", "lerobot", str(tmp_path / "v30"), str(tmp_path / "v31")])
    assert isinstance(again.exception, InputError) and "no conversion is needed" in str(again.exception)
