"""Validation lists all problems with their location, and training on unusable data is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_helpers import coded_image, coded_table, snapshot, with_camera, write_lines, write_v21, write_video
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spoiling import Spoil, cut_rows, damage, edit_feature, edit_info, edit_rows, link, remove, set_row, write
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.errors import InputError

LENGTHS = [8, 5, 11]
CAMERA = "observation.images.top"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
DATA_1 = "data/chunk-000/episode_000001.parquet"
VIDEO, VIDEO_1 = f"videos/{CAMERA}/chunk-000/file-000.mp4", f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
NAN = float("nan")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same episodes as v2.1 and v3.0, with a video."""
    root = tmp_path_factory.mktemp("validation")
    v21 = write_v21(with_camera(coded_table(LENGTHS), CAMERA), root / "v21")
    return {"v2.1": v21, "v3.0": convert_lerobot(v21, root / "v30")}


def lines(root: Path, **arguments: Any) -> list[str]:
    return [str(problem) for problem in validate_dataset(root, **arguments).problems]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_good_dataset_has_no_problem(folders: dict[str, Path], version: str) -> None:
    before = snapshot(folders[version])
    found = validate_dataset(folders[version])
    assert found.problems == [] and found.usable
    assert (found.episodes, found.frames, found.cameras) == (3, sum(LENGTHS), (CAMERA,))
    assert snapshot(folders[version]) == before


