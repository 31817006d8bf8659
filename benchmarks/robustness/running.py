"""One run of the benchmark: from a cell of the table to a line of the results."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from benchmarks.robustness.arms import arm_of
from benchmarks.robustness.figures import NO_FIGURES, score_figures
from benchmarks.robustness.suites import ROOT, SUITES, WORK, Start, Suite
from benchmarks.robustness.weighting import score_file
from hf_ptr import embodiment
from hf_ptr.data.corruption import CorruptionTruth, corrupt
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import write_scores
from hf_ptr.evaluation.rollouts import evaluate_metaworld
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.runs.run import DONE_FILE, run_recipe
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.training.calibrated_weights import SCORES_FILE
from hf_ptr.utils.atomic_files import write_json

Hashes = dict[str, str]

# The robot, as recipes name it, that each control makes of Meta-World's.
EMBODIMENTS = {"hand": "metaworld_sawyer", "joints": "metaworld_sawyer_joints"}

# The hashes that count where older code will do.
KEPT = ("recipe_hash", "data_hash")
FIGURES = ("benchmarks.robustness.figures",)
# What makes the weights of the arms that bring them, those of the calibrated arm, and of no other.
WEIGHTS = (
    "benchmarks.robustness.weighting",
    "benchmarks.robustness.peers",
    "benchmarks.robustness.progress",
)
# What makes the least sample size, which these arms' weights keep.
FLOORED, FLOOR = ("oracle-floor", "oracle-mild"), ("hf_ptr.scoring.calibration",)
CALIBRATED = (
    "hf_ptr.scoring.calibration",
    "hf_ptr.scoring.cross_fitting",
    "hf_ptr.scoring.fit",
    "hf_ptr.scoring.action_noise",
    "hf_ptr.scoring.config",
    "hf_ptr.scoring.novelty",
    "hf_ptr.scoring.transitions",
    "hf_ptr.scoring.identification_heads",
    "hf_ptr.training.calibrated_weights",
)
# What robots of several action spaces share one by, and what is seen of pictures; no figure of other suites depends
# on them.
DESCRIPTIONS = Path(str(embodiment.__file__)).parent / "descriptions"
EMBODIED = ("hf_ptr.embodiment.description", "hf_ptr.embodiment.layout", "hf_ptr.embodiment.unified")
PICTURED = ("hf_ptr.data.video.decoding", "hf_ptr.envs.rendering")
# Modules of the library that a run loads and that no figure depends on, and those counted above.
NOT_HASHED = (
    "hf_ptr.cli",
    "hf_ptr.errors",
    "hf_ptr.utils.atomic_files",
    "hf_ptr.data.lerobot.writer",
    "hf_ptr.envs.recording",
    "hf_ptr.embodiment",
    "hf_ptr.envs.operators",
    "hf_ptr.envs.workers",
    *PICTURED,
    *CALIBRATED,
)


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

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The controls of each of its policies."""
        controls = self.definition.controls
        return tuple((control,) for control in controls) if arm_of(self.arm).separate else (controls,)

    def folder_of(self, group: tuple[str, ...]) -> Path:
        """Where its policy for some controls is trained."""
        return self.folder if group == self.definition.controls else self.folder / "-".join(group)

    @property
    def needed(self) -> Cell | None:
        """The cell whose finished run this one reads."""
        needs = arm_of(self.arm).needs
        return None if needs is None else Cell(self.suite, self.corruption, needs, self.seed)


