"""End to end: a recipe trains and pushes, a new process loads the policy by repo id, training resumes from the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from command_line import hf_ptr, the_line
from exact_cases import fitted
from hub_server import HubServer
from hub_store import Store, card_complaints
from huggingface_hub import HfApi, ModelCard
from local_hub import HUB
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
from transformers.trainer_utils import SaveStrategy

from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.cli.push import push
from hf_ptr.data import ChunkDataset, read_dataset
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import findings_written, read_findings
from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder
from hf_ptr.policies.lora import base_model_source
from hf_ptr.report.inputs import read_report_input
from hf_ptr.runs.recipe import NEW_POLICY_FIELDS
from hf_ptr.runs.run import run_recipe
from hf_ptr.training import calibrated_weights as calibrating

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "vla" / "metaworld_state" / "ptr.yaml"
SHORT = {
    "max_steps": 20,
    "save_steps": 10,
    "per_device_train_batch_size": 16,
    "expert_size": 32,
    "num_expert_layers": 1,
    "warmup_steps": 1,
    "nce_warmup_steps": 2,
    "logging_steps": 5,
    "disable_tqdm": "true",
}
INPUTS = ("Press the button down from above.", [0.1] * 39, [0.2] * 4)


def train(dataset: object, out: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    given = {**SHORT, "dataset": dataset, "output_dir": out, **settings}
    return hf_ptr("train", RECIPE, *(f"{key}={value}" for key, value in given.items()))


def actions_of(policy: Any, processor: Any) -> list[Any]:
    """Actions of two chunks: the second depends on the belief tokens of the first."""
    policy.reset()
    generator = torch.Generator().manual_seed(0)
    inputs = processor(*INPUTS)
    return [policy.predict_action_chunk(inputs, generator=generator).tolist() for _ in range(2)]


@pytest.fixture(scope="module")
def story(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Store]]:
    """A run of 20 steps on a dataset from the Hub, pushed to a private repository: its folder and the Hub."""
    HUB.reset()
    os.environ["HF_TOKEN"] = "hf_alice"
    HfApi().create_repo("alice/reach", repo_type="dataset")
    HfApi().upload_folder(repo_id="alice/reach", folder_path=metaworld_dataset, repo_type="dataset")
    out = tmp_path_factory.mktemp("story") / "ptr"
    hub = {
        "push_to_hub": "true",
        "hub_model_id": "alice/story",
        "hub_strategy": "checkpoint",
        # Independent of the machine's speed: by default a checkpoint is skipped while the previous one is uploading.
        "hub_always_push": "true",
        "hub_private_repo": "true",
    }
    result = train("alice/reach", out, corruption="hard", **hub)
    assert result.returncode == 0, result.stderr
    del os.environ["HF_TOKEN"]
    yield out, HUB.store


@pytest.fixture
def pushed_run(story: tuple[Path, Store], logged_in: HubServer) -> tuple[Path, Store]:
    """The pushed run, with alice logged in."""
    logged_in.store = story[1]
    return story


def test_a_run_pushes_all_its_files(pushed_run: tuple[Path, Store]) -> None:
    out, store = pushed_run
    repo = store.repos["model", "alice/story"]
    assert repo.private
    assert repo.messages == ["Training in progress, step 10", "Training in progress, step 20", "End of training"]
    final = store.files("alice/story")
    for name in ("model.safetensors", "scorer/model.safetensors", "run_state.safetensors", "config.json", "README.md"):
        assert final[name] == (out / name).read_bytes(), name
    assert "last-checkpoint/run_state.safetensors" in final
    at_ten = store.files("alice/story", list(repo.commits)[1])
    checkpoint = out / "checkpoint-10"
    for name in ("model.safetensors", "scorer/model.safetensors", "target_encoder/model.safetensors"):
        assert at_ten[name] == at_ten[f"last-checkpoint/{name}"] == (checkpoint / name).read_bytes() != final[name]
    assert not list(out.glob("_push-*"))
    every = {name for commit in repo.commits for name in store.files("alice/story", commit)}
    assert {"last-checkpoint/optimizer.safetensors", "last-checkpoint/rng_state.safetensors"} < every
    assert {Path(name).suffix for name in every} == {".json", ".safetensors", ".yaml", ".md", ".png"}


def test_pushed_files_contain_no_local_path(pushed_run: tuple[Path, Store], tmp_path: Path) -> None:
    out, store = pushed_run
    copy = shutil.copytree(out, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe |= {"vision_model": str(tmp_path / "tower"), "sources": [{"dataset": str(tmp_path / "g1"), "weight": 1}]}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = {"arms": {"ptr": {"action_mse": {"mean": 1.0, "interval": None}, "episodes": 3}}}
    results |= {"evaluation": {"dataset": str(tmp_path / "held_out")}}
    (copy / "evaluation.json").write_text(json.dumps(results))
    push([str(copy)], repo_id="alice/copy")
    final = store.files("alice/copy")
    every = [
        (commit, name, content)
        for repo in ("alice/story", "alice/copy")
        for commit in store.repos["model", repo].commits
        for name, content in store.files(repo, commit).items()
    ]
    assert len(every) > 50
    for commit, name, content in every:
        for place in (out.parent, tmp_path, ROOT):
            assert str(place).encode() not in content, (commit, name)
    pushed = yaml.safe_load(final["recipe.yaml"])
    assert pushed == recipe | {
        "output_dir": out.name, "vision_model": "tower", "sources": [{"dataset": "g1", "weight": 1}],
    }  # fmt: skip
    assert "held_out" in final["README.md"].decode() and "`sources`" not in final["README.md"].decode()


def test_the_card_describes_the_run(pushed_run: tuple[Path, Store]) -> None:
    _, store = pushed_run
    files = store.files("alice/story")
    text = files["README.md"].decode()
    assert card_complaints(text, "model") == []
    revision = store.repos["dataset", "alice/reach"].branches["main"]
    for part in (
        f"[alice/reach](https://huggingface.co/alice/reach), commit `{revision}`",
        "8 episodes",
        "protocol `hard`, seed 0",
        "| `nce_warmup_steps` | 2 |",
        "| alice/reach | 1.000 | 1.000 | 1.000 |",
        "![Histogram of the weights of the chunks](weights.png)",
        "20 optimiser steps",
        f"- torch {torch.__version__}",
        "## Intended use and limits",
        "2603.16542",
        "No licence is stated",
    ):
        assert part in text, part
    assert files["weights.png"].startswith(b"\x89PNG") and str(Path.home()) not in text
    data = ModelCard(text).data
    assert data.datasets == ["alice/reach"] and data.pipeline_tag == "robotics"


@pytest.mark.slow
def test_a_new_process_loads_the_policy_by_repo_id(pushed_run: tuple[Path, Store], tmp_path: Path) -> None:
    out, _ = pushed_run
    expected = actions_of(AutoModel.from_pretrained(out).eval(), AutoProcessor.from_pretrained(out))
    script = f"""