def several(*spoils: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        for each in spoils:
            each(root)

    return spoil


def times(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def changed(values: list[float]) -> list[float]:
        return change(np.array(values)).astype(np.float32).tolist()

    return edit_rows(file, "timestamp", changed)


def video(length: int, fps: int = 20, size: tuple[int, int] = (32, 48), episode: int = 1) -> Spoil:
    images = [coded_image(episode, frame, size) for frame in range(length)]
    return lambda root: write_video(root / VIDEO_1, images, fps)


def constant(values: list[Any]) -> list[Any]:
    return [[*row[:-1], 0.5] for row in values]


def swapped(root: Path) -> None:
    """Rows of episode 1 in another order."""
    table = pq.ParquetFile(root / DATA_1).read()
    pq.write_table(table.take([1, 0, 2, 3, 4]), root / DATA_1)


def listed_twice(root: Path) -> None:
    records = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    write_lines(root / "meta/episodes.jsonl", [*records, records[1]])


def stray(root: Path) -> None:
    """A v3.0 row of episode 2 labelled as episode 0."""
    edit_rows(DATA, "episode_index", set_row(20, 0))(root)


# Version, damage, and the expected lines in order, each a regular expression.
MALFORMED: list[tuple[str, Spoil, list[str]]] = [
    ("v2.1", remove("meta/info.json"), ["error: .*is not a LeRobotDataset: meta/info.json is missing"]),
    ("v2.1", write("meta/info.json", "{"), ["error: meta/info.json is not valid JSON"]),
    ("v2.1", edit_info(fps=-3), ["error: meta/info.json: fps is -3"]),
    ("v2.1", edit_info(codebase_version="v1.6"), ["codebase_version 'v1.6' is older than v2.0"]),
    ("v2.1", edit_info(data_path="../{episode_index}"), ["'../{episode_index}' leaves the dataset's folder"]),
    ("v2.1", edit_info(video_path="/tmp/{video_key}"), ["video_path '/tmp/{video_key}' leaves the dataset's folder"]),
    ("v2.1", edit_info(video_path=None), ["camera 'observation.images.top': .*video_path None is not a template"]),
    ("v2.1", edit_info(total_frames=99), ["meta/info.json has total_frames 99, the episodes' metadata 24"]),
    (
        "v2.1",
        edit_info(total_frames=99, total_episodes=2),
        ["total_episodes 2, the episodes' metadata 3", "total_frames 99"],
    ),
    ("v2.1", edit_info(fps=50), [
        "episode 0: fps mismatch: timestamps give 20 frames per second, info.json 50",
        "episode 1: fps mismatch: timestamps", "episode 2: fps mismatch: timestamps",
        r"episode 0: fps mismatch: videos/\S+ has 20 frames per second, info.json 50",
        r"episode 1: fps mismatch: videos", r"episode 2: fps mismatch: videos",
    ]),
    ("v2.1", listed_twice, ["episode 1: the metadata list episode 1 twice", "total_episodes 3", "total_frames 24"]),
    ("v2.1", remove("meta/episodes.jsonl"), ["meta/episodes.jsonl is missing"]),
    ("v2.1", write("meta/tasks.jsonl", '{"task_index": 0, "task": "a"}'), [
        "error: episode 1, frame 0: task_index 1 is not in the metadata",
        "error: episode 2, frame 0: task_index 2 is not in the metadata",
    ]),
    ("v2.1", remove(DATA_1), [f"error: episode 1: {DATA_1} is missing"]),
    ("v2.1", damage(DATA_1, 300), [f"error: episode 1: {DATA_1} is damaged"]),
    ("v2.1", cut_rows(DATA_1, 3), [f"error: episode 1: {DATA_1}: episode 1 has 3 rows, its metadata list 5"]),
    ("v2.1", swapped, ["error: episode 1: .*out of order: frame_index is wrong in its row 0"]),
    ("v2.1", edit_rows(DATA_1, "action", set_row(3, [NAN] * 4)), [
        "error: episode 1, frame 3: feature 'action' is NaN or infinite$",
    ]),
    ("v2.1", edit_rows(DATA_1, "action", lambda v: [[NAN] * 4] * len(v)), [
        r"error: episode 1, frame 0: feature 'action' is NaN or infinite \(5 frames in total\)",
    ]),
    ("v2.1", edit_rows(DATA_1, "action", set_row(2, None)), ["error: episode 1, frame 2: .* has a missing value"]),
    ("v2.1", edit_rows(DATA_1, "action", lambda _: None), ["error: episode 1: .* lacks the column 'action'"]),
    ("v2.1", edit_rows(DATA_1, "task_index", lambda _: None), [
        "warning: column 'task_index' is missing; derived from the task of each episode",
    ]),
    ("v2.1", edit_rows(DATA_1, "index", lambda _: list(range(5))), ["warning: column 'index' repeats a value"]),
    ("v2.1", edit_rows(DATA_1, "timestamp", lambda _: None), ["warning: column 'timestamp' is missing"]),
    ("v2.1", times(DATA_1, lambda t: t[[0, 1, 3, 2, 4]]), [
        "error: episode 1, frame 3: timestamps are out of order",
    ]),
    ("v2.1", times(DATA_1, lambda t: np.where(np.arange(5) == 4, NAN, t)), [
        "warning: episode 1, frame 4: timestamp is NaN",
        f"warning: episode 1, frame 4: LeRobot refuses rows of {CAMERA!r}: they have no time",
    ]),
    ("v2.1", times(DATA_1, lambda t: 2 * t), ["episode 1: fps mismatch: timestamps give 10 frames"]),
    ("v2.1", times(DATA_1, lambda t: t + (t > 0.12) * 0.04), [
        "note: episode 1, frame 3: timestamps drift up to 0.8 frames from frame / fps",
        f"warning: episode 1, frame 3: LeRobot refuses rows of {CAMERA!r}: their times are up to 0.04 s away",
    ]),
    ("v2.1", several(*(
        edit_rows(f"data/chunk-000/episode_00000{number}.parquet", "action", constant) for number in range(3)
    )), ["note: feature 'action' never changes in dimension 3$"]),
    ("v2.1", edit_feature("action", shape=[5]), [f"error: episode {n}, frame 0: .*has 4 values" for n in range(3)]),
    ("v2.1", remove(VIDEO_1), [f"error: episode 1: {VIDEO_1} is missing"]),
    ("v2.1", write(VIDEO_1, "no video"), [f"error: episode 1: {VIDEO_1} cannot be read as a video"]),
    ("v2.1", damage(VIDEO_1, 600), ["error: episode 1: .* cannot be read as a video"]),
    ("v2.1", video(3), [
        f"error: episode 1, frame 3: {VIDEO_1} is shorter than the table: it has 3 frames of the episode's 5",
    ]),
    ("v2.1", video(7), [f"warning: episode 1: {VIDEO_1} has 7 frames, the table 5"]),
    ("v2.1", video(5, fps=30), ["error: episode 1: fps mismatch: .* has 30 frames per second, info.json 20"]),
    ("v2.1", link(VIDEO_1), [f"error: camera '{CAMERA}': {VIDEO_1} is a link out of the dataset's folder"]),
    ("v3.0", link("videos"), [f"error: camera '{CAMERA}': {VIDEO} is a link out of the"]),
    ("v2.1", edit_feature("../../etc", dtype="video", shape=[32, 48, 3]), ["{video_key}/.* leaves the dataset's"]),
    ("v2.1", edit_info(video_path="s3://bucket/{video_key}.mp4"), ["leaves the dataset's folder"]),
    ("v2.1", video(5, size=(16, 48)), [f"warning: {VIDEO_1} is 16 x 48, info.json has"]),
    ("v3.0", edit_rows(EPISODES, "length", lambda _: [8, 5, 12]), [
        "total_frames 24, the episodes' metadata 25", "error: episode 2: .*has 11 rows, its metadata list 12",
        f"warning: {VIDEO} has 24 frames, the table 25; frames are chosen by time$",
        "error: episode 2, frame 11: .* is shorter than the table: it has 11 frames of the episode's 12",
    ]),
    ("v3.0", edit_rows(EPISODES, "length", lambda _: [8, 0, 11]), [
        "warning: episode 1 has no frames in the metadata, and is left out", "warning: .*total_frames 24",
        f"warning: {VIDEO} has 24 frames, the table 19",
    ]),
    ("v3.0", stray, [
        "episode 0: .*the rows of episode 0 are not adjacent", "episode 2: .*2 are not adjacent",
        # For the only remaining episode.
        "note: feature 'observation.state' never changes in dimension 0", "note: feature 'action' .* 0$",
    ]),
    ("v3.0", edit_rows(EPISODES, f"videos/{CAMERA}/from_timestamp", lambda _: None), [
        f"error: camera '{CAMERA}': .* lacks the column",
    ]),
    ("v3.0", edit_rows(EPISODES, f"videos/{CAMERA}/from_timestamp", set_row(2, -1.0)), [
        f"error: camera '{CAMERA}': the video .* of episode 2 starts at -1.0 seconds, out of range",
    ]),
    ("v3.0", edit_rows(EPISODES, f"videos/{CAMERA}/file_index", set_row(1, 4)), [
        f"warning: {VIDEO} has 24 frames, the table 19; frames are chosen by time$",
        "error: episode 1: videos/.*file-004.mp4 is missing",
    ]),
    ("v3.0", edit_rows(DATA, "action", set_row(9, None)), ["error: episode 1, frame 1: .* has a missing value"]),
    ("v3.0", several(
        edit_rows(DATA, "action", set_row(9, [NAN, 0, 0, 0])),
        edit_rows(DATA, "observation.state", set_row(23, [0, NAN, 0])),
        edit_rows(DATA, "task_index", set_row(0, 8)),
    ), [
        "error: episode 0, frame 0: task_index 8", "error: episode 2, frame 10: feature 'observation.state'",
        "error: episode 1, frame 1: feature 'action'",
    ]),
    ("v3.0", remove(VIDEO), [f"error: episode {n}: {VIDEO} is missing" for n in range(3)]),
]  # fmt: skip


@pytest.mark.parametrize(("version", "spoil", "expected"), MALFORMED, ids=range(len(MALFORMED)))
def test_each_malformed_dataset_gives_the_right_lines(
    folders: dict[str, Path], tmp_path: Path, version: str, spoil: Spoil, expected: list[str]
) -> None:
    root = Path(shutil.copytree(folders[version], tmp_path / "spoilt"))
    spoil(root)
    before = snapshot(tmp_path)
    found = lines(root)
    assert len(found) == len(expected), found
    for line, wanted in zip(found, expected, strict=True):
        assert re.search(wanted, line), (line, wanted)
        assert "\n" not in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_that_is_too_short_is_found_in_each_camera(tmp_path: Path, version: str) -> None:
    front, wrist = "observation.images.front", "observation.images.wrist"
    table = with_camera(coded_table(LENGTHS), front)
    table.features[wrist] = table.features[front]
    root = write_v21(table, tmp_path / "v21")
    if version == "v3.0":
        root = convert_lerobot(root, tmp_path / "v30")
        # In a file with several episodes, only the last one can be too short.
        places = {name: f"videos/{name}/chunk-000/file-000.mp4" for name in (front, wrist)}
        expected = [(front, 2, LENGTHS[2] - 2), (wrist, 2, LENGTHS[2] - 1)]
    else:
        places = {
            front: f"videos/chunk-000/{front}/episode_000002.mp4",
            wrist: f"videos/chunk-000/{wrist}/episode_000001.mp4",
        }
        expected = [(front, 2, LENGTHS[2] - 2), (wrist, 1, LENGTHS[1] - 1)]
    for (name, episode, _), less in zip(expected, (2, 1), strict=True):
        frames = [
            (e, f) for e, length in enumerate(LENGTHS) for f in range(length) if version == "v3.0" or e == episode
        ]
        write_video(root / places[name], [coded_image(e, f, (32, 48)) for e, f in frames[:-less]], 20)
    found = validate_dataset(root)
    assert [(problem.episode, problem.frame) for problem in found.errors] == [place[1:] for place in expected]
    # The other episodes of a file are read by time.
    assert len(found.problems) == len(found.errors) + (2 if version == "v3.0" else 0)
    for problem, (name, _, _) in zip(found.errors, expected, strict=True):
        assert re.search(rf"{name}/.* is shorter than the table", problem.message)


# --- training ---


def test_training_is_refused_with_the_episodes_to_skip(folders: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(folders["v3.0"], tmp_path / "spoilt"))
    edit_rows(DATA, "action", set_row(9, [NAN, 0, 0, 0]))(root)
    times(DATA, lambda t: np.where(np.arange(24) == 20, 0, t))(root)
    with pytest.raises(InputError, match=r"frame 7: timestamps .*\(and 1 more; .*leave 3 episodes out") as caught:
        require_usable(validate_dataset(root), skip=[0])
    assert "\n" not in str(caught.value)
    assert validate_dataset(root, skip=[1, 2]).usable and validate_dataset(root, episodes=[0]).usable
    assert read_dataset(root, skip=[1, 2]).episode_index.tolist() == [0]
    with pytest.raises(InputError, match="episode 2, frame 7: timestamps are out of order"):
        read_dataset(root, skip=[1])
    with pytest.raises(InputError, match="has no episode 7 to skip"):
        read_dataset(root, skip=[7])


def test_a_skipped_episode_may_have_any_damage(folders: dict[str, Path], tmp_path: Path) -> None:
    spoils = {
        "v2.1": [remove(DATA_1), damage(DATA_1, 300), listed_twice, edit_rows(DATA_1, "action", lambda _: None)],
        "v3.0": [
            edit_rows(DATA, "action", set_row(9, [NAN] * 4)),
            edit_rows(DATA, "action", set_row(9, None)),
        ],
    }
    for version, each in spoils.items():
        for number, spoil in enumerate(each):
            root = Path(shutil.copytree(folders[version], tmp_path / f"{version}-{number}"))
            spoil(root)
            info = json.loads((root / "meta/info.json").read_text())
            edit_info(**{key: ... for key in info if key.startswith("total_")})(root)
            assert validate_dataset(root).skippable == [1]
            assert validate_dataset(root, skip=[1]).usable
            assert read_dataset(root, skip=[1]).episode_index.tolist() == [0, 2]


def test_damaged_videos_do_not_stop_a_run_on_vectors(folders: dict[str, Path], tmp_path: Path) -> None:
    whole = read_dataset(folders["v3.0"])
    for number, spoil in enumerate([
        edit_rows(EPISODES, f"videos/{CAMERA}/from_timestamp", lambda _: None),
        edit_rows(EPISODES, f"videos/{CAMERA}/chunk_index", set_row(0, None)),
        remove(VIDEO), edit_info(video_path=None),
    ]):  # fmt: skip
        root = Path(shutil.copytree(folders["v3.0"], tmp_path / str(number)))
        spoil(root)
        table = read_dataset(root)
        np.testing.assert_array_equal(table.feature("action"), whole.feature("action"))
        assert not validate_dataset(root).usable
        assert validate_dataset(root, cameras=()).usable


def test_a_recipe_trains_on_the_remaining_episodes(folders: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(folders["v2.1"], tmp_path / "spoilt"))
    remove(DATA_1)(root)
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "vla" / "metaworld_state" / "sft.yaml"
    features = "observation_features=[observation.state]"
    arguments = ["train", str(recipe), f"dataset={root}", f"output_dir={tmp_path / 'out'}", features, "max_steps=2",
                 "corruption=clean", "per_device_train_batch_size=4", "chunk_size=4", "n_action_steps=2",
                 "disable_tqdm=true"]  # fmt: skip
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, InputError) and not (tmp_path / "out").exists()
    assert "is missing; fix the dataset, or leave this episode out" in str(refused.exception)
    trained = CliRunner().invoke(app, [*arguments, "skip_episodes=1"])
    assert trained.exit_code == 0, trained.exception
    assert (tmp_path / "out" / "train_results.json").is_file()


# --- the command line ---


def test_the_command_prints_lines_or_json_and_ends_with_2(folders: dict[str, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    good = run(app, ["validate", str(folders["v2.1"])])
    assert good.exit_code == 0 and "is usable: 3 episodes, 24 frames, 1 camera; 0 errors, 0 warnings\n" in good.stdout
    root = Path(shutil.copytree(folders["v2.1"], tmp_path / "spoilt"))
    video(3)(root)
    before = snapshot(root)
    bad = run(app, ["validate", str(root)])
    assert bad.exit_code == 2 and "error: episode 1, frame 3: " in bad.stdout
    assert 'skip_episodes: "1"' in bad.stdout
    listed = run(app, ["validate", str(root), "--json"])
    found = json.loads(listed.stdout)
    assert listed.exit_code == 2 and found["usable"] is False and found["skip_episodes"] == [1]
    (problem,) = found["problems"]
    assert (problem["severity"], problem["episode"], problem["frame"]) == ("error", 1, 3)
    assert snapshot(root) == before
    assert run(app, ["validate", str(tmp_path / "none")]).exit_code == 2


# --- fuzzing ---

FUZZED = {
    "v3.0": ["meta/info.json", "meta/tasks.parquet", EPISODES, DATA, VIDEO],
    "v2.1": ["meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", DATA_1, VIDEO_1],
}


@settings(max_examples=60, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from([(version, name) for version, names in FUZZED.items() for name in names]),
    place=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=12),
    cut=st.booleans(),
)
# Bytes that are not valid UTF-8.
@example(which=("v3.0", "meta/tasks.parquet"), place=0.078125, junk=b"\x80", cut=False)
def test_damaged_bytes_are_listed_and_never_a_traceback(
    folders: dict[str, Path], tmp_path: Path, which: tuple[str, str], place: float, junk: bytes, cut: bool
) -> None:
    version, name = which
    root = tmp_path / version
    if not root.exists():
        shutil.copytree(folders[version], root)
    original = (folders[version] / name).read_bytes()
    start = int(place * len(original))
    (root / name).write_bytes(original[:start] + junk + (b"" if cut else original[start + len(junk) :]))
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    found = validate_dataset(root)
    assert all("\n" not in str(problem) for problem in found.problems)
    if found.usable:
        assert read_dataset(root).num_frames == sum(LENGTHS)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == names
    (root / name).write_bytes(original)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_in_the_metadata_is_listed_and_never_a_traceback(
    folders: dict[str, Path], tmp_path: Path, data: st.DataObject
) -> None:
    root = tmp_path / "v2.1"
    if not root.exists():
        shutil.copytree(folders["v2.1"], root)
    name = data.draw(st.sampled_from(["meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl"]))
    original = (folders["v2.1"] / name).read_text()
    records = [json.loads(line) for line in original.splitlines()] if name.endswith("l") else [json.loads(original)]
    record = data.draw(st.sampled_from(records))
    if name == "meta/info.json" and data.draw(st.booleans()):
        record = record["features"][data.draw(st.sampled_from(sorted(record["features"])))]
    record[data.draw(st.sampled_from(sorted(record)))] = data.draw(ANYTHING)
    (root / name).write_text("\n".join(json.dumps(each) for each in records))
    found = validate_dataset(root)
    assert all("\n" not in str(problem) for problem in found.problems)
    (root / name).write_text(original)