def run_cell(cell: Cell, hashes: Hashes, commit: str, keep: bool = False) -> dict[str, Any]:
    """
    Trains and evaluates one cell.

    Args:
        cell: what to run.
        hashes: of the cell and of what it needs, as they were when the command began.
        commit: of the checkout at that time.
        keep: whether a finished run of older code will do for the arm that this one needs.

    Returns:
        Its line of the results.
    """
    start = time.monotonic()
    arm, suite = arm_of(cell.arm), cell.definition
    data = {control: _corrupted(cell, control) for control in suite.controls}
    scores, files = None, {}
    if arm.weighting is not None:
        other = None if cell.needed is None else train(cell.needed, suite.controls, keep=keep)
        for control in suite.controls:
            scores = score_file(
                arm.weighting, *data[control], cell.seed, observation_features=_observed(cell), other=other
            )
            files[control] = write_scores(scores, cell.folder.parent / f"{cell.arm}-{control}.parquet")
    solved = {}
    for group in cell.groups:
        folder = train(cell, group, files)
        # Of other code, the same checkpoint may act otherwise.
        cache = cell.folder.parent / f"rollouts-{hashes['code_hash']}"
        for control in group:
            success = evaluate_metaworld(
                folder,
                suite.tasks,
                suite.rollouts,
                seed=cell.seed,
                workers=1,
                cache=cache,
                source=control if len(group) > 1 else None,
            )
            solved |= {suite.row(task, control): of_task for task, of_task in success.outcomes.items()}
    corruption, _, severity = cell.corruption.partition("-")
    settings = load_recipe(*_recipe_of(cell, cell.groups[0])).training
    return {
        "suite": cell.suite,
        "corruption": corruption,
        "severity": severity or "paper",
        "arm": cell.arm,
        "scoring": settings.scoring if settings.with_scorer or settings.calibrates else None,
        "seed": cell.seed,
        "successes": sum(map(sum, solved.values())),
        "episodes": sum(map(len, solved.values())),
        "outcomes": {row: "".join("01"[one] for one in of_row) for row, of_row in solved.items()},
        # A scorer of a mixture does not score a dataset alone.
        **(_score_figures(cell, folder, scores, *data[suite.controls[0]]) if len(data) == 1 else NO_FIGURES),
        "seconds": round(time.monotonic() - start, 1),
        "commit": commit,
        **hashes,
    }


def train_start(start: Start, keep: bool = False) -> Path:
    """
    The policy that a suite's runs begin with; trained anew unless it stands there as it is now, or with `keep` to its
    end and with the same settings and data: all arms must begin with the one.
    """
    hashes = {
        "recipe_hash": _digest(json.dumps(_start_definition(start), sort_keys=True, default=str)),
        "data_hash": data_hash(start.data),
        "code_hash": code_hash(()),
    }
    return _made(start.folder, start.folder.with_suffix(".json"), hashes, _start_recipe(start), keep=keep)


def train(
    cell: Cell, group: tuple[str, ...], weights: Mapping[str, Path] = MappingProxyType({}), *, keep: bool = False
) -> Path:
    """
    The trained run of a cell for some controls; made anew unless it stands there with the same settings, data and
    code, or with `keep` to its end and with the same settings and data.
    """
    folder = cell.folder_of(group)
    recipe = _recipe_of(cell, group, weights)
    return _made(folder, folder.with_name(f"{folder.name}.json"), hashes_of(cell), recipe, keep=keep)


def hashes_of(cell: Cell) -> Hashes:
    """What the result of a cell depends on: the settings, the data and the code."""
    suite, arm = cell.definition, arm_of(cell.arm)
    definition: dict[str, Any] = {
        "tasks": suite.tasks,
        "demonstrations": suite.demonstrations,
        "rollouts": suite.rollouts,
        "weighting": arm.weighting,
        "settings": _settings(cell),
    }
    if cell.needed is not None:
        definition["needed"] = _settings(cell.needed)
    if suite.start is not None:
        definition["start"] = _start_definition(suite.start)
    if len(suite.controls) > 1:
        definition |= {"controls": suite.controls, "groups": cell.groups, "corruption": cell.corruption}
    modules = FIGURES
    modules += WEIGHTS if arm.weighting is not None else ()
    modules += CALIBRATED if arm.recipe == "calibrated" else ()
    modules += FLOOR if cell.arm in FLOORED else ()
    modules += PICTURED if suite.pixels else ()
    robots = tuple(sorted(DESCRIPTIONS.glob("*.yaml"))) if len(suite.controls) > 1 else ()
    modules += EMBODIED if robots else ()
    return {
        "recipe_hash": _digest(json.dumps(definition, sort_keys=True, default=str)),
        "data_hash": data_hash(*(suite.demonstrations_of(cell.seed, control) for control in suite.controls)),
        "code_hash": code_hash(modules, robots),
    }


@cache
def data_hash(*folders: Path) -> str:
    """
    Of the datasets in folders: the episodes as they are read, and their videos. How a table is stored, and what is
    told beside it of its making, changes no figure.
    """
    listed = ""
    for folder in folders:
        listed += f"{data_digest(read_dataset(folder))}\n"
        for video in sorted(folder.rglob("*.mp4")):
            listed += f"{video.relative_to(folder)} {hashlib.sha256(video.read_bytes()).hexdigest()}\n"
    return _digest(listed)