import json, os, sys
import torch, hf_ptr
from transformers import AutoModel, AutoProcessor
from hf_ptr.cli import main
from hf_ptr.policies import load_policy

def line(*arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code

def actions_of(policy, processor):
    policy.reset()
    generator = torch.Generator().manual_seed(0)
    inputs = processor(*{INPUTS!r})
    return [policy.predict_action_chunk(inputs, generator=generator).tolist() for _ in range(2)]

results = {{}}
out = sys.argv[1]
if sys.argv[2] == "online":
    results["private"] = line("evaluate", "alice/story", "--dataset", "alice/reach")
    os.environ["HF_TOKEN"] = "hf_alice"
    policy = AutoModel.from_pretrained("alice/story").eval()
    results["actions"] = actions_of(policy, AutoProcessor.from_pretrained("alice/story"))
    # The second download fills the cache for the offline process.
    load_policy("alice/story")
    results["evaluate"] = line("evaluate", "alice/story", "--dataset", "alice/reach", "--episodes", "0:1")
else:
    results["actions"] = actions_of(*load_policy("alice/story"))
    results["missing"] = line("evaluate", "alice/other", "--dataset", "alice/reach")
    given = "dataset=alice/reach", f"output_dir={{out}}/run", "push_to_hub=true"
    results["push"] = line("train", {str(RECIPE)!r}, *given)
    results["evaluate"] = line("evaluate", "alice/story", "--dataset", "alice/reach", "--episodes", "0:1")
print("RESULTS" + json.dumps(results))
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_TOKEN")

    def run(mode: str, **more: str) -> tuple[dict[str, Any], str]:
        result = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), mode],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=ROOT,
            env={**environment, **more},
        )
        assert result.returncode == 0, result.stderr[-3000:]
        lines = [line for line in result.stderr.splitlines() if line.startswith("hf-ptr: ")]
        return json.loads(result.stdout.rpartition("RESULTS")[2]), "\n".join(lines)

    online, lines = run("online")
    assert (online["private"], online["evaluate"]) == (2, 0) and len(lines.splitlines()) == 1
    assert (
        "alice/story is neither a local folder nor a model on the Hub; check the name, or if it is private, log in"
        in lines
    )
    assert online["actions"] == expected
    offline, lines = run("offline", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="hf_alice")
    assert offline["actions"] == expected
    assert (offline["missing"], offline["push"], offline["evaluate"]) == (2, 2, 0)
    assert "the model alice/other is neither a local folder nor in the cache, and the Hub cannot be reached" in lines
    assert "the Hub cannot be reached, and nothing of this push is visible" in lines
    assert "run" not in {path.name for path in tmp_path.iterdir()} and len(lines.splitlines()) == 2


