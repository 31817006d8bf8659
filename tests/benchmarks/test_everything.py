"""`make everything` runs and logs each step, resumes, and leaves nothing out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import everything
from hf_ptr.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE)
README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
SMALL_FORMS = README.partition("## Small forms")[2]
# Targets that set up, change files or are part of others.
NO_STEP = {
    "help",
    "install",
    "gl",
    "browser",
    "format",
    "test-fast",
    "oldest",
    "lerobot",
    "libero",
    "atlas-peers",
    "clean",
    "everything",
}
# Commands that need a GPU, data that is not in the repository, or are part of a step: bench-clean, bench-score,
# bench-robustness, communication, policy_sizes and step_memory write the tables.
NO_BENCHMARK_STEP = {
    "host_waits",
    "everything",
    "robustness.report",
    "atlas.pinned",
    "atlas.report",
    "atlas.grasps",
    "training_costs",
}


def test_steps_are_run_logged_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"good": "echo done", "bad": "echo broken >&2; exit 3", "last": f"touch {tmp_path}/last"}
    lines = everything.run_steps(steps, tmp_path, "abc")
    assert [(line["step"], line["exit"], line["commit"]) for line in lines] == [
        ("good", 0, "abc"), ("bad", 3, "abc"), ("last", 0, "abc"),
    ]  # fmt: skip
    assert all(line["seconds"] >= 0 and line["command"] == steps[line["step"]] for line in lines)
    assert (tmp_path / "bad.txt").read_text() == "broken\n" and (tmp_path / "last").exists()
    assert [line["step"] for line in everything.run_steps(steps, tmp_path, "abc")] == ["bad"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4
    assert "bad: exit code 3" in capsys.readouterr().out
    assert len(everything.run_steps(steps, tmp_path, "def")) == 3, "another commit"
    for _ in range(2):
        assert len(everything.run_steps(steps, tmp_path, "abc-dirty")) == 3, "files differ from the commit"


def test_the_command_ends_with_1_if_a_step_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "FOLDER", tmp_path)
    monkeypatch.setattr(everything, "STEPS", {"good": "true", "bad": "false"})
    everything.main(["--only", "good"])
    with pytest.raises(SystemExit) as ended:
        everything.main([])
    assert ended.value.code == 1
    assert {json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()} == {"good", "bad"}
    with pytest.raises(InputError, match=r"'goood', which is not a step\. Did you mean 'good'\?"):
        everything.main(["--only", "goood"])


def test_every_target_and_benchmark_is_a_step() -> None:
    assert len(TARGETS) > 20
    assert [target for target in TARGETS if target not in NO_STEP and f"make {target}" not in _first_words()] == []
    run_by_make = set(re.findall(r"python -m benchmarks\.([\w.]+)", MAKEFILE))
    named = set(re.findall(r"^\| `python -m benchmarks\.([\w.]+)", README, re.MULTILINE)) - {"NAME"}
    missing = {
        name
        for name in named - run_by_make - NO_BENCHMARK_STEP
        if not any(f"benchmarks.{name}" in command for command in everything.STEPS.values())
    }
    assert named and missing == set()


def _first_words() -> set[str]:
    return {" ".join(command.split()[:2]) for command in everything.STEPS.values()}


def test_every_target_has_a_small_form_or_a_reason() -> None:
    listed = set(re.findall(r"`make ([a-z-]+)`", SMALL_FORMS))
    assert listed == set(TARGETS)
    tests = set(re.findall(r"`(tests/[\w/]+\.py)`", SMALL_FORMS))
    assert len(tests) > 10 and [test for test in tests if not (ROOT / test).is_file()] == []


def test_every_benchmark_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    commands = {
        name
        for name in modules
        if 'if __name__ == "__main__"' in (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    }
    helpers = {"lerobot_side"}  # run by benchmarks.loader with LeRobot's Python
    assert [
        name for name in sorted(commands - helpers) if f"benchmarks.{name}" not in README + "benchmarks.everything"
    ] == []
