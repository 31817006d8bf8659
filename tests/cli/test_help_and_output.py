"""Help with examples, shell completion, colours, quiet mode and JSON output of the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from command_line import hf_ptr, the_line
from data_helpers import LENGTH, drifting_table, vector

import hf_ptr as hf_ptr_package
from hf_ptr.cli import app
from hf_ptr.data.lerobot.writer import write_table


def commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All commands, including those of command groups."""
    found = [words] if words else []
    for name, inner in getattr(command, "commands", {}).items():
        found += commands(inner, (*words, name))
    return found


def run(*arguments: str, **environment: str) -> str:
    """Standard output of a new process, independent of the terminal that runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    # Under the name of the console script, hf_ptr does not load transformers.
    script = f"import sys\nsys.argv = ['hf-ptr']\nfrom hf_ptr.cli import main\nmain({list(arguments)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env={**inherited, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", commands(typer.main.get_command(app)), ids=" ".join)
def test_every_help_has_examples(words: tuple[str, ...]) -> None:
    shown = hf_ptr(*words, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Example" in shown.stdout and f"hf-ptr {' '.join(words)}" in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("typed", "completed"), [("tr", {"train"}), ("re", {"record", "report"}), ("score --me", {"--method"})]
)
def test_a_shell_completes_commands_and_options(typed: str, completed: set[str]) -> None:
    line = f"hf-ptr {typed}"
    asked = {"_HF_PTR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    script = "import sys\nsys.argv = ['hf-ptr']\nfrom hf_ptr.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env={**os.environ, **asked}
    )
    assert set(done.stdout.split()) == completed, done.stderr


def test_a_completion_script_is_printed() -> None:
    # The output of --show-completion, which detects the shell that started it.
    assert "_HF_PTR_COMPLETE=complete_bash" in run(_HF_PTR_COMPLETE="source_bash")


def test_version() -> None:
    shown = hf_ptr("--version")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"hf-ptr {hf_ptr_package.__version__}\n", "")


def test_no_color_is_obeyed() -> None:
    color = re.compile(r"\x1b\[[\d;]*3[0-7]")
    assert color.search(run("--help", FORCE_COLOR="1", TERM="xterm-256color"))
    assert not color.search(run("--help", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(drifting_table([LENGTH] * 8), tmp_path_factory.mktemp("comfort") / "data")


CHUNKS = ("--chunk-size", 8, "--target-offset", 8)
SHORT = ("steps=2", "rounds=1")


def test_scores_as_json_and_in_quiet_mode(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    shown = hf_ptr("score", data, *SHORT, *CHUNKS, "--corruption", "foreign", "--json", "--out", out)
    progress = re.compile(r"(.* after \d+:\d\d min.*\n)*")
    assert shown.returncode == 0 and progress.fullmatch(shown.stderr), shown.stderr
    found = json.loads(shown.stdout)
    assert found["frames"] == 8 * LENGTH and found["with_target"] == 8 * (LENGTH - 8) and found["scores"] == str(out)
    assert sorted(one["episode"] for one in found["episodes"]) == list(range(8))
    weights = [one["weight"] for one in found["episodes"]]
    assert weights == sorted(weights) and 0 < found["ess"] <= 1
    assert found["faults"][0]["fault"] == "foreign_actions" and 0 <= found["faults"][0]["auroc"] <= 1
    quiet = hf_ptr("--quiet", "score", data, *SHORT, *CHUNKS, "--out", out)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert "TQDM_DISABLE" not in os.environ


def test_dimensions_at_rest_are_named(data: Path, tmp_path: Path) -> None:
    table = drifting_table([LENGTH] * 8)
    still = np.random.default_rng(0).normal(0.0, 0.001, (table.num_frames, 2)).astype(np.float32)
    state = np.concatenate((still[:, :1], table.columns["observation.state"], still[:, 1:]), axis=1)
    resting = dataclasses.replace(
        table,
        columns={**table.columns, "observation.state": state},
        features={**table.features, "observation.state": vector(4)},
    )
    lines = {}
    for name, folder in (("moving", data), ("resting", write_table(resting, tmp_path / "data"))):
        out = hf_ptr("score", folder, *SHORT, *CHUNKS, "--out", tmp_path / f"{name}.parquet").stdout
        lines[name] = [line for line in out.splitlines() if line.startswith("dimensions that do not move")]
    assert lines["moving"] == []
    assert lines["resting"] == ["dimensions that do not move, and are not scored: observation.state 0, 3"]


def test_a_plan_as_json(metaworld_dataset: Path, tmp_path: Path) -> None:
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "vla" / "metaworld_state" / "sft.yaml"
    given = [f"dataset={metaworld_dataset}", f"output_dir={tmp_path / 'out'}"]
    plan = json.loads(hf_ptr("train", recipe, *given, "--dry-run", "--json").stdout)
    assert plan["data"]["episodes"] == 8 and "MiB" in plan["memory"]["peak of a step"]
    assert "--json needs --dry-run" in the_line(hf_ptr("train", recipe, *given, "--json"))


def test_unavailable_devices_are_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    for device in ("cuda:7", "gpu"):
        refused = hf_ptr("score", data, *CHUNKS, "--device", device, "--out", out)
        assert f"--device {device} cannot be used here" in the_line(refused)
    assert list(tmp_path.iterdir()) == []
