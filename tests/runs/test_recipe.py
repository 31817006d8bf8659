"""Recipes: every key is checked, and every error is one line with the location of the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from hf_ptr.data.episode_ids import parse_episodes
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError
from hf_ptr.policies import policy_from_dataset
from hf_ptr.runs.dry_run import plan_recipe
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.training.ptr_config import PTRConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")
FOLDERS = sorted({path.parent for path in RECIPES})
# Some recipes need an accelerator.
HERE = ["dataset=d", "use_cpu=true"]
ARMS = {"sft", "sft_belief", "ptr", "ptr_lora"}
# An adapter is trained on a policy with its own features, and needs its own learning rate.
KEYS_OF_ADAPTERS = {"observation_features", "state_feature", "learning_rate"}


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-3:]))
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    recipe = load_recipe(path, HERE)
    arm = path.stem
    assert recipe.training.output_dir.endswith(f"/{arm}")
    assert recipe.training.with_scorer == (arm in ("ptr", "ptr_lora"))
    assert recipe.training.calibrates == (arm == "calibrated")
    assert (recipe.training.belief_tokens > 0) == (arm in ("ptr", "sft_belief", "ptr_lora"))
    assert recipe.lora.use_peft == (arm == "ptr_lora")
    assert f"hf-ptr train {path.relative_to(ROOT)}" in path.read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_folder_has_every_arm(folder: Path) -> None:
    assert {path.stem for path in folder.glob("*.yaml")} >= ARMS


def effective(path: Path) -> dict[str, Any]:
    """All settings of a recipe with their defaults, except those that define the arm."""
    recipe = load_recipe(path, HERE)
    settings = {**vars(recipe.data), **recipe.training.to_dict()}
    if not recipe.lora.use_peft:
        settings |= vars(recipe.policy)
    # The constants of the calibrated score contain the policy's smallest deviation.
    for key in ("scoring", "score_settings", "w_min", "alpha", "belief_tokens", "nce_warmup_steps", "output_dir"):
        settings.pop(key)
    return settings


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_arms_of_a_suite_differ_only_in_the_settings_of_the_arm(folder: Path) -> None:
    first, *others = (effective(path) for path in sorted(folder.glob("*.yaml")) if path.stem != "ptr_lora")
    assert others and all(other == first for other in others)
    adapters = [effective(path) for path in folder.glob("ptr_lora.yaml")]
    assert {key for adapter in adapters for key in adapter if adapter[key] != first[key]} <= KEYS_OF_ADAPTERS


def test_the_recipe_of_the_paper_is_its_table() -> None:
    """The recipe has the values of PTR Table 6, which are also the defaults."""
    paper = next(path for path in RECIPES if path.parts[-2:] == ("paper", "ptr.yaml"))
    given = load_recipe(paper, ["dataset=d"]).given
    defaults = PTRConfig(output_dir="d")
    own = {item.name for item in dataclasses.fields(PTRConfig)} & set(given)
    own -= {"output_dir", "per_device_train_batch_size", "seed"}
    assert {name: given[name] for name in own} == {name: getattr(defaults, name) for name in own}
    assert given["per_device_train_batch_size"] * 8 == 128 and given["num_denoising_steps"] == 4
    assert len(own) >= 24


@pytest.fixture(scope="module")
def base(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base policy for an adapter."""
    folder = tmp_path_factory.mktemp("base")
    policy, processor = policy_from_dataset(
        read_dataset(metaworld_dataset), observation_features=["observation.state"], hidden_size=16
    )
    for part in (policy, processor):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "path",
    [path for path in RECIPES if path.parent.name in ("metaworld_state", "g1") and path.parts[-3] == "vla"],
    ids=lambda p: "/".join(p.parts[-2:]),
)
def test_recipes_are_planned_on_real_episodes(path: Path, metaworld_dataset: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = ["episodes=0:6", "eval_episodes=6:8", f"dataset={metaworld_dataset}", f"output_dir={out}"]
    few += [f"policy={base}"] if path.stem == "ptr_lora" else []
    plan = plan_recipe(path, few)
    arms = {"sft": "plain", "sft_belief": "plain", "ptr": "PTR as published", "calibrated": "calibrated weights"}
    arms["ptr_lora"] = arms["ptr"]
    assert "MiB on one device" in plan["memory"]["peak of a step"]
    assert plan["data"]["episodes"] == 6 and plan["data"]["held out"] == 2
    assert plan["method"]["arm"].startswith(arms[path.stem])
    assert plan["output"]["folder"] == str(out) and not out.exists()


def test_a_plan_names_the_settings_that_are_not_published(metaworld_dataset: Path) -> None:
    path = next(path for path in RECIPES if path.parts[-2:] == ("metaworld_state", "ptr.yaml"))
    few = ["episodes=0:2", f"dataset={metaworld_dataset}", "nce_warmup_steps=3000"]
    for given, arm in (
        ([], "PTR as published with 4 belief tokens; "),
        (["belief_tokens=0"], "PTR as published; "),
        (["belief_dropout=0.5"], "PTR with belief_dropout 0.5, 4 belief tokens; "),
        (
            ["loss_unit=step", "detach_scorer=true", "hard_negatives=state", "belief_tokens=0"],
            "PTR with loss_unit step, detach_scorer True, hard_negatives state; ",
        ),
        (
            [
                "schedule=scaled",
                "max_steps=600",
                "missing_target_weight=mean",
                "hard_negatives_among=all",
                "belief_tokens=0",
            ],
            "PTR with missing_target_weight mean, hard_negatives_among all, schedule scaled; ",
        ),
    ):
        assert plan_recipe(path, [*few, *given])["method"]["arm"].startswith(arm)


def test_a_plan_sends_no_request_to_the_hub(metaworld_dataset: Path, tmp_path: Path, logged_in: HubServer) -> None:
    path = next(path for path in RECIPES if path.parts[-2:] == ("metaworld_state", "sft.yaml"))
    plan_recipe(path, [f"dataset={metaworld_dataset}", "push_to_hub=true", "hub_model_id=alice/planned"])
    assert logged_in.requests == []


def test_values_are_typed_and_overrides_win(tmp_path: Path) -> None:
    path = write(
        tmp_path, "dataset: d\nlearning_rate: 1e-3\nobservation_features: [a, b]\nmax_steps: 5\neval_episodes: 12:16\n"
    )
    recipe = load_recipe(
        path, ["max_steps=7", "adaptive_scale=false", "weight_decay=-0.0", "episodes=0:3,9", "save_strategy=no"]
    )
    assert recipe.training.learning_rate == 1e-3
    assert recipe.data.observation_features == ["a", "b"]
    assert recipe.training.save_strategy == "no"
    assert parse_episodes(recipe.data.eval_episodes) == [12, 13, 14, 15]
    assert recipe.training.max_steps == 7 and recipe.training.adaptive_scale is False
    assert parse_episodes(recipe.data.episodes) == [0, 1, 2, 9]


def test_a_source_is_overridden_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path, "sources:\n  - {dataset: a, embodiment: fr3}\n  - {dataset: b, embodiment: fr3}\n")
    recipe = load_recipe(path, ["sources.1.dataset=/data/c=d", "sources.0.weight=2"])
    assert recipe.given["sources"] == [
        {"dataset": "a", "embodiment": "fr3", "weight": 2},
        {"dataset": "/data/c=d", "embodiment": "fr3"},
    ]
    for key in ("sources.2.dataset", "sources.x.dataset", "sources.0", "sources.0.", "sources."):
        with pytest.raises(
            InputError, match=rf"{key} is not a key of one of the 2 sources; write for example sources"
        ):
            load_recipe(path, [f"{key}=a"])


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("dataset: d\nw_maxx: 3\n", [], r"unknown key 'w_maxx' in .*recipe.yaml, line 2\. Did you mean 'w_max'\?"),
        ("dataset: d\n", ["alhpa=1"], r"unknown key 'alhpa' on the command line\. Did you mean 'alpha'\?"),
        ("dataset: d\nw_max: much\n", [], r"w_max: invalid float value: 'much' \(in .*line 2\)"),
        ("dataset: d\nmax_steps: 1.5\n", [], r"max_steps: invalid int value: '1.5' \(in .*line 2\)"),
        ("dataset: d\nalpha: 1.5\n", [], r"alpha is 1.5; it must lie in \[0, 1\] \(in .*line 2\)"),
        ("dataset: d\nw_max: 0.5\n", [], "w_max is 0.5"),
        ("dataset: d\nscoring: papr\n", [], r"scoring is 'papr'; known: paper"),
        ("dataset: d\nfp16: true\n", [], r"not supported: fp16, .* \(use bf16\) \(in .*line 2\)"),
        ("dataset: d\nseed: 1\nseed: 2\n", [], r"key 'seed' is set again in .*line 3"),
        ("dataset: [d\n", [], r"is not valid YAML at line 2"),
        ("- dataset\n", [], "is not a mapping of keys to values"),
        ("", [], "is not a mapping of keys to values"),
        ("seed: 1\n", [], "names no dataset; add 'dataset: FOLDER'"),
        ("dataset: d\n", ["seed"], "'seed' is not a key=value override"),
        ("dataset: d\nbelief_tokens: -1\n", [], "belief_tokens is -1; it must be at least 0"),
    ],
)
def test_wrong_recipes_are_one_line(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(write(tmp_path, text), overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing.yaml cannot be read"):
        load_recipe(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("setting", ["w_min=0.9", "w_max=2", "seed=5"])
def test_a_key_of_the_recipe_is_not_a_setting_of_the_score(setting: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"dataset: d\nscoring: calibrated\nscore_settings: [rounds=1, {setting}]\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    key = setting.partition("=")[0]
    expected = f"'{setting}' is not a setting here; use the key {key} instead of score_settings (in {path}, line 3)"
    assert str(caught.value) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scoring: calibrated\nmin_std: 0.3\n", 0.3),
        ("scoring: calibrated\nmin_std: 0.3\nscore_settings: [min_std=0.1]\n", 0.1),
        ("scoring: calibrated\n", 0.0),
        ("min_std: 0.3\n", 0.0),
    ],
)
def test_the_smallest_deviation_of_the_policy_is_that_of_the_calibrated_score(
    tmp_path: Path, text: str, expected: float
) -> None:
    recipe = load_recipe(write(tmp_path, f"dataset: d\nuse_cpu: true\n{text}"))
    assert recipe.training.score_config().min_std == expected


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("mine", "dataset mine does not exist in HERE; start from the folder that it is relative to, or pass "),
        ("/no/such/data", "dataset /no/such/data does not exist; correct the path, or pass dataset=PATH"),
        ("data/mine", "data/mine is neither a local folder nor a dataset on the Hub; check the name, or use a token"),
        (
            "data/a/b/c",
            "data/a/b/c is neither a local folder nor a dataset on the Hub; check the name, or use a token",
        ),
    ],
)
def test_a_recipe_that_is_started_in_another_folder_says_where_it_looked(
    dataset: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_in: HubServer
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "recipes" / "vla" / "g1" / "sft.yaml"
    with pytest.raises(InputError) as caught:
        plan_recipe(path, [f"dataset={dataset}", "use_cpu=true"])
    line = str(caught.value)
    assert line.startswith(message.replace("HERE", str(tmp_path)))
    assert dataset.startswith("/") or dataset == "mine" or line.endswith(f"; a local path is relative to {tmp_path}")
