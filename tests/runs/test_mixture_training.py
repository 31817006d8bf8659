"""Recipes with several robots, from the sources to a policy for all of them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from data_helpers import coded_table, vector, with_camera, write_v21
from fold_helpers import stopped_at
from hub_server import HubServer
from huggingface_hub import HfApi
from transformers import AutoModel
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.embodiment import UnifiedActionSpace
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.errors import InputError
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.policies import load_for_robot, policy_from_dataset
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.dry_run import plan_recipe
from hf_ptr.runs.recipe import NEW_POLICY_FIELDS, load_recipe
from hf_ptr.runs.run import evaluation_command, run_recipe
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.training import calibrated_weights as calibrating
from hf_ptr.training.check_arguments import check_arguments
from hf_ptr.training.detected_scores import detected_scores
from hf_ptr.training.micro_batches import candidates_of
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTRModel

CAMERA = "observation.images.front"
SCENE = "observation.environment_state"
SETTINGS: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 6,
    "chunk_size": 4,
    "n_action_steps": 2,
    "target_offset": 3,
    "segment_chunks": 2,
    "nce_warmup_steps": 1,
    "warmup_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
    "logging_steps": 1,
    "expert_size": 32,
    "num_expert_layers": 1,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A robot with 26 dimensions as v2.1 and one with 4 as v3.0; the names of their cameras differ."""
    root = tmp_path_factory.mktemp("sources")
    found = []
    for name, width, camera, fps in (("g1", 26, "observation.images.head", 30), ("sawyer", 4, CAMERA, 20)):
        base = coded_table([12, 9], source=name)
        random = np.random.default_rng(width)
        columns = {
            feature: random.normal(size=(21, width)).astype(np.float32) for feature in ("observation.state", "action")
        }
        columns[SCENE] = random.normal(loc=3.0, size=(21, 5)).astype(np.float32)
        features = {feature: vector(column.shape[1]) for feature, column in columns.items()}
        table = dataclasses.replace(base, columns=columns, features=features, fps=float(fps))
        folder = write_v21(with_camera(table, camera), root / name)
        found.append({"dataset": str(folder), "weight": 2 if name == "g1" else 1})
    found[0] |= {"embodiment": "unitree_g1_inspire", "features": {CAMERA: "observation.images.head"}, "fps": 20}
    found[1] |= {"embodiment": "metaworld_sawyer", "target_offset": 2, "name": "arm"}
    found[1]["dataset"] = str(convert_lerobot(found[1]["dataset"], root / "sawyer_v30"))
    return found


def recipe(folder: Path, listed: list[dict[str, Any]], **settings: Any) -> Path:
    path = folder / "recipe.yaml"
    content = {**SETTINGS, "output_dir": str(folder / "out"), "sources": listed, **settings}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("features", [["observation.state"], [CAMERA], [SCENE]])
def test_a_policy_is_trained_on_two_robots(sources: list[dict[str, Any]], tmp_path: Path, features: list[str]) -> None:
    size = {"size": "tiny", "image_size": 32} if features == [CAMERA] else {}
    path = recipe(tmp_path, sources, observation_features=features, **size)
    out = run_recipe(path)
    policy = AutoModel.from_pretrained(out)
    assert (policy.config.state_dim, policy.config.action_dim) == (200, 200)
    described = json.loads((out / "mixture.json").read_text())
    assert [source["name"] for source in described] == ["g1", "arm"]
    assert described[0]["fps"] == 20 and len(described[0]["action"]["mean"]) == 26
    state = json.loads((out / "trainer_state.json").read_text())
    assert all(np.isfinite(entry["loss"]) for entry in state["log_history"] if "loss" in entry)
    assert run_recipe(path) == out


