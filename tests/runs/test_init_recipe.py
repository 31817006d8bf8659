"""`hf-ptr init`: a recipe for datasets of every kind, which passes the dry run and trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import hf_ptr, the_line
from data_helpers import vector, write_v21
from dataset_kinds import reaching, with_cameras
from spoiling import edit_rows, remove, set_row

from hf_ptr.data.action_kind import action_kind
from hf_ptr.data.episode_ids import parse_episodes
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.runs.init_recipe import init_recipe

CAMERA, WRIST, SIDE = (f"observation.images.{name}" for name in ("front", "wrist", "side"))
FILE = "data/chunk-000/episode_{:06d}.parquet"


def trained(data: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    """The recipe of `init`, which has passed the dry run and trained two steps as it stands."""
    shown = hf_ptr("init", data, *options)
    assert shown.returncode == 0 and "hf-ptr: " not in shown.stderr, shown.stderr
    file = tmp_path / "mine.yaml"
    file.write_text(shown.stdout)
    few = ["max_steps=2", "warmup_steps=1", "score_settings=[steps=2, rounds=1]", "disable_tqdm=true"]
    few += [f"output_dir={tmp_path / 'run'}", "per_device_train_batch_size=4", "per_device_eval_batch_size=4"]
    planned = hf_ptr("train", file, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    done = hf_ptr("train", file, *few)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "train_results.json").is_file()
    return yaml.safe_load(shown.stdout)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            reaching(),
            {"relative_actions": True, "chunk_size": 10, "target_offset": 10, "alpha": 0.0, "warmup_steps": 0.05},
        ),
        (reaching(velocities=True), {"relative_actions": False}),
        (reaching(state=3, action=5), {"relative_actions": False, "eval_episodes": "5"}),
        (reaching(fps=10), {"chunk_size": 5, "n_action_steps": 2}),
        (reaching(fps=60, length=90), {"chunk_size": 30, "n_action_steps": 15}),
        (reaching(3), {"eval_episodes": "2"}),
        (reaching(3, 6), {"chunk_size": 3, "target_offset": 3}),
        (reaching(24, 20), {"scoring": "calibrated", "alpha": 1.0, "eval_episodes": "5,15"}),
    ],
    ids=["positions", "velocities", "widths", "10 fps", "60 fps", "3 episodes", "short", "enough for a score"],
)
def test_the_recipe_follows_from_the_data_and_trains(
    table: EpisodeTable, expected: dict[str, Any], tmp_path: Path
) -> None:
    recipe = trained(write_v21(table, tmp_path / "data"), tmp_path)
    assert recipe["observation_features"] == ["observation.state"]
    assert {key: recipe[key] for key in expected} == expected


@pytest.mark.parametrize("cameras", [(CAMERA,), (CAMERA, WRIST, SIDE)], ids=["one", "three"])
def test_cameras_are_observed(cameras: tuple[str, ...], tmp_path: Path) -> None:
    data = write_v21(with_cameras(reaching(4, 12), *cameras), tmp_path / "data")
    recipe = trained(data, tmp_path)
    assert recipe["observation_features"] == list(cameras) and recipe["size"] == "tiny"
    shown = hf_ptr("init", data, "--state-only", "--episodes", "0:3")
    assert f"hf-ptr init {data} --episodes 0:3 --state-only --out {data.name}.yaml" in shown.stderr
    alone = yaml.safe_load(hf_ptr("init", data, "--state-only").stdout)
    assert alone["observation_features"] == ["observation.state"] and "size" not in alone


def test_unusable_episodes_are_left_out_with_the_reason(tmp_path: Path) -> None:
    data = write_v21(with_cameras(reaching(8, 12), CAMERA), tmp_path / "data")
    remove(FILE.format(1))(data)
    edit_rows(FILE.format(6), "observation.state", set_row(3, [float("nan")] * 3))(data)
    remove(f"videos/chunk-000/{CAMERA}/episode_000004.mp4")(data)
    recipe = trained(data, tmp_path)
    assert parse_episodes(recipe["skip_episodes"]) == [1, 4, 6] and recipe["observation_features"] == [CAMERA]
    text = hf_ptr("init", data).stdout
    assert "episode_000001.parquet is missing" in text and "episode_000004.mp4 is missing" in text
    state = yaml.safe_load(hf_ptr("init", data, "--state-only").stdout)
    assert parse_episodes(state["skip_episodes"]) == [1, 6]


def test_comments_tell_chosen_episodes_from_unusable_ones(tmp_path: Path) -> None:
    data = write_v21(reaching(8, 12), tmp_path / "data")

    def comments(*options: str) -> dict[str, str]:
        lines = hf_ptr("init", data, *options).stdout.splitlines()
        return {line.partition(":")[0]: line.partition("  # ")[2] for line in lines}

    assert comments("--skip-episodes", "2")["skip_episodes"] == "--skip-episodes"
    assert comments("--episodes", "0:6")["episodes"] == "--episodes, without those that are held out or left out"
    remove(FILE.format(1))(data)
    assert comments()["skip_episodes"] == "not usable, see above"
    both = comments("--skip-episodes", "2", "--episodes", "0:6")
    assert both["skip_episodes"] == "--skip-episodes, and 1 not usable, see above"
    again = comments("--skip-episodes", "1")
    assert again["skip_episodes"] == "--skip-episodes" and not any("is missing" in line for line in again)


def test_a_camera_without_videos_is_left_out(tmp_path: Path) -> None:
    data = write_v21(with_cameras(reaching(4, 12), CAMERA, WRIST), tmp_path / "data")
    for episode in range(4):
        remove(f"videos/chunk-000/{WRIST}/episode_{episode:06d}.mp4")(data)
    shown = hf_ptr("init", data)
    recipe = yaml.safe_load(shown.stdout)
    assert recipe["observation_features"] == [CAMERA] and "skip_episodes" not in recipe
    assert f"camera {WRIST} is not observed: " in shown.stdout


def test_selected_episodes_and_named_features(tmp_path: Path) -> None:
    table = reaching(8)
    columns = {"arm": table.columns["observation.state"], "cmd": table.columns["action"]}
    other = dataclasses.replace(table, columns=columns, features={name: vector(3) for name in columns})
    data = write_v21(other, tmp_path / "data")
    line = the_line(hf_ptr("init", data))
    assert "observation.state" in line and "name it with --state" in line and "arm (3), cmd (3)" in line
    recipe = trained(data, tmp_path, "--state", "arm", "--action", "cmd", "--episodes", "0:6", "--skip-episodes", "2")
    assert (recipe["state_feature"], recipe["action_feature"]) == ("arm", "cmd")
    assert parse_episodes(recipe["episodes"]) == [0, 1, 3, 4] and recipe["eval_episodes"] == "5"


def test_leaving_episodes_out_holds_out_the_same_ones(tmp_path: Path) -> None:
    data = write_v21(reaching(30, 8), tmp_path / "data")

    def held_out(*options: str) -> str:
        return yaml.safe_load(hf_ptr("init", data, *options).stdout)["eval_episodes"]

    assert held_out() == "5,15,25" == held_out("--skip-episodes", "2,9,11:14,26")
    assert held_out("--skip-episodes", "0,15") == "5,25"
    remove(FILE.format(1))(data)
    assert held_out() == "5,15,25"
    # Of selected episodes every tenth, whatever their ids are.
    assert held_out("--episodes", "10:30", "--skip-episodes", "2,12") == "15,25"
    assert held_out("--episodes", "0:4", "--skip-episodes", "3") == "2"


def test_a_state_and_an_action_in_parts(tmp_path: Path) -> None:
    """As AgiBot writes them: the parts are joined, and a warning says which."""
    table = reaching(4, state=3, action=3)
    joined = {"observation.states": table.columns["observation.state"], "actions": table.columns["action"]}
    columns = {
        f"{name}.{part}": column[:, dims]
        for name, column in joined.items()
        for part, dims in (("joint", slice(0, 2)), ("effector", slice(2, 3)))
    }
    features = {name: vector(column.shape[1]) for name, column in columns.items()}
    data = write_v21(dataclasses.replace(table, columns=columns, features=features), tmp_path / "data")
    recipe = trained(data, tmp_path)
    assert recipe["relative_actions"] is True and recipe["state_feature"] == "observation.state"
    assert "observation.states.joint" in hf_ptr("init", data).stderr
    other = yaml.safe_load(hf_ptr("init", data, "--state", "observation.states.joint").stdout)
    assert other["state_feature"] == "observation.states.joint" and other["relative_actions"] is False


def test_names_that_yaml_would_read_otherwise(tmp_path: Path) -> None:
    data = write_v21(reaching(4), tmp_path / "12: # größe'\"")
    assert yaml.safe_load(init_recipe(str(data)))["dataset"] == str(data)


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    data, out = write_v21(reaching(3), tmp_path / "data"), tmp_path / "mine.yaml"
    assert "hf-ptr train" in hf_ptr("init", data, "--out", out).stdout
    before = out.read_text()
    assert "exists already" in the_line(hf_ptr("init", data, "--out", out)) and out.read_text() == before
    assert "does not exist" in the_line(hf_ptr("init", tmp_path / "none"))


@pytest.mark.parametrize("resting", [1, 3])
def test_resting_joints_bound_the_normalisation(resting: int, tmp_path: Path) -> None:
    table = reaching(4, state=5, action=5)
    state = table.columns["observation.state"]
    state[:, 5 - resting :] *= 1e-2
    text = init_recipe(str(write_v21(table, tmp_path / "data")))
    moving = float(state[:, : 5 - resting].std(axis=0).min())
    assert 0.5 * moving < yaml.safe_load(text)["min_std"] <= moving
    assert f"{resting} of 5 state dimensions rest" in text


def test_tables_are_read_once_for_all_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_v21(with_cameras(reaching(4, 12), CAMERA, WRIST, SIDE), tmp_path / "data")
    opened: list[str] = []

    def counted(path: Path) -> Any:
        opened.append(path.name)
        return open_columns(path)

    monkeypatch.setattr("hf_ptr.data.lerobot.validation.open_columns", counted)
    assert yaml.safe_load(init_recipe(str(data)))["observation_features"] == [CAMERA, WRIST, SIDE]
    assert sorted(opened) == [f"episode_{episode:06d}.parquet" for episode in range(4)]


def test_actions_in_other_units_are_not_positions() -> None:
    for table, is_position in (
        (reaching(), True), (reaching(velocities=True), False), (reaching(action=4), False)
    ):  # fmt: skip
        assert action_kind(table, "observation.state", "action").is_position == is_position
    still = reaching(3)
    still.columns["action"][:] = 0.5
    assert not action_kind(still, "observation.state", "action").is_position
