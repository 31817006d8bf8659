"""Values of recipes as users write them, read as they mean them or refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_ptr.errors import InputError
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.utils.yaml_values import dump_values


def loaded(folder: Path, **given: Any) -> Any:
    path = folder / "recipe.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {"dataset": "d", **given}.items()))
    return load_recipe(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", 1, 1.0),
        ("learning_rate", [0.01], 0.01),
        ("max_steps", "1_000", 1000),
        ("max_steps", 2.0, 2),
        ("max_steps", "1e3", 1000),
        ("max_steps", [7], 7),
        ("seed", None, 42),
        ("seed", 2**31, 2**31),
        ("save_total_limit", None, None),
        ("report_to", None, []),
        ("report_to", ["tensorboard"], ["tensorboard"]),
        ("report_to", "tensorboard", ["tensorboard"]),
        ("use_cpu", "yes", True),
        ("use_cpu", 0, False),
        ("use_scorer", "true", True),
        ("save_strategy", False, "no"),
        ("optim_args", {"rank": 8, "scale": 0.5}, "rank=8,scale=0.5"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}, {"num_cycles": 2}),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("score_settings", "rounds=1", ["rounds=1"]),
        ("run_name", 5, "5"),
        ("eval_steps", "10", 10.0),
    ],
)
def test_a_value_is_read_as_meant(key: str, value: Any, expected: Any, tmp_path: Path) -> None:
    assert getattr(loaded(tmp_path, **{key: value}).training, key) == expected


def test_features_are_names_or_lists_of_them(tmp_path: Path) -> None:
    data = loaded(tmp_path, observation_features="observation.state", state_feature=["state"]).data
    assert (data.observation_features, data.state_feature) == (["observation.state"], "state")
    sources = [{"dataset": "a", "embodiment": "fr3", "weight": 2}]
    path = tmp_path / "sources.yaml"
    path.write_text(f"sources: {json.dumps(sources)}\n")
    assert load_recipe(path).data.sources == sources


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", [1, 2], r"seed: takes one value, and 2 are given: \[1, 2\]"),
        ("learning_rate", [1, 2], "learning_rate: takes one value, and 2 are given"),
        ("learning_rate", True, "learning_rate: invalid float value: 'True'"),
        ("learning_rate", "nan", r"learning_rate: invalid float value: 'nan' \(it must be finite\)"),
        ("learning_rate", {"a": 1}, "learning_rate: invalid float value"),
        ("report_to", ["tensorboard", "none"], "report_to: none and all stand alone, and 2 values are given"),
        ("max_steps", 1.5, "max_steps: invalid int value: '1.5'"),
        ("max_steps", "many", "max_steps: invalid int value: 'many'"),
        ("use_cpu", "maybe", "use_cpu: invalid bool value: 'maybe'"),
        ("save_strategy", "sometimes", "save_strategy: invalid choice: 'sometimes'"),
        ("optim_args", {"betas": [0.9, 0.95]}, "optim_args: betas is .* betas are adam_beta1 and adam_beta2"),
        ("lr_scheduler_kwargs", "{a", "lr_scheduler_kwargs"),
        ("observation_features", [["a"]], "observation_features: invalid str value"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_key(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        loaded(tmp_path, **{key: value})
    assert "\n" not in str(caught.value) and "line 2" in str(caught.value)


def test_the_copy_of_a_recipe_is_the_recipe(tmp_path: Path) -> None:
    given = {"output_dir": "1e3", "run_name": "no", "episodes": "0:3", "learning_rate": "1e-3", "max_steps": 5}
    first = loaded(tmp_path, **given)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_values(first.given))
    again = load_recipe(copy)
    assert again.given == first.given and again.data == first.data
    assert (again.training.output_dir, again.training.run_name) == ("1e3", "no")
