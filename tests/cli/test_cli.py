"""The command line end to end: exit codes, one-line error messages, and no files written on invalid input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import ROOT, hf_ptr, the_line
from data_helpers import write_v21
from dataset_kinds import reaching

from hf_ptr._version import __version__
from hf_ptr.cli import main
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import read_weights, score_frame, write_scores
from hf_ptr.detection.findings_file import findings_written
from hf_ptr.ptr import CandidatePool
from hf_ptr.runs import score_dataset as scores_module
from hf_ptr.training.weight_histograms import read_histograms
from hf_ptr.utils.atomic_files import require_folder_of

RECIPE = ROOT / "recipes" / "vla" / "metaworld_state" / "ptr.yaml"
SHORT = [
    "max_steps=6",
    "per_device_train_batch_size=16",
    "expert_size=32",
    "num_expert_layers=1",
    "warmup_steps=1",
    "nce_warmup_steps=2",
    "logging_steps=2",
    "disable_tqdm=true",
]


def train(dataset: Path, out: Path, *overrides: str, before: str | None = None) -> subprocess.CompletedProcess[str]:
    return hf_ptr("train", RECIPE, f"dataset={dataset}", f"output_dir={out}", *SHORT, *overrides, before=before)


@pytest.fixture(scope="module")
def run_folder(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ptr"
    result = train(metaworld_dataset, out)
    assert result.returncode == 0, result.stderr
    return out


def test_train_saves_policy_components_and_recipe(metaworld_dataset: Path, run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert {"config.json", "model.safetensors", "scorer", "belief_tokenizer", "recipe.yaml"} <= names
    assert f"dataset: {metaworld_dataset}" in (run_folder / "recipe.yaml").read_text()
    before = (run_folder / "model.safetensors").stat().st_mtime_ns
    again = train(metaworld_dataset, run_folder)
    assert again.returncode == 0 and (run_folder / "model.safetensors").stat().st_mtime_ns == before
    other = train(metaworld_dataset, run_folder, "seed=5")
    assert "contains a run with other settings (seed)" in the_line(other)


@pytest.mark.slow
def test_accelerate_launch_gives_the_same_weights(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "launched"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "-m",
        "hf_ptr.train",
    ]
    command = [*launch, str(RECIPE), f"dataset={metaworld_dataset}", f"output_dir={out}", *SHORT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert (out / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_run_resumes(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    kill = (
        "import os, signal\nfrom transformers import TrainerCallback\n"
        "from hf_ptr.runs import run\n"
        "class Kill(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "start = run._started\n"
        "def with_kill(inputs, folder, resume):\n"
        "    trainer = start(inputs, folder, resume); trainer.add_callback(Kill()); return trainer\n"
        "run._started = with_kill\n"
    )
    out = tmp_path / "killed"
    killed = train(metaworld_dataset, out, "save_steps=3", before=kill)
    assert killed.returncode == -9, killed.stderr
    assert (out / "checkpoint-3").is_dir()
    resumed = train(metaworld_dataset, out, "save_steps=3")
    assert resumed.returncode == 0, resumed.stderr
    assert read_histograms(out) == read_histograms(run_folder) != []
    assert (out / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()


def test_evaluate_in_a_simulator(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    result = hf_ptr(
        "evaluate", run_folder, "--env", "metaworld", "--tasks", "reach", "--episodes", 2, "--max-steps", 30,
        "--workers", 1, "--json", file,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    arm = json.loads(file.read_text())["arms"]["ptr"]
    assert arm["episodes"] == 2 and 0 <= arm["interval"][0] <= arm["success"] <= arm["interval"][1] <= 1
    assert "reach" in result.stdout


def test_evaluate_on_a_dataset(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    result = hf_ptr("evaluate", run_folder, "--dataset", metaworld_dataset, "--episodes", "6:8", "--json", file)
    assert result.returncode == 0, result.stderr
    arm = json.loads(file.read_text())["arms"]["ptr"]
    assert arm["episodes"] == 2 and arm["action_mae"]["mean"] > 0


def test_score_fits_scorers_without_a_policy(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # A few steps suffice to test the data flow; the benchmark measures detection.
    out = tmp_path / "scores.parquet"
    arguments = ["score", str(metaworld_dataset), "steps=3", "--observation", "observation.environment_state"]
    arguments += ["--corruption", "ani-severe"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--out", str(out)])
    assert done.value.code == 0
    scores, table = pd.read_parquet(out), read_dataset(metaworld_dataset)
    assert scores["index"].tolist() == table.frame_id.tolist()
    assert read_weights(out, table) == pytest.approx(scores.weight.to_numpy())
    printed = capsys.readouterr().out
    assert " of 8 episodes " in printed.splitlines()[0]
    # Weights of faults that were added are not for training.
    assert "hf-ptr report" in printed and "weights=" not in printed
    assert "planted fault noise: 2 episodes; AUROC of the scores " in printed
    reported = hf_ptr("report", out)
    assert reported.returncode == 0, reported.stderr
    page = out.with_suffix(".html").read_text()
    assert '<th scope="row">noise</th>' in page and "No findings" not in reported.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--method", "paper"], "--method paper needs --run RUN"),
        (["--run", "run"], "--run is for the paper's score; add --method paper"),
        (["--fit", "--run", "run"], "--run is for the paper's score; add --method paper"),
        (["--fit", "--method", "paper", "--run", "run"], "--fit is the calibrated score"),
        (["rounds=1", "--method", "paper", "--run", "run"], "'rounds=1' configures the calibrated score"),
        (["--method", "paper", "--run", "run", "--observation", "a"], "--observation configures the calibrated score"),
        (["--method", "paper", "--run", "run", "--harm", "action/noise=1"], "--harm configures the calibrated score"),
        (["--harm", "action/nois=1"], "--harm: unknown check 'action/nois'. Did you mean 'action/noise'?"),
        (["--method", "paper", "--run", "run", "--state", "a"], "--state configures the calibrated score"),
        (["--method", "paper", "--run", "run", "--action", "action"], "--action configures the calibrated score"),
        (["--method", "paper", "--run", "run", "--chunk-size", "16"], "--chunk-size configures the calibrated score"),
        (["--method", "paper", "--run", "run", "--target-offset", "8"], "--target-offset configures the calibrated"),
        (["--seed", "1", "seed=5"], "'seed=5' is not a setting here; use --seed"),
        (["rounds"], "'rounds' is not a setting; write key=value"),
        (["round=1"], "unknown setting 'round' of the score. Did you mean 'rounds'?"),
        (["rounds=0"], "rounds is 0; it must be at least 1"),
        (["rounds=[1"], "is not valid YAML"),
    ],
)
def test_score_refuses_arguments_that_do_not_go_together(
    arguments: list[str], complaint: str, metaworld_dataset: Path, tmp_path: Path
) -> None:
    result = hf_ptr("score", metaworld_dataset, *arguments, "--out", tmp_path / "scores.parquet")
    assert complaint in the_line(result)
    assert list(tmp_path.iterdir()) == []


def test_a_score_file_of_another_dataset_is_replaced_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = reaching(4, 20)
    one, other = (write_v21(table, tmp_path / name) for name in ("one", "other"))
    out = tmp_path / "scores.parquet"
    settings = ["steps=2", "rounds=1", "--chunk-size", "4", "--target-offset", "4", "--out", out]

    def warned(dataset: Path | str) -> list[str]:
        done = hf_ptr("score", dataset, *settings)
        assert done.returncode == 0
        return [line for line in done.stderr.splitlines() if "of another dataset" in line]

    assert warned(one) == []
    monkeypatch.chdir(tmp_path)
    assert warned("one") == []
    assert warned(other) == [
        f"warning: {out} has the scores of another dataset, {tmp_path / 'one'}, and will be replaced; "
        "--out names another file"
    ]


def test_a_path_inside_a_dataset_is_refused_with_the_dataset_and_nothing_is_said_to_be_replaced(
    tmp_path: Path,
) -> None:
    root = write_v21(reaching(4, 20), tmp_path / "one")
    out = tmp_path / "scores.parquet"
    before = score_frame(reaching(2, 5), score=1.0, weight=1.0, valid=True, scorer="made")
    write_scores(before, out, dataset="another")
    for inside in ("meta", "data/chunk-000"):
        refused = hf_ptr("score", root / inside, "--out", out)
        line = the_line(refused)
        assert line == (
            f"hf-ptr: {root / inside} is not a LeRobotDataset: meta/info.json is missing; pass {root}, the dataset "
            "around it"
        )
        assert "will be replaced" not in refused.stderr
    assert the_line(hf_ptr("score", tmp_path, "--out", out)).endswith("is missing; pass the folder of one")


def test_a_file_in_the_way_of_a_folder_is_named_before_long_work(tmp_path: Path) -> None:
    root = write_v21(reaching(4, 20), tmp_path / "one")
    scores = tmp_path / "scores.parquet"
    write_scores(score_frame(reaching(2, 5), score=1.0, weight=1.0, valid=True, scorer="made"), scores)
    for command in (("export", scores, "--to", "csv"), ("score", root), ("report", scores), ("init", root)):
        line = the_line(
            hf_ptr(*command, "--out", scores / "y.parquet" if command[0] == "score" else scores / "y.html")
        )
        assert line == f"hf-ptr: {scores} is a file, and cannot hold files; choose another path"
    require_folder_of(tmp_path / "a" / "b" / "c.csv")
    assert not (tmp_path / "a").exists()


def test_a_wrong_choice_names_the_nearest_one(tmp_path: Path) -> None:
    line = the_line(hf_ptr("export", tmp_path / "scores.parquet", "--to", "lerobot-statik"))
    assert line.endswith("'expected'. Did you mean 'lerobot-static'? Try --help.") and "Value error" not in line


def test_the_command_line_is_the_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "hf_ptr", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"hf-ptr {__version__}\n"


def test_score_writes_one_row_per_frame(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    # Findings of a fit that the file replaces, of which nothing may be left.
    with findings_written(files[0], (), {}):
        pass
    for file in files:
        result = hf_ptr("score", metaworld_dataset, "--method", "paper", "--run", run_folder, "--out", file)
        assert result.returncode == 0, result.stderr
    assert sorted(tmp_path.iterdir()) == files
    scores = pd.read_parquet(files[0])
    pd.testing.assert_frame_equal(scores, pd.read_parquet(files[1]))
    frames = json.loads((metaworld_dataset / "meta" / "info.json").read_text())["total_frames"]
    assert scores["index"].tolist() == list(range(frames))
    assert list(scores.columns) == [
        "index", "episode_index", "frame_index", "task_index", "source", "score", "weight", "valid", "scorer",
    ]  # fmt: skip
    assert scores.weight.between(0.02, 4.0).all() and np.isfinite(scores.score).all()
    assert (scores.weight[~scores.valid] == 1.0).all() and scores.valid.mean() > 0.5
    assert scores.weight[scores.valid].std() > 0


def test_a_score_by_a_run_resumes_after_an_interrupt(
    metaworld_dataset: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.parquet"
    command = ["score", metaworld_dataset, "--method", "paper", "--run", run_folder, "--out", out]
    monkeypatch.setattr(scores_module, "CHUNKS_PER_BATCH", 64)
    assert hf_ptr(*command).returncode == 0
    whole = pd.read_parquet(out)
    out.unlink()
    monkeypatch.setattr(scores_module, "SAVE_EVERY", 0.0)
    push, batches = CandidatePool.push, []

    def interrupted(self: CandidatePool, seen: object) -> None:
        batches.append(1)
        if len(batches) == 20:
            raise KeyboardInterrupt
        push(self, seen)

    monkeypatch.setattr(CandidatePool, "push", interrupted)
    assert hf_ptr(*command).returncode == 130 and not out.exists() and (tmp_path / ".scores.parts").is_dir()
    resumed = hf_ptr(*command)
    assert resumed.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    pd.testing.assert_frame_equal(pd.read_parquet(out), whole, check_exact=True)
    # Some batches fill the queue, then all are scored; only the batch before the interrupt is repeated.
    assert len(batches) < 2 * 20


def test_report_of_a_run(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = hf_ptr("report", run_folder, "--compare", run_folder, "--out", out)
    assert result.returncode == 0, result.stderr
    page = out.read_text()
    # The run stores no weights; the report computes them with the run's scorer on its training data.
    assert "identification accuracy: A from" in page and "State and action along the episode" in page
    assert "Early: batches up to step 4" in page
    refused = hf_ptr("report", run_folder, "--dataset", tmp_path, "--out", tmp_path / "other.html")
    assert "meta/info.json" in the_line(refused) and not (tmp_path / "other.html").exists()
    assert "end it in .html" in the_line(hf_ptr("report", run_folder, "--out", tmp_path))


def broken(dataset: Path, folder: Path, value: float) -> Path:
    """A copy with one invalid action value."""
    copy = Path(shutil.copytree(dataset, folder / "broken"))
    file = next((copy / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    actions = np.array(table["action"].to_pylist(), dtype=np.float32)
    actions[40, 2] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), 4)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", column), file)
    return copy


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["chunk_size=400", "n_action_steps=8"], "chunk_size 400 is longer than every episode"),
        (["w_maxx=3"], "unknown key 'w_maxx' on the command line. Did you mean 'w_max'?"),
        (["observation_features=[observation.sate]"], "Did you mean 'observation.state'?"),
        (["episodes=0:99"], "episodes of the recipe: "),
        (["eval_episodes=25"], "eval_episodes of the recipe: "),
        (["eval_episodes=25"], " has no episode 25; its episode ids are in 0..7; correct eval_episodes"),
        (["episodes=0:4", "eval_episodes=25"], "eval_episodes of the recipe: "),
        (["corruption=hrad"], "Did you mean 'hard'?"),
        (["policy=nowhere"], "cannot be set with policy: nowhere determines them; remove the key"),
        (["num_attention_heads=5"], "unknown key 'num_attention_heads'"),
        (["n_action_steps=17"], "n_action_steps is 17; it must lie in 1..16"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line(
    metaworld_dataset: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    result = train(metaworld_dataset, tmp_path / "out", *overrides)
    assert message in the_line(result)
    assert not (tmp_path / "out").exists()


def test_an_existing_policy_keeps_its_architecture(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    refused = train(metaworld_dataset, tmp_path / "out", f"policy={run_folder}", "chunk_size=8")
    assert "cannot be set with policy" in the_line(refused) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_actions_are_refused(metaworld_dataset: Path, tmp_path: Path, value: float) -> None:
    result = train(broken(metaworld_dataset, tmp_path, value), tmp_path / "out")
    line = the_line(result)
    assert "action" in line and "episode 0" in line and "frame 40" in line
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "meta/info.json" in the_line(train(tmp_path / "empty", tmp_path / "out"))
    assert str(tmp_path / "nothing") in the_line(train(tmp_path / "nothing", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_output_folder_with_other_files_is_refused(metaworld_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("draft")
    assert "is not empty and was not created by hf-ptr" in the_line(train(metaworld_dataset, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unknown_tasks_commands_and_checkpoints(tmp_path: Path, run_folder: Path) -> None:
    unknown = hf_ptr("record", "metaworld", "--tasks", "raech", "--out", tmp_path / "data")
    assert "Did you mean 'reach" in the_line(unknown) and not (tmp_path / "data").exists()
    assert "No such command 'recrod'" in the_line(hf_ptr("recrod"))
    assert "meta/info.json" in the_line(hf_ptr("evaluate", run_folder, "--dataset", tmp_path))
    assert "pass one of --env" in the_line(hf_ptr("evaluate", run_folder))
    assert "unknown environment 'metawrld'. Did you mean 'metaworld'?" in the_line(
        hf_ptr("evaluate", run_folder, "--env", "metawrld")
    )
    libero = hf_ptr("evaluate", run_folder, "--env", "libero", "--suite", "libero_goal", "--json", tmp_path / "r.json")
    assert "LIBERO is not installed; pip install 'hf-libero>=0.1.4,<0.2'" in the_line(libero)
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_no_space_left(metaworld_dataset: Path, tmp_path: Path) -> None:
    # The operating system refuses files over 20 kB in this process.
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    recorded = hf_ptr(
        "record", "metaworld", "--tasks", "reach", "--episodes", 3, "--workers", 1, "--out", tmp_path / "data",
        before=limit,
    )  # fmt: skip
    assert "space" in the_line(recorded)
    assert list(tmp_path.iterdir()) == []
    trained = train(metaworld_dataset, tmp_path / "out", before=limit)
    assert "no space left" in the_line(trained)
    assert not (tmp_path / "out" / "train_results.json").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(metaworld_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = hf_ptr("train", RECIPE, f"dataset={metaworld_dataset}", f"output_dir={out}", *SHORT, "--dry-run")
    assert result.returncode == 0 and not out.exists()
    # The table wraps cells that are wider than the terminal.
    shown = "".join(result.stdout.split())
    for said in ("episodes8", "classVLAPolicy", "PTRaspublished", "KiBofvectors", f"folder{out}"):
        assert said in shown
    wrong = hf_ptr("train", RECIPE, f"dataset={metaworld_dataset}", f"output_dir={out}", "w_maxx=3", "--dry-run")
    assert "Did you mean 'w_max'?" in the_line(wrong)


def test_a_run_does_not_resume_on_other_data(metaworld_dataset: Path, run_folder: Path, tmp_path: Path) -> None:
    began = json.loads((run_folder / "data.json").read_text())
    assert began["train"][0]["episodes"] == 8
    changed, out = Path(shutil.copytree(metaworld_dataset, tmp_path / "data")), tmp_path / "out"
    first = train(changed, out, "max_steps=2")
    assert first.returncode == 0, first.stderr
    (out / "train_results.json").unlink()
    file = next((changed / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    actions = np.array(table["action"].to_pylist(), dtype=np.float32)
    actions[0, 0] += 0.01
    column = pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), 4)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", column), file)
    assert "contains a run on other data" in the_line(train(changed, out, "max_steps=2"))


def test_quiet_prints_errors_only(tmp_path: Path) -> None:
    quiet = hf_ptr("--quiet", "doctor")
    assert quiet.returncode == 0 and quiet.stdout == ""
    assert "meta/info.json" in the_line(hf_ptr("-q", "score", tmp_path, "--out", tmp_path / "s.parquet"))


def test_doctor_finds_the_requirements_of_the_tests() -> None:
    found = json.loads(hf_ptr("doctor", "--json").stdout)
    assert found["packages"]["torch"] and found["devices"][-1] == "cpu"
    assert found["rendering"] in ("egl", "osmesa", "glfw", "cgl") and found["codecs"]["av1"]
    assert "video codecs" in hf_ptr("doctor").stdout


@pytest.mark.slow
def test_help_lists_every_command() -> None:
    result = hf_ptr("--help", before="")
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("record", "train", "evaluate", "score", "report", "doctor", "demo"))