def test_training_resumes_from_a_checkpoint_on_the_hub(pushed_run: tuple[Path, Store], tmp_path: Path) -> None:
    out, store = pushed_run
    at_ten = list(store.repos["model", "alice/story"].commits)[1]
    resumed = train("alice/reach", tmp_path / "on", corruption="hard", resume_from_checkpoint=f"alice/story@{at_ten}")
    assert resumed.returncode == 0, resumed.stderr
    # Equal to the uninterrupted run, including queue, controller and random numbers.
    for part in ("", "scorer", "belief_tokenizer", "target_encoder"):
        mine, other = (load_file(folder / part / "model.safetensors") for folder in (out, tmp_path / "on"))
        assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine), part
    wrong = train("alice/reach", tmp_path / "wrong", resume_from_checkpoint="alice/reach")
    assert "alice/reach is neither a local folder nor a model on the Hub" in the_line(wrong)
    assert not (tmp_path / "wrong").exists()


def test_calibrated_weights_are_part_of_the_checkpoint(
    metaworld_dataset: Path, tmp_path: Path, logged_in: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**SHORT, "dataset": metaworld_dataset, "scoring": "calibrated", "belief_tokens": 0}
    given |= {"max_steps": 4, "save_steps": 2, "save_total_limit": 9}
    hub = {"push_to_hub": "true", "hub_strategy": "all_checkpoints", "hub_model_id": "alice/calibrated"}
    monkeypatch.setattr(calibrating, "detected_scores", fitted)
    out = run_recipe(RECIPE, [f"{k}={v}" for k, v in {**given, **hub, "output_dir": tmp_path / "run"}.items()])
    commits = logged_in.store.repos["model", "alice/calibrated"].commits
    at_two = next(name for name in commits if "checkpoint-2/scores.parquet" in logged_in.store.files(
        "alice/calibrated", name))  # fmt: skip
    monkeypatch.setattr(calibrating, "detected_scores", lambda *args, **kwargs: pytest.fail("fitted again"))
    more = {"output_dir": tmp_path / "on", "resume_from_checkpoint": f"alice/calibrated@{at_two}"}
    on = run_recipe(RECIPE, [f"{k}={v}" for k, v in {**given, **more}.items()])
    assert (on / "scores.parquet").read_bytes() == (out / "scores.parquet").read_bytes()
    assert (on / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_recipe_reads_scores_from_a_dataset_repository(pushed_run: tuple[Path, Store], tmp_path: Path) -> None:
    _, store = pushed_run
    file = tmp_path / "scores.parquet"
    scored = hf_ptr("score", "alice/reach", "--method", "paper", "--run", "alice/story", "--out", file)
    assert scored.returncode == 0, scored.stderr
    pushed = hf_ptr("push", "scores", file, "--repo-id", "alice/scores", "--license", "cc-by-4.0")
    assert pushed.returncode == 0, pushed.stderr
    there = store.files("alice/scores", kind="dataset")
    assert (
        set(there) == {"scores.parquet", "README.md", "weights.png"} and there["scores.parquet"] == file.read_bytes()
    )
    card = there["README.md"].decode()
    assert card_complaints(card, "dataset") == [] and "weights=alice/scores alpha=0" in card
    assert "| alice/reach | 1.000 | 1.000 | 1.000 |" in card and "`cc-by-4.0`" in card
    trained = train(
        "alice/reach", tmp_path / "weighted", weights="alice/scores@main", alpha=0, belief_tokens=0, max_steps=4
    )
    assert trained.returncode == 0, trained.stderr
    local = train("alice/reach", tmp_path / "local", weights=file, alpha=0, belief_tokens=0, max_steps=4)
    assert local.returncode == 0, local.stderr
    assert (tmp_path / "weighted" / "model.safetensors").read_bytes() == (
        tmp_path / "local" / "model.safetensors"
    ).read_bytes()


def test_shared_scores_contain_no_local_path(logged_in: HubServer, tmp_path: Path) -> None:
    row = {"index": 0, "episode_index": 0, "frame_index": 0, "task_index": 0, "source": "a", "scorer": "b"}
    frame = pd.DataFrame([row | {"score": 0.0, "weight": 1.0, "valid": True}])
    frame.attrs = {"dataset": str(tmp_path / "g1"), "seed": 3}
    frame.to_parquet(tmp_path / "scores.parquet")
    push(["scores", str(tmp_path / "scores.parquet")], repo_id="alice/shared")
    (tmp_path / "there.parquet").write_bytes(logged_in.store.files("alice/shared", kind="dataset")["scores.parquet"])
    there = pd.read_parquet(tmp_path / "there.parquet")
    assert there.attrs == {"dataset": "g1", "seed": 3} and there.equals(frame)
    assert str(tmp_path).encode() not in (tmp_path / "there.parquet").read_bytes()


def test_the_findings_of_scores_are_pushed_with_them_and_not_those_of_others(
    logged_in: HubServer, tmp_path: Path
) -> None:
    row = {"index": 0, "episode_index": 0, "frame_index": 0, "task_index": 0, "source": "a", "scorer": "b"}
    frame = pd.DataFrame([row | {"score": 0.0, "weight": 1.0, "valid": True}])
    found = [Finding("action/lag", 0, 0, 0, 0.9, "fault", 6.0, "frames", "late", "shift them")]
    file, made = tmp_path / "mine.parquet", {"dataset": str(tmp_path / "g1")}
    with findings_written(file, found, {}, **made) as detection:
        frame.attrs = {**made, "detection": detection}
        frame.to_parquet(file)
    push(["scores", str(file)], repo_id="alice/found")
    there = logged_in.store.files("alice/found", kind="dataset")
    (tmp_path / "there").mkdir()
    for name in ("scores.parquet", "findings.parquet", "findings.json", "power.json"):
        assert str(tmp_path).encode() not in there[name]
        (tmp_path / "there" / name).write_bytes(there[name])
    assert read_findings(tmp_path / "there" / "findings.parquet") == tuple(found)
    assert read_report_input(tmp_path / "there" / "scores.parquet").flagged == [0]
    # Scores without a detection, with the findings of others next to them.
    frame.attrs = {}
    frame.to_parquet(file)
    push(["scores", str(file)], repo_id="alice/alone")
    assert "findings.parquet" not in logged_in.store.files("alice/alone", kind="dataset")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("weight", -1.0, "the weight of frame 0 is -1.0"),
        ("weight", "much", "column 'weight'"),
        ("valid", "yes", "column 'valid'"),
        ("source", 7, "column 'source' is int64, not text"),
        ("scorer", None, "lacks the column 'scorer'"),
    ],
)
def test_scores_are_checked_before_a_repository_is_created(
    column: str, value: object, message: str, logged_in: HubServer, tmp_path: Path
) -> None:
    whole: dict[str, Any] = {"index": 0, "episode_index": 0, "frame_index": 0, "task_index": 0, "source": "a"}
    whole |= {"score": 0.0, "weight": 1.0, "valid": True, "scorer": "b"}
    frame = pd.DataFrame([whole | {column: value}])
    (frame if value is not None else frame.drop(columns=column)).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=message):
        push(["scores", str(tmp_path / "bad.parquet")], repo_id="alice/bad")
    assert logged_in.requests == []


