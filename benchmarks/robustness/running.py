"""One run of the benchmark: from a cell of the table to a line of the results."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.robustness.arms import Arm, arm_of
from benchmarks.robustness.peers import PEERS, policy_loss, weights_from_goodness
from benchmarks.robustness.statistics import auroc
from benchmarks.robustness.suites import ROOT, SUITES, WORK, Suite
from hf_ptr.curation.scores import score_dataset, write_scores
from hf_ptr.data.corruption import CorruptionTruth, corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot_reader import read_dataset
from hf_ptr.evaluation.rollouts import evaluate_metaworld
from hf_ptr.policies import load_policy
from hf_ptr.training.recipe import load_recipe
from hf_ptr.training.run import run_recipe

SEVERITIES = ("mild", "severe")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
ORACLE_WEIGHTS = (0.25, 4.0)
# Modules that a run loads and that its figures do not depend on: files are read and written as they are, and the data
# have a hash of their own.
NOT_HASHED = ("cli", "curation", "errors", "files", "data.columns", "data.lerobot_", "data.recording", "data.weights")


@dataclass(frozen=True)
class Cell:
    """One run: an arm on a corruption of a suite, with a seed that all arms share."""

    suite: str
    corruption: str
    arm: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where the run is made."""
        return WORK / self.suite / f"{self.corruption}-{self.seed}" / self.arm

    @property
    def definition(self) -> Suite:
        """The suite."""
        return SUITES[self.suite]


def train(cell: Cell, weights: Path | None = None) -> Path:
    """The trained run of a cell; nothing is done where it stands already."""
    return run_recipe(*_recipe_of(cell, weights))


def run_cell(cell: Cell, workers: int = 1) -> dict[str, Any]:
    """Trains and evaluates one cell, and returns its line of the results."""
    start = time.monotonic()
    hashes = hashes_of(cell)
    arm, suite = arm_of(cell.arm), cell.definition
    table, truth = corrupt(read_dataset(suite.demonstrations_of(cell.seed)), cell.corruption, cell.seed)
    scores, file = None, None
    if arm.weighting is not None:
        scores = _weights(arm, cell, table, truth)
        file = write_scores(scores, cell.folder.with_suffix(".parquet"))
    folder = train(cell, file)
    if scores is None and (folder / "scorer").is_dir():
        scores = score_dataset(folder, table, seed=cell.seed)
    success = evaluate_metaworld(
        folder, suite.tasks, suite.rollouts, seed=cell.seed, workers=workers, cache=cell.folder.parent / "rollouts"
    )
    corruption, _, severity = cell.corruption.partition("-")
    settings = load_recipe(*_recipe_of(cell, file)).training
    return {
        "suite": cell.suite,
        "corruption": corruption,
        "severity": severity or "paper",
        "arm": cell.arm,
        "scoring": settings.scoring if settings.with_scorer else None,
        "seed": cell.seed,
        "successes": success.overall.successes,
        "episodes": success.overall.episodes,
        "outcomes": {
            task: "".join("01"[solved] for solved in solved_by) for task, solved_by in success.outcomes.items()
        },
        **_figures(scores, table, truth),
        "seconds": round(time.monotonic() - start, 1),
        "commit": commit(),
        **hashes,
    }


def hashes_of(cell: Cell) -> dict[str, str]:
    """What the result of a cell depends on: the settings, the data and the code."""
    recipe = load_recipe(*_recipe_of(cell, None))
    # Folders are where a run is made, not what it is.
    settings = {key: value for key, value in recipe.given.items() if key not in ("dataset", "output_dir")}
    suite = cell.definition
    evaluation = {"tasks": suite.tasks, "rollouts": suite.rollouts, "arm": cell.arm}
    return {
        "recipe_hash": _digest(json.dumps([settings, evaluation], sort_keys=True, default=str)),
        "data_hash": data_hash(suite.demonstrations_of(cell.seed)),
        "code_hash": code_hash(),
    }


