"""The demo: record, corrupt, train, evaluate and report, small enough for two CPU cores."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from hf_ptr._version import __version__
from hf_ptr.cli.train import exit_when_stopped
from hf_ptr.data.corruption import CorruptionTruth, corrupt, write_corrupted
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import write_scores
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.envs.metaworld.tasks import DEFAULT_TASKS
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.metrics.success import SuccessTable
from hf_ptr.report.inputs import read_report_input
from hf_ptr.report.page import write_report
from hf_ptr.report.summary import with_known_faults
from hf_ptr.runs.run import run_recipe
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.utils.atomic_files import write_json
from hf_ptr.utils.package_data import package_folder

CORRUPTION = "hard"
ARMS = ("sft", "ptr", "calibrated")
# Order in printed tables: the recommended arm first.
SHOWN = ("calibrated", "sft", "ptr")
SECONDS_FILE = "seconds.json"
SETTINGS_FILE = "settings.json"


def run_demo(
    out: Path,
    *,
    episodes: int = 40,
    rollouts: int = 20,
    max_steps: int | None = None,
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """
    Compare calibrated weights with SFT and with PTR as published on demonstrations with planted faults.

    Demonstrations are recorded, faults are added to a copy, and the three arms are trained on the copy and evaluated.
    The report shows the calibrated weights next to SFT. Results of recording, training and evaluation are stored in
    `out`; a later call with the same settings skips finished stages.

    Returns:
        Path of `summary.json`.

    Raises:
        InputError: a number is below 1, or `out` contains a demo with other settings.
    """
    console = Console()
    if min(episodes, rollouts, workers) < 1:
        raise InputError(f"episodes is {episodes}, rollouts {rollouts}, workers {workers}; each must be at least 1")
    recipes = package_folder("recipes") / "vla" / "metaworld_state"
    clean, hard = out / "data" / "clean", out / "data" / CORRUPTION
    runs = {arm: out / arm for arm in ARMS}

    _require_same_settings(
        out,
        {"episodes": episodes, "rollouts": rollouts, "max_steps": max_steps, "seed": seed, "corruption": CORRUPTION},
    )
    console.rule("1/4 record")
    if not clean.exists():
        with _timed(out, "record"):
            record_metaworld(DEFAULT_TASKS, episodes, clean, seed=seed, workers=workers)
    if not hard.exists():
        table, truth = corrupt(read_dataset(clean), CORRUPTION, seed)
        write_corrupted(table, truth, hard)
    table, truth = read_dataset(hard), CorruptionTruth.load(hard)
    console.print(
        f"{len(table.lengths)} demonstrations of {len(table.tasks)} tasks in {hard}; "
        f"{int(truth.any.sum())} of them have a planted fault"
    )

    console.rule("2/4 train")
    for arm, folder in runs.items():
        overrides = [f"dataset={hard}", f"output_dir={folder}", f"seed={seed}"]
        overrides += [] if max_steps is None else [f"max_steps={max_steps}"]
        with exit_when_stopped(), _timed(out, "train", add=True):
            run_recipe(recipes / f"{arm}.yaml", overrides)

    console.rule("3/4 evaluate")
    results = {}
    for arm, folder in runs.items():
        with _timed(out, "evaluate", add=True):
            results[arm] = evaluate_in(
                MetaWorld(), folder, DEFAULT_TASKS, rollouts, seed=seed, workers=workers, cache=out / "rollouts"
            )
        console.print(results[arm].to_rich(title=f"{arm} on {CORRUPTION}"))

    console.rule("4/4 weights and report")
    published = with_known_faults(score_dataset(runs["ptr"], table, seed=seed), truth)
    written = [write_scores(published, out / "ptr_weights.parquet")]
    sft, calibrated = (read_report_input(runs[arm]) for arm in ("sft", "calibrated"))
    assert calibrated.scores is not None
    calibrated = dataclasses.replace(calibrated, scores=with_known_faults(calibrated.scores, truth))
    written.append(write_report(calibrated, out / "report.html", dataset=table, compare=sft))
    weights = {"ptr": _weights(published), "calibrated": _weights(calibrated.scores)}
    summary = out / "summary.json"
    write_json(
        {
            "arms": {arm: result.to_dict() for arm, result in results.items()},
            "mean_weight": weights,
            "seconds": _read_seconds(out),
            "corruption": CORRUPTION,
            "seed": seed,
            "hf_ptr": __version__,
        },
        summary,
    )
    written.append(summary)

    console.print(_shown_weights(weights))
    console.print(_shown_success(results))
    console.print(f"{sum(_read_seconds(out).values()) / 60:.1f} minutes in total, without set-up. Results:")
    for path in (*runs.values(), *written):
        console.print(f"  {path}")
    return summary


def _weights(scores: pd.DataFrame) -> dict[str, float]:
    """Mean weight of chunks with a target, in episodes without and with a fault."""
    valid = scores[scores.valid]
    faulty = valid.fault != ""
    return {"fault-free": float(valid.weight[~faulty].mean()), "faulty": float(valid.weight[faulty].mean())}


def _shown_weights(weights: dict[str, dict[str, float]]) -> Table:
    rows = [(arm, *(f"{mean:.2f}" for mean in weights[arm].values())) for arm in SHOWN if arm in weights]
    return _table("mean weight of chunks in episodes", ("fault-free", "faulty"), rows)


def _shown_success(results: dict[str, SuccessTable]) -> Table:
    rows = []
    for arm in SHOWN:
        overall = results[arm].overall
        low, high = overall.interval
        rows.append((arm, f"{overall.rate:.1%}", f"{low:.1%} to {high:.1%}", str(overall.episodes)))
    title = f"success on {len(DEFAULT_TASKS)} tasks, trained on {CORRUPTION}"
    return _table(title, ("success", "95 % interval", "episodes"), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """Table with one row per arm."""
    shown = Table("arm", title=title)
    for column in columns:
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(*row)
    return shown


def _require_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Record the settings in `out`, or check that a demo to be resumed has the same ones."""
    file = out / SETTINGS_FILE
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(settings, file)
    elif json.loads(file.read_text()) != settings:
        raise InputError(f"{out} contains a demo with other settings ({file}); choose another --out, or delete it")


@contextmanager
def _timed(out: Path, stage: str, add: bool = False) -> Iterator[None]:
    """Record the duration of a stage; with `add`, include earlier and interrupted runs of it."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = _read_seconds(out)
        before = seconds.get(stage, 0.0) if add else 0.0
        out.mkdir(parents=True, exist_ok=True)
        write_json({**seconds, stage: round(before + time.monotonic() - start, 1)}, out / SECONDS_FILE)


def _read_seconds(out: Path) -> dict[str, float]:
    file = out / SECONDS_FILE
    return json.loads(file.read_text()) if file.exists() else {}