def test_a_recipe_reads_dataset_and_policy_from_the_hub(pushed_run: tuple[Path, Store], tmp_path: Path) -> None:
    _, store = pushed_run
    names = {"dataset": "alice/reach@main", "policy": "alice/story", "output_dir": str(tmp_path / "next")}
    short = {"max_steps": 2, "per_device_train_batch_size": 16, "warmup_steps": 1, "disable_tqdm": True}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**names, **short}))
    trained = hf_ptr("train", recipe)
    assert trained.returncode == 0, trained.stderr
    assert hf_ptr("push", tmp_path / "next", "--repo-id", "alice/next").returncode == 0
    card = ModelCard(store.files("alice/next")["README.md"].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("alice/story", "finetune")
    assert "Base policy: [alice/story](https://huggingface.co/alice/story)" in card.text
    recipe.write_text(
        yaml.safe_dump({**names, **short, "policy": "alice/story@v9", "output_dir": str(tmp_path / "no")})
    )
    assert "the model alice/story has no revision 'v9'. It has main" in the_line(hf_ptr("train", recipe))
    assert not (tmp_path / "no").exists()


def test_without_a_token_nothing_is_written(
    story: tuple[Path, Store], metaworld_dataset: Path, tmp_path: Path, hub: HubServer
) -> None:
    pushed = hf_ptr("push", story[0], "--repo-id", "alice/mine")
    assert "writing to the Hub needs a token: log in with `hf auth login`, or set HF_TOKEN" in the_line(pushed)
    result = train(metaworld_dataset, tmp_path / "run", push_to_hub="true")
    assert "writing to the Hub needs a token" in the_line(result)
    assert not (tmp_path / "run").exists() and hub.store.repos == {}
    result = train(metaworld_dataset, tmp_path / "run", hub_token="hf_alice")
    assert "hub_token is set on the command line, and the folder of a run contains its recipe" in the_line(result)


def test_the_hub_is_checked_before_the_data_are_read(tmp_path: Path, hub: HubServer, monkeypatch: Any) -> None:
    given = {**SHORT, "dataset": "alice/nothing", "output_dir": tmp_path / "run", "push_to_hub": "true"}
    wrong = {"hub_model_id": "no/such/name"}, {"hub_model_id": "alice/mine"}
    base = {"policy": tmp_path, "use_peft": "true"}
    for more, message in (
        (wrong[0], "'no/such/name' is not a valid repo id"),
        (wrong[1], "writing to the Hub needs a token"),
        (base, "which is not on the Hub; push it first"),
    ):
        with pytest.raises(InputError, match=message):
            run_recipe(RECIPE, [f"{key}={value}" for key, value in {**given, **more}.items()])
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    # A missing policy or missing weights are reported before the dataset, the largest part, is downloaded.
    bare = tmp_path / "recipe.yaml"
    bare.write_text("observation_features: [observation.state]\n")
    for more, message in (
        ({"policy": "alice/gone"}, "alice/gone is neither a local folder nor a model on the Hub"),
        ({"weights": "alice/gone", "alpha": 0}, "alice/gone is neither a local folder nor a dataset on the Hub"),
        ({}, "alice/nothing is neither a local folder nor a dataset on the Hub"),
    ):
        with pytest.raises(InputError, match=message):
            settings = {**given, **more}
            if "policy" in more:
                # The policy brings the settings that a recipe gives for a new one.
                settings = {key: value for key, value in settings.items() if key not in NEW_POLICY_FIELDS}
            run_recipe(bare if "policy" in more else RECIPE, [f"{key}={value}" for key, value in settings.items()])
        asked = [request for request in hub.requests if "alice/nothing" in request]
        assert bool(asked) == (not more)
    # The client may query its own account first.
    first = next(request for request in hub.requests if "whoami" in request or "alice" in request)
    assert first == "GET /api/whoami-v2" and hub.store.repos == {} and not (tmp_path / "run").exists()


def test_a_finished_run_is_pushed_with_its_results(pushed_run: tuple[Path, Store], tmp_path: Path) -> None:
    out, store = pushed_run
    results = tmp_path / "results.json"
    evaluated = hf_ptr("evaluate", out, "--dataset", "alice/reach", "--episodes", "0:3", "--json", results)
    assert evaluated.returncode == 0, evaluated.stderr
    pushed = hf_ptr(
        "push", out, "--repo-id", "alice/finished", "--license", "apache-2.0", "--results", results, "--message", "it"
    )
    assert pushed.returncode == 0, pushed.stderr
    text = store.files("alice/finished")["README.md"].decode()
    assert card_complaints(text, "model") == [] and store.repos["model", "alice/finished"].messages == ["it"]
    measured = json.loads(results.read_text())["arms"]["ptr"]
    card_results = {result.metric_type: result for result in ModelCard(text).data.eval_results}
    assert set(card_results) == {"action_mae", "action_mse", "ratio_to_hold_state"} & set(measured)
    assert card_results["action_mse"].metric_value == measured["action_mse"]["mean"]
    assert card_results["action_mse"].metric_args["interval"] == measured["action_mse"]["interval"]
    assert card_results["action_mse"].dataset_type == "alice/reach"
    part = hf_ptr("push", out / "scorer", "--repo-id", "alice/part")
    assert part.returncode == 0, part.stderr
    card = store.files("alice/part")["README.md"].decode()
    assert card_complaints(card, "model") == [] and "A transition scorer" in card and "20 optimiser steps" in card
    wrong = hf_ptr("push", out / "checkpoint-10" / "nothing", "--repo-id", "alice/nothing")
    assert "holds no saved model" in the_line(wrong) and ("model", "alice/nothing") not in store.repos


def test_a_run_whose_push_failed_is_pushed_when_rerun(
    metaworld_dataset: Path, tmp_path: Path, logged_in: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By default the client waits 23 seconds between its attempts.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    out = tmp_path / "late"
    given = {**SHORT, "dataset": metaworld_dataset, "output_dir": out, "max_steps": 2, "belief_tokens": 0, "alpha": 0}
    given |= {"push_to_hub": "true", "hub_strategy": "end", "hub_private_repo": "true"}
    overrides = [f"{key}={value}" for key, value in given.items()]
    logged_in.breaks = 99
    with pytest.raises(InputError, match=r"is trained, but could not be pushed: .* rerun the command"):
        run_recipe(RECIPE, overrides)
    repo, trained = logged_in.store.repos["model", "alice/late"], (out / "model.safetensors").stat()
    assert "End of training" not in repo.messages
    logged_in.breaks = 0
    assert run_recipe(RECIPE, overrides) == out
    assert repo.messages[-1] == "End of training" and repo.private
    assert logged_in.store.files("alice/late")["README.md"] == (out / "README.md").read_bytes()
    assert not any(name.startswith("_") for name in logged_in.store.files("alice/late"))
    assert (out / "model.safetensors").stat() == trained
    logged_in.requests.clear()
    assert run_recipe(RECIPE, overrides) == out and logged_in.requests == []


def test_a_failing_card_does_not_stop_training(
    pushed_run: tuple[Path, Store], metaworld_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, store = pushed_run
    trainer = going_on("alice/story", metaworld_dataset, tmp_path / "odd", push_to_hub=True, save_steps=1)
    trainer.args.save_strategy = SaveStrategy.STEPS
    (tmp_path / "odd").mkdir(exist_ok=True)
    (tmp_path / "odd" / "evaluation.json").write_text('{"arms": ')
    trainer.train()
    assert trainer.state.global_step == 2 and "evaluation.json is damaged" in caplog.text
    assert "the checkpoint could not be pushed; the training continues" in caplog.text
    assert not list((tmp_path / "odd").glob("_push-*"))
    trainer.save_model(_internal_call=True)
    with pytest.raises(InputError, match=r"evaluation.json is damaged"):
        push([str(tmp_path / "odd")], repo_id="alice/nothing")
    assert ("model", "alice/nothing") not in store.repos


def test_a_card_written_by_a_user_is_kept(
    pushed_run: tuple[Path, Store], metaworld_dataset: Path, tmp_path: Path
) -> None:
    _, store = pushed_run
    trainer = going_on("alice/story", metaworld_dataset, tmp_path / "mine")
    trainer.train()
    trainer.save_model()
    (tmp_path / "mine" / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    trainer.push_to_hub()
    assert store.files("alice/mine")["README.md"] == b"---\nlicense: mit\n---\nMine.\n"


def going_on(base: str, dataset: Path, out: Path, peft: LoraConfig | None = None, **settings: Any) -> PTRTrainer:
    """A trainer of two steps on a policy from a path or a repo id."""
    args = PTRConfig(output_dir=str(out), max_steps=2, disable_tqdm=True, save_strategy="no", alpha=0, **settings)
    return PTRTrainer(
        base,
        args,
        train_dataset=ChunkDataset(read_dataset(dataset), observation_features=["observation.environment_state"]),
        processing_class=AutoProcessor.from_pretrained(model_folder(base)),
        peft_config=peft,
    )


def test_an_adapter_names_the_policy_on_the_hub(
    pushed_run: tuple[Path, Store], metaworld_dataset: Path, tmp_path: Path
) -> None:
    out, store = pushed_run
    lora = LoraConfig(r=2, target_modules="all-linear")
    with pytest.raises(InputError, match="which is not on the Hub; push it first"):
        going_on(str(out), metaworld_dataset, tmp_path / "local", lora, push_to_hub=True)
    assert not (tmp_path / "local").exists() and ("model", "alice/local") not in store.repos
    trainer = going_on("alice/story", metaworld_dataset, tmp_path / "adapter", lora, push_to_hub=True)
    trainer.train()
    trainer.push_to_hub(license="mit", language="en", tags="kitchen")
    files = store.files("alice/adapter")
    commit = store.repos["model", "alice/story"].branches["main"]
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("alice/story", commit)
    text = files["README.md"].decode()
    assert (
        card_complaints(text, "model") == [] and "A LoRA adapter for [alice/story]" in text and "| `r` | 2 |" in text
    )
    data = yaml.safe_load(text.split("---")[1])
    assert data["license"] == "mit" and data["language"] == "en" and {"lora", "kitchen"} <= set(data["tags"])
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == (
        "alice/story",
        "adapter",
        "peft",
    )
    pulled = model_folder("alice/adapter")
    assert base_model_source(str(pulled)) == f"alice/story@{commit}"
    policies = (AutoModel.from_pretrained("alice/adapter").eval(), trainer.model.policy.eval())
    processor = AutoProcessor.from_pretrained("alice/adapter")
    first, second = (torch.tensor(actions_of(policy, processor)) for policy in policies)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