def test_a_vector_of_the_scene_is_not_converted_to_slots(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    out = run_recipe(recipe(tmp_path, sources, observation_features=[SCENE]))
    for number, (name, width) in enumerate((("g1", 26), ("arm", 4))):
        policy, processor, _ = load_for_robot(str(out), name)
        assert (policy.config.observation_dim, policy.config.state_dim, policy.config.action_dim) == (5, width, width)
        table = read_dataset(sources[number]["dataset"])
        scene, state = table.feature(SCENE)[:1], table.feature("observation.state")[:1]

        def act(
            policy: Any = policy, processor: Any = processor, state: np.ndarray = state, **seen: np.ndarray
        ) -> Any:
            policy.reset()
            inputs = processor(["do task 0"], seen["scene"], state)
            return policy.predict_action_chunk(inputs, generator=torch.Generator().manual_seed(0))

        chunk = act(scene=scene)
        assert chunk.shape == (1, 4, width) and torch.equal(chunk, act(scene=scene))
        assert not torch.equal(chunk, act(scene=scene + 1))
    found = evaluate_dataset(out, read_dataset(sources[0]["dataset"]), source="g1").to_dict()
    assert np.isfinite(found["action_mae"]["mean"])


def two_random_sources(folder: Path) -> list[dict[str, Any]]:
    """Ten random episodes of each of two robots; the name of one is not a valid file name."""
    listed = []
    for number, (name, robot, width) in enumerate(
        (("g1", "unitree_g1_inspire", 26), ("../arm", "metaworld_sawyer", 4))
    ):
        base = coded_table([14] * 10, source=f"set-{number}")
        random = np.random.default_rng(width)
        columns = {
            feature: random.normal(size=(140, width)).astype(np.float32) for feature in ("observation.state", "action")
        }
        table = dataclasses.replace(base, columns=columns, features={feature: vector(width) for feature in columns})
        listed.append({"dataset": str(write_table(table, folder / base.source)), "embodiment": robot, "name": name})
    return listed


@pytest.mark.slow
def test_each_source_gets_calibrated_weights_of_its_own(tmp_path: Path) -> None:
    listed = two_random_sources(tmp_path)
    settings = {"belief_tokens": 0, "save_steps": 2, "save_strategy": "steps"}
    calibrated = {"scoring": "calibrated", "score_settings": ["steps=20"], "alpha": 1.0}
    made = run_recipe(recipe(tmp_path, listed, output_dir=str(tmp_path / "made"), **calibrated, **settings))
    files = ["scores-g1.parquet", "scores-source-1.parquet"]
    findings = [file.replace(".parquet", ".findings.parquet") for file in files]
    assert sorted(file.name for file in made.glob("**/scores*.parquet")) == sorted(3 * (files + findings))
    mixture = build_trainer(load_recipe(recipe(tmp_path, listed, **settings))).train_dataset
    weights, config = [], ScoreConfig(seed=PTRConfig(output_dir=str(tmp_path)).seed, steps=20)
    for file, part in zip(files, mixture.parts, strict=True):
        offline = detected_scores(part, config, progress=False)[0].frame()
        pd.testing.assert_frame_equal(pd.read_parquet(made / file), offline)
        assert (made / "checkpoint-2" / file).read_bytes() == (made / file).read_bytes()
        weights.append(offline.weight.to_numpy())
    assert np.array_equal(mixture.with_weights(np.concatenate(weights)).weights.numpy(), np.concatenate(weights))
    assert mixture.weights is None
    given = [source | {"weights": str(made / file)} for source, file in zip(listed, files, strict=True)]
    plain = {"alpha": 0.0, **settings}
    logs = {
        name: [entry["loss"] for entry in json.loads((out / "trainer_state.json").read_text())["log_history"][:-1]]
        for name, out in (
            ("made", made),
            ("given", run_recipe(recipe(tmp_path, given, output_dir=str(tmp_path / "given"), **plain))),
            ("plain", run_recipe(recipe(tmp_path, listed, output_dir=str(tmp_path / "plain"), **plain))),
        )
    }
    assert logs["made"] == logs["given"] != logs["plain"]
    short = [listed[0], {**listed[1], "episodes": "0:3"}]
    with pytest.raises(InputError, match=r"has 3 episodes longer than target_offset"):
        run_recipe(recipe(tmp_path, short, output_dir=str(tmp_path / "no"), scoring="calibrated", **settings))
    assert not (tmp_path / "no").exists()


def test_score_files_of_sources_with_similar_names_are_distinct() -> None:
    mixture = SimpleNamespace(source_names=["source-1", "../arm", "source-x"], parts=["a", "b", "c"])
    parts = calibrating.parts_to_fit(mixture)
    assert parts == {"scores-source-0.parquet": "a", "scores-source-1.parquet": "b", "scores-source-x.parquet": "c"}


def test_a_resumed_fit_of_two_sources_keeps_the_finished_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = stopped_at(13, monkeypatch)
    path = recipe(
        tmp_path, two_random_sources(tmp_path), scoring="calibrated", score_settings=["steps=2"], belief_tokens=0
    )
    with pytest.raises(KeyboardInterrupt):
        run_recipe(path)
    made = run_recipe(path)
    # Two fits in each of five folds for each source; the thirteenth was started twice.
    assert len(trained) == 2 * 10 + 1
    left = [file.name for file in made.glob("*scores*") if not re.search("findings|power", file.name)]
    assert sorted(left) == ["scores-g1.parquet", "scores-source-1.parquet"]


def test_an_epoch_is_drawn_by_the_weights_and_resumed_exactly(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    trainer = build_trainer(load_recipe(recipe(tmp_path, sources, belief_tokens=0, alpha=0.0)))
    batches = list(trainer.get_train_dataloader())
    drawn = torch.cat([batch["source_index"] for batch in batches])
    # G1 is resampled from 30 to 20 frames per second: 8 + 6 chunks, and 21 of the other robot.
    assert len(trainer.train_dataset) == 35 and trainer.train_dataset.epoch_chunks == [23, 12]
    assert torch.bincount(drawn).tolist() == [23, 12]
    again = list(
        build_trainer(load_recipe(recipe(tmp_path, sources, belief_tokens=0, alpha=0.0))).get_train_dataloader()
    )
    for first, second in zip(batches, again, strict=True):
        assert torch.equal(first["index"], second["index"])


def test_less_data_than_a_step_of_all_processes_is_refused(
    sources: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_trainer(load_recipe(recipe(tmp_path, sources, belief_tokens=0, alpha=0.0)))
    mixture, args = trainer.train_dataset, trainer.args
    monkeypatch.setattr(PTRConfig, "world_size", 2)
    args.gradient_accumulation_steps = 2
    check_arguments(args, mixture, None, trainer.processing_class, None)
    args.gradient_accumulation_steps = 3
    with pytest.raises(InputError, match=r"35 chunks are fewer than one step of all processes \(36\)"):
        check_arguments(args, mixture, None, trainer.processing_class, None)
    # Without belief tokens, a single dataset is divided by batches, as in transformers.
    check_arguments(args, mixture.parts[0], None, trainer.processing_class, None)
    args.belief_tokens = 2
    with pytest.raises(InputError, match="14 chunks are fewer than one step"):
        check_arguments(args, mixture.parts[0], None, trainer.processing_class, None)


def test_a_non_finite_loss_is_reported_with_source_and_frame(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = {"belief_tokens": 0, "alpha": 0.0, "logging_steps": 1, "max_steps": 20}
    trainer = build_trainer(load_recipe(recipe(tmp_path, sources, **settings)))
    trainer.train_dataset.parts[1].action[12] = torch.inf
    with pytest.raises(InputError, match=r"frame (9|10|11|12) of 'arm' \(episode [01]\) is not finite at step"):
        trainer.train()


def test_a_source_without_targets_is_refused(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    far = [sources[0], {**sources[1], "target_offset": 12}]
    with pytest.raises(InputError, match="source arm: target_offset 12 reaches beyond every episode"):
        build_trainer(load_recipe(recipe(tmp_path, far)))


def test_a_mixture_is_planned(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    plan = plan_recipe(recipe(tmp_path, sources))
    assert plan["data"]["dataset"] == "g1, arm" and plan["data"]["episodes"] == 4
    assert plan["data"]["chunks"] == "35" and not (tmp_path / "out").exists()


def test_a_resumed_run_equals_an_uninterrupted_run(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    for folder in (whole, halved):
        folder.mkdir()
    settings = {"max_steps": 8, "save_steps": 4, "save_strategy": "steps", "belief_tokens": 2, "seed": 1}
    run_recipe(recipe(whole, sources, **settings))
    stopped = build_trainer(load_recipe(recipe(halved, sources, **settings)))
    stopped.train()
    shutil.rmtree(halved / "out" / "checkpoint-8")
    resumed = build_trainer(load_recipe(recipe(halved, sources, **settings)))
    resumed.train(resume_from_checkpoint=str(halved / "out" / "checkpoint-4"))
    resumed.save_model(str(halved / "resumed"))
    expected, found = (
        AutoModel.from_pretrained(folder).state_dict() for folder in (whole / "out", halved / "resumed")
    )
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "x"}, "dataset cannot be set with sources; remove the key, or write it into a source"),
        ({"weights": "w.parquet", "alpha": 0.0}, "weights cannot be set with sources"),
        (
            {"observation_features": ["observation.images.front", "observation.images.left"]},
            "source g1 has no .observation.images.left",
        ),
        ({"sources": [{"dataset": "x"}]}, "source 0 has no embodiment"),
        ({"sources": ["x"]}, "source 0"),
    ],
)
def test_a_wrong_recipe_is_one_line(
    sources: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = recipe(tmp_path, sources, **{"size": "tiny", **change})
    with pytest.raises(InputError, match=message) as caught:
        run_recipe(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_unusable_source_is_refused_with_the_episodes_to_skip(
    sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources[0]["dataset"], tmp_path / "g1"))
    next(folder.rglob("episode_000001.mp4")).unlink()
    broken = [{**sources[0], "dataset": str(folder)}, sources[1]]
    settings = {"observation_features": [CAMERA], "size": "tiny", "image_size": 32}
    with pytest.raises(
        InputError, match=r'episode_000001.mp4 is missing; .*leave this episode out .skip_episodes: "1" in source'
    ):
        build_trainer(load_recipe(recipe(tmp_path, broken, **settings)))
    broken[0]["skip_episodes"] = "1"
    assert len(build_trainer(load_recipe(recipe(tmp_path, broken, **settings))).train_dataset) == 8 + 21


@pytest.fixture(scope="module")
def generalist(sources: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy trained on a truncated episode of one robot and on weighted episodes of another; one is held out."""
    folder = tmp_path_factory.mktemp("generalist")
    weights = folder / "scores.parquet"
    pd.DataFrame({"index": np.arange(21), "weight": np.linspace(0.5, 2.0, 21)}).to_parquet(weights)
    first = {**sources[0], "episodes": "0", "eval_episodes": "1", "corruption": "tt"}
    first |= {"corruption_severity": 4, "corruption_seed": 1}
    listed = [first, {**sources[1], "weights": str(weights)}]
    return run_recipe(recipe(folder, listed, alpha=0.0, belief_tokens=2))


def test_a_mixture_is_held_out_corrupted_and_weighted_by_source(
    generalist: Path, sources: list[dict[str, Any]]
) -> None:
    logged = json.loads((generalist / "trainer_state.json").read_text())["log_history"]
    assert json.loads((generalist / "eval_results.json").read_text())["eval_loss"] > 0
    assert any("weight_mean" in entry for entry in logged)
    weights = json.loads((generalist / "weights.json").read_text())
    assert set(weights["sources"]) == {"g1", "arm"} and weights["low"] < 1 < weights["high"]
    provenance = json.loads((generalist / "run.json").read_text())
    assert provenance["corruption"] == {
        "protocol": "g1: tt", "seed": "1", "severity": "4", "episodes": 1,
        "faults": {"g1: truncation": 1}, "carriers": {"g1: truncation": [0]},
    }  # fmt: skip
    data = json.loads((generalist / "data.json").read_text())
    assert [(part["source"], part["episodes"]) for part in data["eval"]] == [("g1", 1)]
    assert data["train"][1]["weights"] is not None and data["train"][0]["weights"] is None


def test_a_mixtures_policy_is_evaluated_for_each_robot(generalist: Path, sources: list[dict[str, Any]]) -> None:
    folders = [Path(source["dataset"]) for source in sources]
    for folder, name, width in zip(folders, (None, "arm"), (26, 4), strict=True):
        table = read_dataset(folder)
        errors = evaluate_dataset(generalist, table, source=name)
        assert errors.episodes == (0, 1) and np.isfinite(errors.policy).all() and len(errors.baselines) == 2
        policy, processor, robot = load_for_robot(str(generalist), name, (table.source,))
        assert robot is not None and robot.embodiment.width("action") == width
        state = table.feature("observation.state")[:2]
        action = policy.select_action(**processor([table.tasks[0]] * 2, state, state))
        assert action.shape == (2, width) and bool(torch.isfinite(action).all())
    with pytest.raises(InputError, match="was trained for several robots; choose one with --source: g1, arm"):
        evaluate_dataset(generalist, read_dataset(folders[1]))
    with pytest.raises(InputError, match="was trained with 26; use data of the same robot"):
        evaluate_dataset(generalist, read_dataset(folders[1]), source="g1")
    command = ["evaluate", str(generalist), "--dataset", str(folders[0]), "--episodes", "0:2"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0 and "was trained on 1 of these episodes (0)" in shown.stdout
    assert evaluation_command(generalist) == f"hf-ptr evaluate {generalist} --dataset {folders[0]} --episodes 1"
    with pytest.raises(InputError, match="source g1 acts at 20 fps, but Meta-World runs at 80 fps"):
        evaluate_in(MetaWorld(), generalist, ["reach-v3"], 1, source="g1")


def test_a_mixtures_policy_acts_for_each_robot_from_the_hub(generalist: Path, logged_in: HubServer) -> None:
    pushed = CliRunner().invoke(app, ["push", str(generalist), "--repo-id", "alice/generalist"])
    assert pushed.exit_code == 0, pushed.exception
    here, there = (load_for_robot(source, "arm")[2] for source in (str(generalist), "alice/generalist"))
    assert here is not None and there is not None and here.to_dict() == there.to_dict()
    card = logged_in.store.files("alice/generalist")["README.md"].decode()
    assert "the loss of each chunk is weighted by a score file" in card and "g1: tt" in card


@pytest.mark.parametrize("adapter", [False, True])
def test_the_policy_of_a_mixture_is_post_trained_on_other_sources(
    generalist: Path, sources: list[dict[str, Any]], tmp_path: Path, adapter: bool
) -> None:
    listed = [{**sources[0], "name": "g1"}, {**sources[1], "name": "another"}]
    path = recipe(tmp_path, listed, policy=str(generalist), use_peft=adapter)
    content = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k not in NEW_POLICY_FIELDS}
    path.write_text(yaml.safe_dump(content))
    out = run_recipe(path)
    before, after = (json.loads((folder / "mixture.json").read_text()) for folder in (generalist, out))
    # A source that the policy knows by name keeps its statistics; a new source gets its own.
    assert after[0]["action"] == before[0]["action"] and after[1]["action"] == before[1]["action"]
    assert [robot["name"] for robot in after] == ["g1", "another"]
    for name, width in (("g1", 26), ("another", 4)):
        policy, processor, _ = load_for_robot(str(out), name)
        state = np.zeros((1, width), dtype=np.float32)
        assert policy.select_action(**processor(["do task 0"], state, state)).shape == (1, width)
    content["observation_features"] = ["observation.state"]
    with pytest.raises(InputError, match="observation_features cannot be set with policy"):
        build_trainer(load_recipe(written(tmp_path / "a", content)))
    del content["observation_features"]
    content["sources"][0]["embodiment"] = "adam_u"
    with pytest.raises(InputError, match=r"has 26 dimensions, but the state of adam_u has 31"):
        build_trainer(load_recipe(written(tmp_path / "b", content)))


def test_a_policy_of_one_robot_is_refused_with_sources(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    policy, processor = policy_from_dataset(
        read_dataset(sources[0]["dataset"]), observation_features=["observation.state"], hidden_size=16
    )
    for part in (policy, processor):
        part.save_pretrained(tmp_path / "policy")
    content = {"sources": sources, "policy": str(tmp_path / "policy"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(InputError, match="is not a policy in the unified action space of sources"):
        build_trainer(load_recipe(written(tmp_path / "a", content)))


def written(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def test_values_in_slots_without_a_meaning_for_the_robot_have_no_effect(generalist: Path) -> None:
    policy = AutoModel.from_pretrained(generalist).eval()
    mask = UnifiedActionSpace().mask("metaworld_sawyer", "state").expand(3, -1)
    state = torch.randn(3, 200).masked_fill(~mask, 0.0)
    garbage = torch.where(mask, state, torch.full_like(state, 7.0))
    instruction = {"instruction_ids": torch.ones(3, 1, dtype=torch.int64)}
    instruction["instruction_mask"] = instruction["instruction_ids"].bool()

    def chunk(values: torch.Tensor, **masks: torch.Tensor) -> torch.Tensor:
        policy.reset()
        noise = torch.Generator().manual_seed(0)
        return policy.predict_action_chunk({"observation": values, "state": values, **instruction, **masks}, noise)

    assert torch.equal(chunk(state, state_dim_mask=mask), chunk(garbage, state_dim_mask=mask))
    assert not torch.equal(chunk(state), chunk(garbage))
    model = PTRModel.from_pretrained(generalist).eval()
    batch = {"actions": torch.randn(3, 4, 200), "action_mask": torch.ones(3, 4, dtype=torch.bool), **instruction}
    losses = []
    for values in (state, garbage):
        torch.manual_seed(0)
        losses.append(model(observation=values, state=values, state_dim_mask=mask, **batch).action_loss)
    assert torch.equal(*losses)
    candidates = [
        candidates_of(
            policy,
            {"state": values, "state_dim_mask": mask, **dict.fromkeys(("target_index", "task_index", "has_target"))},
            SimpleNamespace(target=torch.zeros(3, 1)),
        )
        for values in (state, garbage)
    ]
    assert torch.equal(candidates[0].state, candidates[1].state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_episodes": "0"}, r"episodes \[0\] are in episodes and in eval_episodes"),
        ({"corruption": "anni"}, "unknown corruption recipe 'anni'"),
        ({"weights": "nothing.parquet"}, "score file nothing.parquet does not exist"),
        ({"embodiment": "fr3"}, "has 26 dimensions, but the state of fr3 has 13; choose another embodiment"),
        ({"episodes": "9"}, "has no episode 9"),
    ],
)
def test_a_wrong_source_is_one_line(
    sources: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = recipe(tmp_path, [{**sources[0], "episodes": "0", **change}, sources[1]], alpha=0.0, belief_tokens=0)
    with pytest.raises(InputError, match=message) as caught:
        build_trainer(load_recipe(path))
    assert "\n" not in str(caught.value)


def test_a_run_that_fits_weights_refuses_weights_of_a_source(sources: list[dict[str, Any]], tmp_path: Path) -> None:
    pd.DataFrame({"index": np.arange(21), "weight": np.ones(21)}).to_parquet(tmp_path / "scores.parquet")
    given = [sources[0], {**sources[1], "weights": str(tmp_path / "scores.parquet")}]
    with pytest.raises(InputError, match="the dataset has weights, and this run would compute its own"):
        build_trainer(load_recipe(recipe(tmp_path, given)))


def test_sources_are_pulled_from_the_hub_at_a_revision(
    sources: list[dict[str, Any]], tmp_path: Path, logged_in: HubServer
) -> None:
    there = []
    for source, name in zip(sources, ("g1", "arm"), strict=True):
        HfApi().create_repo(f"alice/{name}", repo_type="dataset")
        done = HfApi().upload_folder(repo_id=f"alice/{name}", folder_path=source["dataset"], repo_type="dataset")
        there.append({**source, "name": name, "dataset": f"alice/{name}@{done.oid}"})
    here = [{**source, "name": name} for source, name in zip(sources, ("g1", "arm"), strict=True)]
    pulled, read = (
        build_trainer(load_recipe(recipe(tmp_path, listed, observation_features=[CAMERA], size="tiny", image_size=32)))
        for listed in (there, here)
    )
    assert len(pulled.train_dataset) == len(read.train_dataset)
    mine, other = (trainer.train_dataset[3] for trainer in (pulled, read))
    assert all(torch.equal(torch.as_tensor(mine[name]), torch.as_tensor(other[name])) for name in other)
    there[1]["dataset"] = "alice/arm@v1"
    with pytest.raises(InputError, match=r"the dataset alice/arm has no revision 'v1'. It has main"):
        build_trainer(load_recipe(recipe(tmp_path, there)))
