"""Shared parts of the benchmark commands: the summary of measured values, result files, small forms, exit codes."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SMALL = ROOT / "runs" / "small"


def run(name: str, main: Callable[[], None]) -> None:
    """Calls a command's `main`. Wrong input ends it with one line that starts with the module's name, and code 2."""
    try:
        main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


def command_parser(name: str, description: str | None, *, small: bool = True) -> argparse.ArgumentParser:
    """A parser for `python -m benchmarks.NAME`, with its first line as description, and the option `--small`."""
    first_line = (description or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=first_line)
    if small:
        meaning = "tiny sizes, to check in seconds that the command runs; results go to runs/small"
        parser.add_argument("--small", action="store_true", help=meaning)
    return parser


def results_file(name: str, small: bool) -> Path:
    """`benchmarks/results/NAME.json`, or for the small form a file outside the repository."""
    return (SMALL if small else RESULTS) / f"{name}.json"


def write_results(result: dict[str, Any], file: Path) -> None:
    """Writes the results and prints where."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(result, file)
    print(f"written to {file}")


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Number, median, minimum and maximum of repeated measurements."""
    return {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(values: Sequence[float], others: Sequence[float]) -> dict[str, float | int]:
    """Summary of the ratios formed within each round."""
    return summary([value / other for value, other in zip(values, others, strict=True)])


def ratio_text(each: dict[str, Any], form: str = ".3f") -> str:
    """A summary as `median (min to max, n = N)`."""
    return f"{each['median']:{form}} ({each['min']:{form}} to {each['max']:{form}}, n = {each['n']})"


def machine() -> dict[str, Any]:
    """The hardware and software that affect a measurement of time."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


class StepClock(TrainerCallback):
    """
    Measures a training run.

    Args:
        warm_up: number of steps before the measurement.

    Attributes:
        seconds: mean seconds per optimiser step after the warm-up, data loading included.
        before_first_step: seconds from the construction of the clock to the first step.
    """

    def __init__(self, warm_up: int):
        self.warm_up = warm_up
        self.created = time.perf_counter()
        self.seconds = self.before_first_step = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.before_first_step = time.perf_counter() - self.created

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.warm_up:
            self.start = time.perf_counter()
        if state.global_step == args.max_steps:
            self.seconds = (time.perf_counter() - self.start) / (args.max_steps - self.warm_up)
