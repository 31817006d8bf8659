"""
Run every make target and every benchmark in full, and write what was done: command, exit code, seconds.

    python -m benchmarks.everything                # rerun to resume: steps that succeeded at this commit are skipped
    python -m benchmarks.everything --only demo,docs
    python -m benchmarks.everything --list

It takes many hours, most for the tables of the robustness benchmark. A step that fails does not stop the others.
Each line of `runs/everything/log.jsonl` is one step; the printed output of a step is beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measurement import ROOT, command_parser, run
from hf_ptr.errors import InputError, nearest

FOLDER = ROOT / "runs" / "everything"
DATASET = "data/g1_bottle"
PYTHON = f"OMP_NUM_THREADS=1 {sys.executable} -m"

# In this order: what takes minutes first. `DATASET` is a real dataset with a camera.
STEPS = {
    "lint": "make lint",
    "test": "make test",
    "test-oldest": "make test-oldest",
    "test-wheel": "make test-wheel",
    "fuzz": "make fuzz",
    "docs": "make docs",
    "docs-keys": "make docs-keys",
    "docs-checks": "make docs-checks",
    "docs-images": f"make docs-images DATA={DATASET}",
    "demo": "make demo",
    "test-lerobot": "make test-lerobot",
    "test-libero": "make test-libero",
    "test-deepspeed": "make test-deepspeed",
    "bench-import": "make bench-import",
    "bench-smoke": "make bench-smoke",
    "bench": "make bench",
    "bench-loader": "make bench-loader",
    "bench-scaling": "make bench-scaling",
    "atlas": f"make atlas SETS=g1_bottle={DATASET}",
    "atlas.calibration": f"{PYTHON} benchmarks.atlas.calibration --set g1_bottle={DATASET}",
    "pixels_overhead": f"{PYTHON} benchmarks.pixels_overhead",
    "communication": f"{PYTHON} benchmarks.communication",
    "policy_sizes": f"{PYTHON} benchmarks.policy_sizes",
    "step_memory": f"{PYTHON} benchmarks.step_memory",
    "soak": "make soak",
    "behaviour": f"{PYTHON} benchmarks.robustness.behaviour",
    "detection_speed": f"{PYTHON} benchmarks.detection_speed",
    "cosine_scorer": f"{PYTHON} benchmarks.cosine_scorer",
    "score_memory": f"{PYTHON} benchmarks.score_memory",
    "score_scaling": f"{PYTHON} benchmarks.score_scaling",
    "command_scaling": f"{PYTHON} benchmarks.command_scaling",
    "score_soak": f"{PYTHON} benchmarks.score_soak",
    "image_encoder": f"{PYTHON} benchmarks.image_encoder g1_bottle={DATASET}",
    "five_faults": f"{PYTHON} benchmarks.five_faults {DATASET}",
    "overfit": f"{PYTHON} benchmarks.overfit {DATASET}",
    "bench-score": "make bench-score",
    "score_ablations": f"{PYTHON} benchmarks.score_ablations",
    "bench-clean": "make bench-clean",
    "bench-robustness": "make bench-robustness",
}


def commit() -> str:
    """The commit of the working tree; with a mark if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def done_steps(log: Path, at: str) -> set[str]:
    """The steps that succeeded at a commit. A dirty tree has no such steps, since its files may have changed since."""
    if not log.exists() or at.endswith("-dirty"):
        return set()
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {line["step"] for line in lines if line["commit"] == at and line["exit"] == 0}


def run_steps(steps: dict[str, str], folder: Path, at: str) -> list[dict[str, Any]]:
    """Run the steps that are not done, and log each."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    done = done_steps(log, at)
    lines = []
    for step, command in steps.items():
        if step in done:
            print(f"{step}: done before at {at}", flush=True)
            continue
        begun, start = datetime.now(UTC), time.monotonic()
        print(f"{step}: {command}", flush=True)
        with (folder / f"{step}.txt").open("wb") as output:
            ended = subprocess.run(command, shell=True, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
        line = {
            "step": step,
            "command": command,
            "exit": ended.returncode,
            "seconds": round(time.monotonic() - start, 1),
            "begun": begun.isoformat(timespec="seconds"),
            "commit": at,
        }
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{step}: exit code {line['exit']} after {line['seconds']} s", flush=True)
        lines.append(line)
    return lines


def selected(only: str | None) -> dict[str, str]:
    """The steps of a comma-separated list; all by default."""
    names = list(STEPS) if only is None else only.split(",")
    for name in names:
        if name not in STEPS:
            raise InputError(f"--only names {name!r}, which is not a step.{nearest(name, STEPS)} --list prints them")
    return {name: STEPS[name] for name in STEPS if name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_parser("everything", (__doc__ or "").strip(), small=False)
    parser.add_argument("--only", help="comma-separated steps")
    parser.add_argument("--list", action="store_true", help="print the steps and run nothing")
    options = parser.parse_args(arguments)
    steps = selected(options.only)
    if options.list:
        for step, command in steps.items():
            print(f"{step:<17} {command}")
        return
    failed = [line["step"] for line in run_steps(steps, FOLDER, commit()) if line["exit"]]
    print(f"log in {FOLDER / 'log.jsonl'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run("benchmarks.everything", main)
