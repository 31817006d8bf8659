"""Success rates of policies trained on faulty demonstrations: one plan of runs, each a line of the results.

    python -m benchmarks.robustness main [--seeds 5] [--jobs 2] [--minutes 60] [--keep]

Trains and evaluates every cell of a plan and appends each run to `benchmarks/results/robustness.jsonl`. A cell is
skipped if its line has the same settings, data and behaviour (`benchmarks.robustness.behaviour`); rerun an interrupted
command to resume it. With `--keep`, lines of an older behaviour count, too. `python -m benchmarks.robustness.report`
then writes the tables and figures.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.measurement import run
from benchmarks.robustness.planting import OPERATORS, write_planted
from benchmarks.robustness.results import append, cell_of, checkout, corruption_name, read_lines, results_file
from benchmarks.robustness.running import (
    Cell,
    Dependencies,
    dependencies_of,
    is_up_to_date,
    run_cell,
    train_start,
)
from benchmarks.robustness.suites import PLANS, SUITES, WORK
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError, nearest
from hf_ptr.utils.process_pool import process_pool


def cells_of(plan: str, seeds: int | None) -> list[Cell]:
    """The cells of a plan, seed by seed, so that partial results cover all arms."""
    keys = [key for block in PLANS[plan] for key in block.cells(seeds)]
    return [Cell(*key) for key in sorted(keys, key=lambda key: key[-1])]


def selected(cells: list[Cell], only: str | None) -> list[Cell]:
    """
    The cells whose arm and corruption are among the names. Without names of arms, all arms; likewise for corruptions.

    Raises:
        InputError: a name is neither an arm nor a corruption of the plan.
    """
    names = [name.strip() for name in only.split(",")] if only else []
    for kind in ("arm", "corruption"):
        known = {getattr(cell, kind) for cell in cells}
        if wanted := known & set(names):
            cells = [cell for cell in cells if getattr(cell, kind) in wanted]
            names = [name for name in names if name not in wanted]
    if names:
        raise InputError(f"the plan has no arm or corruption {names[0]!r}; see benchmarks/robustness/suites.py")
    return cells


def missing_of(cells: Iterable[Cell], lines: list[dict[str, Any]], keep: bool) -> dict[Cell, Dependencies]:
    """The cells without an up-to-date line, with their dependencies; with `keep`, any behaviour is accepted."""
    made = {cell_of(line): line for line in lines}
    missing = {}
    for cell in cells:
        line = made.get((cell.suite, cell.corruption, cell.arm, cell.seed))
        depends_on = dependencies_of(cell)
        if line is None or not is_up_to_date(cell, line, depends_on, keep=keep):
            missing[cell] = depends_on
    return missing


def record(cells: Collection[Cell], workers: int) -> None:
    """Records the demonstrations of the cells and plants their faults, where they are missing."""
    for name, seed, operators in sorted({(cell.suite, cell.seed, cell.operators) for cell in cells}):
        suite = SUITES[name]
        for control in suite.controls:
            folder = suite.demonstrations_of(seed, control, operators)
            given = {"pixels": suite.pixels, "control": control, "operators": OPERATORS.get(operators, ("expert",))}
            if not folder.exists():
                record_metaworld(suite.tasks, suite.demonstrations, folder, seed=seed, workers=workers, **given)
    for cell in cells:
        if cell.planted is not None and not cell.planted.exists():
            demonstrations = cell.definition.demonstrations_of(cell.seed, operators=cell.operators)
            write_planted(demonstrations, cell.corruption, cell.seed, cell.planted)


def start(cells: Iterable[Cell], workers: int, keep: bool) -> None:
    """Trains the policies that the cells start from, and records their demonstrations where they are missing."""
    for begun in {cell.definition.start for cell in cells} - {None}:
        if not begun.data.exists():
            record_metaworld(begun.tasks, begun.demonstrations, begun.data, seed=begun.seed, workers=workers)
        train_start(begun, keep)


def run_all(
    cells: dict[Cell, Dependencies], jobs: int, until: float, keep: bool = False
) -> tuple[dict[Cell, str], list[Cell]]:
    """
    Runs cells in single-threaded processes, each arm after the one it needs.

    Returns:
        The error message of each failed cell, and the cells not started because time ran out or a process was killed.
    """
    waiting, commit = list(cells), checkout()
    running: dict[Future, Cell] = {}
    failed: dict[Cell, str] = {}
    with process_pool(jobs) as pool:
        while True:
            for cell in [cell for cell in waiting if cell.needed in failed]:
                waiting.remove(cell)
                failed[cell] = f"needs {cell.needed}"
            while time.monotonic() <= until and len(running) < jobs:
                cell = next((cell for cell in waiting if cell.needed not in [*waiting, *running.values()]), None)
                if cell is None:
                    break
                try:
                    running[pool.submit(run_cell, cell, cells[cell], commit, keep)] = cell
                except BrokenProcessPool:
                    # A killed process takes the pool down: its cell has failed, this one has not started.
                    until = -math.inf
                    break
                waiting.remove(cell)
            if not running:
                return failed, waiting
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    _report(future.result())
                except Exception as error:
                    failed[cell] = str(error) or type(error).__name__
                    print(f"{cell}: {failed[cell]}", file=sys.stderr, flush=True)


def _report(line: dict[str, Any]) -> None:
    append(line)
    what = f"{line['suite']} {corruption_name(line)} {line['arm']} {line['seed']}"
    print(f"{what}: {line['successes'] / line['episodes']:.1%} in {line['seconds']:.0f} s", flush=True)


@contextmanager
def alone() -> Iterator[None]:
    """Holds a lock, because two commands at once would train in the same folders."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError("another benchmarks.robustness is running in this checkout; wait for it") from error
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__.splitlines()[0])
    parser.add_argument("plan", help=f"one of {', '.join(PLANS)}")
    parser.add_argument("--seeds", type=int, help="use only the first N seeds of the plan")
    parser.add_argument("--only", help="comma-separated arms or corruptions to run, e.g. hard,clean,sft,ptr")
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one core each")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after this many minutes")
    parser.add_argument("--keep", action="store_true", help="accept results of an older behaviour")
    parser.add_argument("--fresh", action="store_true", help="run every cell of the plan again")
    options = parser.parse_args()
    if options.plan not in PLANS:
        raise InputError(f"no plan {options.plan!r}.{nearest(options.plan, PLANS)} There are: {', '.join(PLANS)}")
    if options.jobs < 1 or (options.seeds is not None and options.seeds < 1) or not options.minutes > 0:
        raise InputError("--jobs, --seeds and --minutes must be at least 1")
    until = time.monotonic() + 60 * options.minutes
    cells = selected(cells_of(options.plan, options.seeds), options.only)
    with alone():
        record(cells, options.jobs)
        lines = [] if options.fresh else read_lines(options.plan == "smoke")
        missing = missing_of(cells, lines, options.keep)
        print(f"{len(cells)} cells, {len(missing)} to run", flush=True)
        start(missing, options.jobs, options.keep)
        failed, left = run_all(missing, options.jobs, until, options.keep)
    made = len(missing) - len(failed) - len(left)
    print(f"{made} passed, {len(failed)} failed, {len(left)} left; results in {results_file(options.plan == 'smoke')}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run("benchmarks.robustness", main)
