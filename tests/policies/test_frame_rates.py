"""A policy keeps the frame rate of its training data, and data of another rate are refused or warned of."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest

from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import read_weights, score_frame, write_scores
from hf_ptr.envs.registry import get_simulator
from hf_ptr.errors import DataWarning, InputError
from hf_ptr.evaluation.compatibility import matching_control
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.policies import policy_from_dataset
from hf_ptr.runs import build
from hf_ptr.runs.recipe import load_recipe


@pytest.fixture(scope="module")
def saved(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the dataset's own rate, 80 fps."""
    folder = tmp_path_factory.mktemp("saved")
    table = read_dataset(metaworld_dataset)
    policy, processor = policy_from_dataset(table, observation_features=["observation.environment_state"])
    assert policy.config.fps == table.fps == 80.0
    for part in (policy, processor):
        part.save_pretrained(folder)
    return folder


def at(table: Any, fps: float) -> Any:
    return dataclasses.replace(table, fps=fps)


def test_a_policy_is_evaluated_at_its_own_rate(saved: Path, metaworld_dataset: Path) -> None:
    table = read_dataset(metaworld_dataset).select([0])
    with pytest.raises(InputError, match=r"was trained at 80 fps, and .* has 10 fps: .* use data of 80 fps"):
        evaluate_dataset(saved, at(table, 10.0))
    # 29.97 and 30 frames per second, for example, are one rate.
    assert len(evaluate_dataset(saved, at(table, 79.92)).policy) == 1


def test_a_simulator_of_another_rate_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = get_simulator("metaworld", None)
    monkeypatch.setattr(type(simulator), "frame_rates", (20.0, 10.0))
    with pytest.raises(InputError, match="was trained at 80 fps, but Meta-World runs at 20 fps"):
        matching_control(simulator, saved, [], None)


def test_training_that_continues_at_another_rate_gives_a_warning(
    saved: Path, metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"dataset: {metaworld_dataset}\npolicy: {saved}\noutput_dir: {tmp_path / 'run'}\nalpha: 0.0\n")
    select = build.select_episodes
    for fps, expected in ((80.0, 0), (60.0, 1)):

        def selected(*args: Any, fps: float = fps) -> Any:
            found = select(*args)
            return dataclasses.replace(found, train=at(found.train, fps), whole=at(found.whole, fps))

        monkeypatch.setattr(build, "select_episodes", selected)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            inputs = build.read_inputs(load_recipe(file))
        texts = [str(each.message) for each in caught if "was trained at 80 fps" in str(each.message)]
        assert len(texts) == expected and all("at 60 fps" in text for text in texts)
        # Its actions are those of the new data from here on.
        assert inputs.policy.config.fps == fps


def test_weights_made_at_another_rate_are_refused(metaworld_dataset: Path, tmp_path: Path) -> None:
    table = read_dataset(metaworld_dataset).select([0])
    rows = score_frame(table, score=0.5, weight=2.0, valid=True, scorer="none")
    file = write_scores(rows, tmp_path / "scores.parquet")
    assert set(read_weights(file, table)) == {2.0}
    with pytest.raises(InputError, match=r"was made at 80 fps, and .* has 40 fps; score this dataset"):
        read_weights(file, at(table, 40.0))
