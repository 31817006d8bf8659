"""Features by role: what is read has to be right, and what is not read may be anything."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import hf_ptr, the_line
from data_helpers import coded_table, vector, write_v21
from spoiling import edit_feature, edit_rows, set_row

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.features import classify_features, component_names, derived_roles, feature_text
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import DataWarning, InputError

LENGTHS = [8, 3, 11]
FRAMES = sum(LENGTHS)
DATA = "data/chunk-000/file-000.parquet"
STATE, ACTION = "observation.state", "action"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_table(coded_table(LENGTHS), tmp_path / "set")


def add(root: Path, name: str, column: Any, **feature: Any) -> None:
    """Add a feature, whatever its column holds."""
    stored = pq.read_table(root / DATA)
    pq.write_table(stored.append_column(name, column), root / DATA)
    edit_feature(name, **feature)(root)


def rename(root: Path, names: dict[str, str]) -> None:
    stored = pq.read_table(root / DATA)
    pq.write_table(stored.rename_columns([names.get(name, name) for name in stored.column_names]), root / DATA)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] = {names.get(name, name): value for name, value in info["features"].items()}
    (root / "meta/info.json").write_text(json.dumps(info))


NULLS = pa.array([None] * 11 + [[0.5, 0.5]] * 11, pa.list_(pa.float32()))
RAGGED = pa.array([[0.0] * (1 + row % 3) for row in range(FRAMES)])
UNUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "nan": (pa.array([[np.nan] * 2] * FRAMES), {"dtype": "float32", "shape": [2]}),
    "null": (NULLS, {"dtype": "float32", "shape": [2]}),
    "all null": (pa.nulls(FRAMES), {"dtype": "bool", "shape": [1]}),
    "ragged": (RAGGED, {"dtype": "float32", "shape": [3]}),
    "text in numbers": (pa.array(["1"] * FRAMES), {"dtype": "int64", "shape": [1]}),
    "struct": (pa.array([{"x": 1}] * FRAMES), {"dtype": "float32", "shape": [1]}),
    "no shape": (pa.array([1] * FRAMES), {"dtype": "bool"}),
    "no dtype": (pa.array([1] * FRAMES), {"shape": [1]}),
    "unknown dtype": (pa.array([1] * FRAMES), {"dtype": "pointcloud", "shape": [1]}),
    "open shape": (pa.array([[1]] * FRAMES), {"dtype": "int64", "shape": [None]}),
    "wide": (pa.array([[1]] * FRAMES), {"dtype": "uint8", "shape": [480, 640, 3]}),
    "text": (pa.array(["hello"] * FRAMES), {"dtype": "string", "shape": [1]}),
}


@pytest.mark.parametrize("kind", UNUSED)
def test_a_feature_that_is_not_read_may_be_anything(root: Path, kind: str) -> None:
    column, feature = UNUSED[kind]
    add(root, "extra", column, **feature)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_dataset(root, features=[STATE, ACTION])
    np.testing.assert_array_equal(table.columns[STATE], coded_table(LENGTHS).columns[STATE])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        everything = read_dataset(root)
    ChunkDataset(everything, chunk_size=2, target_offset=2)
    found = validate_dataset(root)
    assert found.usable and found.errors == [], found.errors
    # Used, it is refused with the reason in one line.
    with pytest.raises(InputError, match="extra") as caught:
        read_dataset(root, features=["extra"]).require_finite(["extra"])
    with pytest.raises(InputError, match="extra"):
        everything.require_finite(["extra"])
    assert "\n" not in str(caught.value)
    used = validate_dataset(root, features=["extra"])
    assert kind in ("no shape", "no dtype", "unknown dtype", "open shape", "wide", "text") or not used.usable


def test_each_feature_is_classified_once_with_the_reason() -> None:
    info = {
        "features": {
            "action": {"dtype": "float32", "shape": [7]},
            "pose": {"dtype": "float64", "shape": [2, 7]},
            "scalar": {"dtype": "bool", "shape": []},
            "index": {"dtype": "int64", "shape": [1]},
            "front": {"dtype": "video", "shape": [48, 64, 3]},
            "depth": {"dtype": "video", "shape": [48, 64, 3], "info": {"video.is_depth_map": True}},
            "note": {"dtype": "string", "shape": [1]},
            "grid": {"dtype": "float32", "shape": [100, 100]},
            "broken": 3,
        }
    }
    found = {name: str(kind) for name, kind in classify_features(info).items()}
    assert found == {
        "action": "vector of 7",
        "pose": "vector of 14",
        "scalar": "vector of 1",
        "index": "index",
        "front": "camera",
        "depth": "left out, because it is a depth map",
        "note": "left out, because it is text",
        "grid": "left out, because it has 10000 numbers per frame, more than 4096",
        "broken": "left out, because meta/info.json gives no dtype",
    }


def test_an_array_of_two_dimensions_is_flattened_row_by_row(root: Path) -> None:
    values = np.arange(FRAMES * 6, dtype=np.float32).reshape(FRAMES, 2, 3)
    add(root, "pose", pa.array(values.tolist()), dtype="float32", shape=[2, 3], names=["arm", "joint"])
    fixed = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3), 2)
    add(root, "fixed", fixed, dtype="float32", shape=[2, 3], names=[["a", "b", "c"], ["d", "e", "f"]])
    table = read_dataset(root, [2, 0])
    wanted = np.concatenate([values[11:], values[:8]]).reshape(-1, 6)
    for name in ("pose", "fixed"):
        np.testing.assert_array_equal(table.columns[name], wanted)
        assert table.features[name]["shape"] == [6]
    assert table.features["fixed"]["names"] == list("abcdef") and table.features["pose"]["names"] is None
    chunks = ChunkDataset(table, chunk_size=2, target_offset=2, observation_features=["pose"], state_feature="fixed")
    np.testing.assert_array_equal(chunks[11]["observation"].numpy(), values[0].ravel())


def test_the_arrays_that_datasets_writes_are_read(tmp_path: Path) -> None:
    import datasets

    root = write_table(coded_table([4]), tmp_path / "set")
    values = np.arange(4 * 6, dtype=np.float32).reshape(4, 2, 3)
    made = datasets.Dataset.from_dict(
        {"pose": values}, features=datasets.Features({"pose": datasets.Array2D((2, 3), "float32")})
    )
    add(root, "pose", made.data.table.column("pose"), dtype="float32", shape=[2, 3])
    np.testing.assert_array_equal(read_dataset(root).columns["pose"], values.reshape(4, 6))


@pytest.mark.parametrize(
    ("names", "shape", "found"),
    [
        (["a", "b"], [2], ["a", "b"]),
        ([["a", "b"]], [2], ["a", "b"]),
        ({"motors": ["a", "b"]}, [2], ["a", "b"]),
        ({"b": 1, "a": 0}, [2], ["a", "b"]),
        (["arm", "joint"], [2, 3], None),
        (None, [2], None),
        ("ab", [2], None),
    ],
)
def test_names_of_dimensions(names: Any, shape: list[int], found: list[str] | None) -> None:
    assert component_names({"names": names, "shape": shape}) == found


# --- state and action ---


@pytest.mark.parametrize(
    ("features", "roles"),
    [
        (["state", "actions"], {STATE: ["state"], ACTION: ["actions"]}),
        (
            ["observation.states.joint", "actions.joint", "observation.states.gripper", "actions.gripper"],
            {
                STATE: ["observation.states.joint", "observation.states.gripper"],
                ACTION: ["actions.joint", "actions.gripper"],
            },
        ),
        # Present roles are left alone, and two readings are none.
        ([STATE, "state", ACTION, "actions"], {}),
        (["state", "observation.states.joint", "actions"], {ACTION: ["actions"]}),
        (["joint_position", "gripper_position", "actions"], {ACTION: ["actions"]}),
    ],
)
def test_the_state_and_the_action_under_other_names(features: list[str], roles: dict[str, list[str]]) -> None:
    info = {"features": {name: {"dtype": "float32", "shape": [2]} for name in features}}
    assert derived_roles(info) == roles


def test_a_flag_is_not_part_of_an_action() -> None:
    info = {"features": {"actions.arm": vector(2), "actions.is_pad": vector(1, "bool")}}
    assert derived_roles(info) == {ACTION: ["actions.arm"]}


def test_foreign_names_are_taken_with_a_warning_by_every_command(root: Path, tmp_path: Path) -> None:
    rename(root, {STATE: "state", ACTION: "actions"})
    wanted = coded_table(LENGTHS)
    with pytest.warns(DataWarning) as seen:
        table = read_dataset(root)
    assert [str(each.message).partition(": ")[2] for each in seen] == [
        "observation.state is missing; taken from state",
        "action is missing; taken from actions",
    ]
    for name in (STATE, ACTION):
        np.testing.assert_array_equal(table.feature(name), wanted.columns[name])
    assert table.features[ACTION]["names"] == ["x0", "x1", "x2", "x3"]
    # Named, they need no warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = read_dataset(root, features=["state", "actions"])
        assert set(named.columns) == {"state", "actions"}
    shown = hf_ptr("validate", root)
    assert shown.returncode == 0 and "action is missing; taken from actions" in shown.stdout
    edit_rows(DATA, "actions", set_row(9, [np.nan, 0, 0, 0]))(root)
    bad = validate_dataset(root)
    assert [(each.episode, each.frame) for each in bad.errors] == [(1, 1)]


def joined(table: EpisodeTable, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([table.columns[name] for name in names], axis=1)


def test_several_features_are_one_state_in_the_order_given(root: Path, tmp_path: Path) -> None:
    grip = np.arange(FRAMES, dtype=np.float32)
    add(root, "gripper", pa.array(grip), dtype="float32", shape=[1], names=["grip"])
    state = feature_text(["gripper", STATE])
    assert state == f"gripper,{STATE}"
    for spill in (None, tmp_path):
        read = read_dataset(root, features=[state, ACTION], spill_dir=spill)
        assert set(read.columns) == {state, ACTION}
        everything = read_dataset(root)
        np.testing.assert_array_equal(read.feature(state), joined(everything, ["gripper", STATE]))
        np.testing.assert_array_equal(everything.feature(state), read.feature(state))
    assert read.features[state] == {"dtype": "float32", "shape": [4], "names": ["grip", "x0", "x1", "x2"]}
    chunks = ChunkDataset(read, chunk_size=2, target_offset=2, observation_features=[state], state_feature=state)
    assert chunks[3]["state"].tolist() == [3.0, *coded_table(LENGTHS).columns[STATE][3].tolist()]
    with pytest.raises(InputError, match=r"no numeric feature 'griper' .*Did you mean 'gripper'"):
        everything.feature(f"griper,{STATE}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"dataset: {root}\noutput_dir: {tmp_path / 'run'}\nstate_feature: [gripper, {STATE}]\n"
        f"observation_features: [{STATE}]\nmax_steps: 1\nalpha: 0\nchunk_size: 2\nn_action_steps: 2\n"
        "target_offset: 2\nbelief_tokens: 0\nsegment_chunks: 1\nper_device_train_batch_size: 2\nwarmup_steps: 0\n"
    )
    shown = hf_ptr("train", recipe, "--dry-run")
    assert shown.returncode == 0, shown.stderr


def test_an_earlier_state_by_role_and_an_earlier_action_never(root: Path) -> None:
    rename(root, {STATE: "state"})
    table = read_dataset(root, features=["state", ACTION])
    earlier = table.feature("state@-2")
    np.testing.assert_array_equal(earlier[2:8], table.columns["state"][:6])
    with pytest.raises(InputError, match="no numeric feature 'action@-2'"):
        table.feature("action@-2")


def test_an_earlier_action_is_refused_by_its_role(root: Path) -> None:
    rename(root, {ACTION: "cmd"})
    table = read_dataset(root, features=[STATE, "cmd"])
    for features, state, action in (
        ([STATE, "cmd@-1"], STATE, "cmd"),
        ([f"{STATE}, cmd@-1"], STATE, "cmd"),
        ([STATE], "cmd@-3", "cmd"),
        ([STATE, "cmd@-1"], STATE, f"{STATE}, cmd"),
    ):
        with pytest.raises(InputError, match=r"'cmd@-\d' is an earlier action.*'cmd' is the action feature"):
            ChunkDataset(
                table, chunk_size=2, observation_features=features, state_feature=state, action_feature=action
            )
    # The same feature is an observation where another one is the action.
    ChunkDataset(table, chunk_size=2, observation_features=["cmd@-1"], action_feature=STATE)


def test_a_nan_in_a_feature_that_is_used_names_every_episode(root: Path) -> None:
    edit_rows(DATA, ACTION, lambda v: [[np.nan] * 4 if row in (4, 12) else each for row, each in enumerate(v)])(root)
    table = read_dataset(root)
    with pytest.raises(InputError, match=r"'action' .* is NaN or infinite in episode 0, frame 4") as caught:
        ChunkDataset(table, chunk_size=2, target_offset=2)
    assert caught.value.skip == (0, 2)
    line = the_line(hf_ptr("score", root, "--out", root.parent / "scores.parquet"))
    assert "frame 4" in line and "--skip-episodes 0,2" in line


def test_the_digest_tells_a_frozen_camera_from_a_moving_one() -> None:
    from dataclasses import replace

    table = coded_table([6, 5])
    frozen = table.video_frame.copy()
    frozen[3:6] = 3
    assert data_digest(replace(table, video_frame=frozen)) != data_digest(table)
    assert data_digest(replace(table, video_frame=table.frame_index)) == data_digest(table)


def test_a_v21_dataset_has_the_same_roles(tmp_path: Path) -> None:
    table = coded_table(LENGTHS)
    table.columns["actions"] = table.columns.pop(ACTION)
    table.features["actions"] = table.features.pop(ACTION)
    root = write_v21(table, tmp_path / "v21")
    with pytest.warns(DataWarning, match="action is missing; taken from actions"):
        read = read_dataset(root, [1])
    np.testing.assert_array_equal(read.feature(ACTION), table.columns["actions"][8:11])