@cache
def code_hash(modules: tuple[str, ...], files: tuple[Path, ...] = ()) -> str:
    """
    Of the library's modules that a run loads, and of some of the benchmark's, without comments and docstrings: a
    better text changes no figure. And of files that are no code.
    """
    library = sorted(name for name in sys.modules if name.startswith("hf_ptr.") and not name.startswith(NOT_HASHED))
    names = [*library, *modules]
    code = "".join(f"{name} {_code_of(Path(str(sys.modules[name].__file__)))}\n" for name in names)
    return _digest(code + "".join(f"{file.name} {file.read_text(encoding='utf-8')}\n" for file in files))


def checkout() -> str:
    """The commit of the checkout, `-dirty` with changes on top."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _made(folder: Path, made_of: Path, hashes: Hashes, recipe: tuple[Path, list[str]], *, keep: bool) -> Path:
    made = json.loads(made_of.read_text()) if made_of.exists() else {}
    if keep and (folder / DONE_FILE).exists() and all(made.get(name) == hashes[name] for name in KEPT):
        return folder
    if made != hashes:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(hashes, made_of)
    return run_recipe(*recipe)


def _score_figures(
    cell: Cell, folder: Path, scores: pd.DataFrame | None, table: EpisodeTable, truth: CorruptionTruth
) -> dict[str, Any]:
    """Of the weights that a run was given or has made."""
    if (folder / SCORES_FILE).exists():
        scores = pd.read_parquet(folder / SCORES_FILE)
    elif scores is None and (folder / "scorer").is_dir():
        scores = score_dataset(folder, table, seed=cell.seed)
    return NO_FIGURES if scores is None else score_figures(scores, table, truth)


def _settings(cell: Cell) -> dict[str, Any]:
    return _without_folders(load_recipe(*_recipe_of(cell, cell.groups[0])).given)


def _without_folders(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys but for folders, which are where a run is made and not what it is."""
    return {key: value for key, value in given.items() if key not in ("dataset", "output_dir", "policy", "sources")}


def _observed(cell: Cell) -> list[str]:
    """The features that the cell's policy reads."""
    start = cell.definition.start
    recipe = _recipe_of(cell, cell.groups[0]) if start is None else _start_recipe(start)
    return load_recipe(*recipe).data.observation_features


def _start_recipe(start: Start) -> tuple[Path, list[str]]:
    settings = (f"dataset={start.data}", f"output_dir={start.folder}", f"seed={start.seed}", "save_strategy=no")
    return ROOT / "recipes" / start.recipe, [*settings, *start.overrides]


def _start_definition(start: Start) -> dict[str, Any]:
    return {**asdict(start), "settings": _without_folders(load_recipe(*_start_recipe(start)).given)}


def _corrupted(cell: Cell, control: str) -> tuple[EpisodeTable, CorruptionTruth]:
    """The demonstrations with a control, as the cell is trained on them, and what is wrong with them."""
    return corrupt(read_dataset(cell.definition.demonstrations_of(cell.seed, control)), cell.corruption, cell.seed)


def _recipe_of(
    cell: Cell, group: tuple[str, ...], weights: Mapping[str, Path] = MappingProxyType({})
) -> tuple[Path, list[str]]:
    arm, suite = arm_of(cell.arm), cell.definition
    data = {
        control: {
            "dataset": str(suite.demonstrations_of(cell.seed, control)),
            "corruption": cell.corruption,
            "corruption_seed": cell.seed,
            **({"weights": str(weights[control])} if control in weights else {}),
        }
        for control in group
    }
    if len(group) == 1:
        overrides = [f"{key}={value}" for key, value in data[group[0]].items()]
    else:
        sources = [{"name": control, "embodiment": EMBODIMENTS[control], **data[control]} for control in group]
        overrides = [f"sources={json.dumps(sources)}"]
    overrides += [
        f"output_dir={cell.folder_of(group)}",
        f"seed={cell.seed}",
        "save_strategy=no",
        "disable_tqdm=true",
        *suite.overrides,
        *arm.overrides,
    ]
    if suite.start is not None:
        overrides.append(f"policy={suite.start.folder}")
    recipe = suite.recipe(arm.recipe)
    if arm.separate:
        steps = load_recipe(recipe, overrides).training.max_steps
        overrides.append(f"max_steps={steps // len(suite.controls)}")
    return recipe, overrides


def _code_of(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
