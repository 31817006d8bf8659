"""The GitHub Action: its shell steps run as GitHub runs them, with bash, on small datasets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from leading_table import leading_table

from hf_ptr.data.lerobot.writer import write_table

ROOT = Path(__file__).resolve().parents[2]
# A detection with one fault in place of the real one, whose self-test takes long.
STAND_IN = """#!{python}
import sys
import numpy as np
import hf_ptr.training.detected_scores as scoring
from hf_ptr.cli import main
from hf_ptr.detection.detect import Detection
from hf_ptr.detection.findings import Finding

late = Finding("action/lag", 2, 0, 39, 0.99, "fault", 6.0, "frames", "commands 6 frames late", "shift them")
scoring.detect_together = lambda table, **settings: Detection(
    (late,), None, {{}}, np.zeros(5), tuple(np.zeros(40) for _ in range(5))
)
main()
"""


def action() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def step(name: str) -> str:
    return next(one["run"] for one in action()["runs"]["steps"] if one.get("name") == name)


def run(name: str, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs it: `bash --noprofile --norc -eo pipefail FILE`, with its own files for outputs."""
    tools = folder / "bin"
    (folder / "temp").mkdir(exist_ok=True)
    script = folder / "step.sh"
    script.write_text(step(name), encoding="utf-8")
    environment = {
        **os.environ,
        **inputs,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "RUNNER_TEMP": str(folder / "temp"),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        capture_output=True, text=True, timeout=240, cwd=folder, env=environment,
    )  # fmt: skip


def made_folders(folder: Path) -> list[Path]:
    """The folders of the uses so far, from their outputs."""
    return [Path(line.removeprefix("folder=")) for line in (folder / "output").read_text().splitlines()]


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("version", "installed"),
    [("", "/of the/action"), ("0.2.0", "hf-ptr==0.2.0"), ("./wheel file.whl", "./wheel file.whl")],
)
def test_the_version_is_installed(tmp_path: Path, version: str, installed: str) -> None:
    tool(tmp_path, "pip", '#!/bin/bash\nprintf "%s\\n" "$@" > pip.txt\n')
    assert run("Install hf-ptr", tmp_path, VERSION=version, ACTION="/of the/action").returncode == 0
    assert (tmp_path / "pip.txt").read_text().splitlines() == ["install", installed]


def test_the_summary_has_the_verdict_and_the_report_is_written(tmp_path: Path) -> None:
    tool(tmp_path, "hf-ptr", STAND_IN.format(python=sys.executable))
    data = write_table(leading_table(5, frames=40), tmp_path / "my data")
    options = "steps=2 rounds=1 --chunk-size 8 --target-offset 8"
    done = run("Score", tmp_path, DATASET=data.name, FAIL_ON="fault", OPTIONS=options)
    assert done.returncode == 1, done.stderr
    folder = made_folders(tmp_path)[0]
    assert {"report.html", "scores.parquet", "findings.parquet", "findings.json", "power.json"} <= {
        path.name for path in folder.iterdir()
    }
    summary = (tmp_path / "summary.md").read_text().splitlines()
    assert summary[0] == "### hf-ptr: `my data`"
    assert summary[2] == "1 of 5 episodes has a fault: ep 2 commands 6 frames late."
    assert "is usable" in done.stdout


def test_an_unusable_dataset_fails_with_its_problems_in_the_summary(tmp_path: Path) -> None:
    tool(tmp_path, "hf-ptr", STAND_IN.format(python=sys.executable))
    data = write_table(leading_table(2, frames=40), tmp_path / "data")
    next((data / "data").rglob("*.parquet")).unlink()
    done = run("Score", tmp_path, DATASET=data.name, FAIL_ON="never", OPTIONS="")
    assert done.returncode == 2 and not (made_folders(tmp_path)[0] / "scores.parquet").exists()
    assert "error: " in (tmp_path / "summary.md").read_text()


# Commands that print and exit as told: the step itself is tested, not hf-ptr.
TOLD = """#!/bin/bash
case "$1" in
  validate) echo "$2 is usable" ;;
  score)
    out="$(dirname "$6")"
    [ "$2" = broken ] && { echo "error: no state in broken" >&2; exit 2; }
    [ "$2" = late ] && { echo "1 of 5 episodes has a fault"; touch "$out/findings.parquet"; exit 1; }
    echo "0 of 5 episodes have a fault"; touch "$out/findings.parquet" ;;
  report) [ -z "$NO_REPORT" ] || { echo "error: no space left" >&2; exit 2; } ;;
esac
"""


def test_a_second_use_shows_its_own_verdict(tmp_path: Path) -> None:
    tool(tmp_path, "hf-ptr", TOLD)
    given = {"FAIL_ON": "fault", "OPTIONS": ""}
    assert [run("Score", tmp_path, DATASET=name, **given).returncode for name in ("late", "broken", "sound")] == [
        1,
        2,
        0,
    ]
    late, broken, sound = (tmp_path / "summary.md").read_text().split("### hf-ptr: ")[1:]
    assert "1 of 5 episodes has a fault" in late
    assert "error: no state in broken" in broken and "of 5 episodes" not in broken
    assert "0 of 5 episodes have a fault" in sound and "error" not in sound
    assert len(set(made_folders(tmp_path))) == 3


def test_a_failed_report_fails_the_job_and_keeps_the_verdict(tmp_path: Path) -> None:
    tool(tmp_path, "hf-ptr", TOLD)
    done = run("Score", tmp_path, DATASET="sound", FAIL_ON="fault", OPTIONS="", NO_REPORT="1")
    summary = (tmp_path / "summary.md").read_text()
    assert done.returncode == 1 and "error: no space left" in done.stderr
    assert "0 of 5 episodes have a fault" in summary and "error: no space left" in summary


def test_inputs_reach_the_shell_through_the_environment_only() -> None:
    """A dataset named `$(rm -rf .)` must stay a name."""
    steps = action()["runs"]["steps"]
    assert all("${{" not in one["run"] for one in steps if "run" in one)
    used = " ".join(str(one.get("env", "")) + str(one.get("with", "")) for one in steps)
    assert all(f"inputs.{name} " in used for name in action()["inputs"])