def data_hash(folder: Path) -> str:
    """Of everything in a dataset's folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _digest("".join(f"{file.relative_to(folder)} {_digest_bytes(file.read_bytes())}\n" for file in files))


@cache
def code_hash() -> str:
    """Of the library's modules that a run loads, without comments and docstrings: a better text changes no figure."""
    names = sorted(name.removeprefix("hf_ptr.") for name in sys.modules if name.startswith("hf_ptr."))
    counted = {name: sys.modules[f"hf_ptr.{name}"].__file__ for name in names if not name.startswith(NOT_HASHED)}
    return _digest("".join(f"{name} {_code_of(Path(str(file)))}\n" for name, file in counted.items()))


@cache
def commit() -> str:
    """The commit of the checkout, `-dirty` with changes on top."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _recipe_of(cell: Cell, weights: Path | None) -> tuple[Path, list[str]]:
    arm, suite = arm_of(cell.arm), cell.definition
    overrides = [
        f"dataset={suite.demonstrations_of(cell.seed)}",
        f"output_dir={cell.folder}",
        f"corruption={cell.corruption}",
        f"corruption_seed={cell.seed}",
        f"seed={cell.seed}",
        "save_strategy=no",
        "disable_tqdm=true",
        *suite.overrides,
        *arm.overrides,
    ]
    if weights is not None:
        overrides.append(f"weights={weights}")
    return suite.recipe(arm.recipe), overrides


def _weights(arm: Arm, cell: Cell, table: EpisodeTable, truth: CorruptionTruth) -> pd.DataFrame:
    """The score file of a weighted arm: `score` is what it was made from, higher is better."""
    features = load_recipe(*_recipe_of(cell, None)).data.observation_features
    other = None if arm.needs is None else train(Cell(cell.suite, cell.corruption, arm.needs, cell.seed))
    if arm.weighting == "oracle":
        score = np.where(np.repeat(truth.any, table.lengths), -1.0, 1.0)
        weight = np.where(score < 0, *ORACLE_WEIGHTS)
    elif arm.weighting == "random":
        assert other is not None
        weight = score_dataset(other, table, seed=cell.seed).weight.to_numpy(copy=True)
        np.random.default_rng(cell.seed).shuffle(weight)
        score = weight
    else:
        if arm.weighting == "loss":
            score = policy_loss(*load_policy(str(other)), table, seed=cell.seed)
        else:
            score = PEERS[str(arm.weighting)](table, cell.seed, observation_features=features)
        weight = weights_from_goodness(score)
    return pd.DataFrame(
        {
            "index": table.frame_id,
            "episode_index": np.repeat(table.episode_index, table.lengths),
            "score": score,
            "weight": weight,
            "valid": True,
        }
    )


def _figures(scores: pd.DataFrame | None, table: EpisodeTable, truth: CorruptionTruth) -> dict[str, Any]:
    """How well the score tells each fault from fault-free episodes, and how the weights are spread."""
    if scores is None:
        return {"auroc_sample": {}, "auroc_episode": {}, "ess": None, "weight_mean": None, "weight_quantiles": None}
    weight = scores.weight.to_numpy(np.float64)
    counted = scores.valid.to_numpy(bool)
    score, episode = scores.score.to_numpy(np.float64)[counted], table.episode_of_row[counted]
    rows = np.bincount(episode, minlength=table.num_episodes)
    mean = np.divide(np.bincount(episode, score, table.num_episodes), rows, where=rows > 0, out=np.zeros(len(rows)))
    faults = {**truth.faults, "any": truth.any}
    by_sample, by_episode = {}, {}
    for name, carries in faults.items():
        by_sample[name] = auroc(score[~truth.any[episode]], score[carries[episode]])
        by_episode[name] = auroc(mean[~truth.any & (rows > 0)], mean[carries & (rows > 0)])
    return {
        "auroc_sample": by_sample,
        "auroc_episode": by_episode,
        "ess": float(weight.sum() ** 2 / (weight**2).sum() / len(weight)),
        "weight_mean": float(weight.mean()),
        "weight_quantiles": [float(value) for value in np.quantile(weight, QUANTILES)],
    }


def _code_of(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _digest(text: str) -> str:
    return _digest_bytes(text.encode())


def _digest_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
