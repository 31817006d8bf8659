"""Does it help, against what, and how sure are we?

    python -m benchmarks.robustness main [--seeds 5] [--jobs 2] [--minutes 60] [--keep]

Fills a plan's cells, one run after the other, and writes each as a line of `benchmarks/results/robustness.jsonl`. A
run whose settings, data and code are what they were is not made again; one that was interrupted is. With `--keep`,
lines of older code count too. Then `python -m benchmarks.robustness.report` makes tables and figures from the lines.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.robustness.arms import arm_of
from benchmarks.robustness.results import append, corruption_name, read_lines, results_file
from benchmarks.robustness.running import Cell, hashes_of, run_cell
from benchmarks.robustness.suites import PLANS, SUITES, WORK
from hf_ptr.data.recording import record_metaworld
from hf_ptr.envs.workers import process_pool
from hf_ptr.errors import InputError, nearest


def cells_of(plan: str, seeds: int | None) -> list[Cell]:
    """The cells of a plan, seed by seed: early on there is something of everything."""
    blocks = PLANS[plan]
    most = max(block.seeds for block in blocks)
    return [
        Cell(block.suite, corruption, arm, seed)
        for seed in range(most if seeds is None else seeds)
        for block in blocks
        if seed < block.seeds
        for corruption in block.corruptions
        for arm in block.arms
    ]


def missing_of(cells: Iterable[Cell], lines: list[dict[str, Any]], keep: bool) -> list[Cell]:
    """Those without a line, or with one of other settings, data or (unless `keep`) code."""
    made = {(line["suite"], corruption_name(line), line["arm"], line["seed"]): line for line in lines}
    same = ("recipe_hash", "data_hash") if keep else ("recipe_hash", "data_hash", "code_hash")
    missing = []
    for cell in cells:
        line = made.get((cell.suite, cell.corruption, cell.arm, cell.seed))
        now = hashes_of(cell)
        if line is None or any(line[name] != now[name] for name in same):
            missing.append(cell)
    return missing


def record(cells: Iterable[Cell], workers: int) -> None:
    """The demonstrations that the cells are trained on."""
    for suite, seed in sorted({(cell.suite, cell.seed) for cell in cells}):
        folder = SUITES[suite].demonstrations_of(seed)
        if not folder.exists():
            record_metaworld(SUITES[suite].tasks, SUITES[suite].demonstrations, folder, seed=seed, workers=workers)


def run_all(cells: list[Cell], jobs: int, until: float) -> list[Cell]:
    """Runs cells in processes of one thread, an arm after the one it needs; returns those that time did not allow."""
    waiting, running = list(cells), {}
    with process_pool(jobs) as pool:
        while waiting or running:
            if time.monotonic() > until and not running:
                break
            while time.monotonic() <= until and len(running) < jobs:
                cell = next((cell for cell in waiting if not _held_up(cell, waiting, running.values())), None)
                if cell is None:
                    break
                waiting.remove(cell)
                running[pool.submit(run_cell, cell)] = cell
            _collect(running)
    return waiting


def _held_up(cell: Cell, waiting: list[Cell], running: Iterable[Cell]) -> bool:
    needs = arm_of(cell.arm).needs
    other = Cell(cell.suite, cell.corruption, needs, cell.seed) if needs else None
    return other in waiting or other in running


def _collect(running: dict[Future, Cell]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        cell, line = running.pop(future), future.result()
        append(line)
        rate = line["successes"] / line["episodes"]
        print(
            f"{cell.suite} {cell.corruption} {cell.arm} {cell.seed}: {rate:.1%} in {line['seconds']:.0f} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", help=f"one of {', '.join(PLANS)}")
    parser.add_argument("--seeds", type=int, help="fewer than the plan asks for")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one core")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--keep", action="store_true", help="count lines of older code, too")
    parser.add_argument("--fresh", action="store_true", help="throw the plan's finished runs away first")
    options = parser.parse_args()
    if options.plan not in PLANS:
        raise InputError(f"no plan {options.plan!r}.{nearest(options.plan, PLANS)} There are: {', '.join(PLANS)}")
    until = time.monotonic() + 60 * options.minutes
    cells = cells_of(options.plan, options.seeds)
    if options.fresh:
        for suite in {cell.suite for cell in cells}:
            shutil.rmtree(WORK / suite, ignore_errors=True)
    record(cells, options.jobs)
    missing = missing_of(cells, read_lines("smoke" if options.plan == "smoke" else None), options.keep)
    print(f"{len(cells)} cells, {len(missing)} to run", flush=True)
    for cell in missing:
        # A run that stands there was made by other settings or code, or not finished: it is made again from the start.
        shutil.rmtree(cell.folder, ignore_errors=True)
    left = run_all(missing, options.jobs, until)
    print(f"{len(missing) - len(left)} runs made, {len(left)} left; results in {results_file(cells[0].suite)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"benchmarks.robustness: {error}")
