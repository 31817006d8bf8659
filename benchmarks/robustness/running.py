"""One run of the benchmark: from a cell of a table to a line of the results."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from benchmarks.robustness.arms import arm_of
from benchmarks.robustness.behaviour import is_current, parts_of, versions
from benchmarks.robustness.figures import NO_FIGURES, score_figures
from benchmarks.robustness.planting import OPERATORS, Truth, is_planted, planting_code, read_planted
from benchmarks.robustness.selecting import EXTERNAL, pinned_version
from benchmarks.robustness.suites import EMBODIMENTS, ROOT, SUITES, WORK, Start, Suite
from benchmarks.robustness.weighting import score_file
from hf_ptr.cli.train import exit_when_stopped
from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import write_scores
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.evaluation.episodes import AS_TRAINED
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.runs.run import DONE_FILE, run_recipe
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.training.calibrated_weights import SCORES_FILE
from hf_ptr.utils.atomic_files import write_json

# What a result depends on: `recipe_hash`, `data_hash` and the versions of its parts, `behaviour`.
Dependencies = dict[str, Any]
# Those that must match even where results of an older behaviour are accepted.
INPUTS = ("recipe_hash", "data_hash")


@dataclass(frozen=True)
class Cell:
    """One run: an arm on a corruption of a suite, with a seed shared by all arms."""

    suite: str
    corruption: str
    arm: str
    seed: int

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return WORK / self.suite / f"{self.corruption.replace(' ', '_')}-{self.seed}" / self.arm

    @property
    def definition(self) -> Suite:
        """The suite."""
        return SUITES[self.suite]

    @property
    def planted(self) -> Path | None:
        """The folder of the demonstrations with a kind of `benchmarks.robustness.planting`; None without one."""
        if not is_planted(self.corruption):
            return None
        kind = self.corruption.replace(" ", "_")
        # Other code may plant other faults: it has a folder of its own.
        name = f"planted-{kind}-{self.definition.demonstrations}-{self.seed}-{planting_code()}"
        return WORK / self.suite / name

    @property
    def operators(self) -> str:
        """The operators of its demonstrations, a key of `OPERATORS`; empty for the expert alone."""
        return self.corruption if self.corruption in OPERATORS else ""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The control modes of each policy that the run trains."""
        controls = self.definition.controls
        return tuple((control,) for control in controls) if arm_of(self.arm).separate else (controls,)

    def folder_of(self, group: tuple[str, ...]) -> Path:
        """The folder in which the policy for these control modes is trained."""
        return self.folder if group == self.definition.controls else self.folder / "-".join(group)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of `benchmarks.robustness.behaviour` that its result depends on."""
        return parts_of(arm_of(self.arm), several_robots=len(self.definition.controls) > 1)

    @property
    def needed(self) -> Cell | None:
        """The cell whose finished run this one reads, if any."""
        needs = arm_of(self.arm).needs
        return None if needs is None else Cell(self.suite, self.corruption, needs, self.seed)


def run_cell(cell: Cell, depends_on: Dependencies, commit: str, keep: bool = False) -> dict[str, Any]:
    """
    Trains and evaluates one cell.

    Args:
        cell: the run.
        depends_on: its dependencies when the command started.
        commit: of the checkout at that time.
        keep: accept a finished run of an older behaviour for the arm that this one needs.

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
        evaluated = cell if arm.belief == AS_TRAINED or cell.needed is None else cell.needed
        folder = train(evaluated, group, files, keep=keep and evaluated != cell)
        # The same checkpoint may act differently under another behaviour.
        cache = cell.folder.parent / f"rollouts-{_digest(json.dumps(depends_on['behaviour'], sort_keys=True))}"
        for control in group:
            success = evaluate_in(
                MetaWorld(),
                folder,
                suite.tasks,
                suite.rollouts,
                seed=cell.seed,
                workers=1,
                cache=cache,
                source=control if len(group) > 1 else None,
                belief=arm.belief,
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
        # The scorer of a mixture does not score a single dataset.
        **(_score_figures(cell, folder, scores, *data[suite.controls[0]]) if len(data) == 1 else NO_FIGURES),
        "seconds": round(time.monotonic() - start, 1),
        "commit": commit,
        **depends_on,
    }


def train_start(start: Start, keep: bool = False) -> Path:
    """
    The policy that a suite's runs start from, trained unless its folder holds a run with the same dependencies.

    With `keep`, a finished run with the same settings and data is accepted whatever its behaviour: all arms must
    start from the same policy.
    """
    depends_on = {
        "recipe_hash": _digest(json.dumps(_start_definition(start), sort_keys=True, default=str)),
        "data_hash": data_hash(start.data),
        "behaviour": versions(("sft",)),
    }
    return _trained(start.folder, depends_on, _start_recipe(start), keep=keep)


def train(
    cell: Cell, group: tuple[str, ...], weights: Mapping[str, Path] = MappingProxyType({}), *, keep: bool = False
) -> Path:
    """
    The trained run of a cell for some control modes, trained unless its folder holds a run with the same dependencies.

    With `keep`, a finished run with the same settings and data is accepted whatever its behaviour.
    """
    return _trained(cell.folder_of(group), dependencies_of(cell), _recipe_of(cell, group, weights), keep=keep)


def dependencies_of(cell: Cell) -> Dependencies:
    """Hashes of the settings and data that the result of a cell depends on, and the versions of its parts."""
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
    if arm.belief != AS_TRAINED:
        definition["belief"] = arm.belief
    if suite.start is not None:
        definition["start"] = _start_definition(suite.start)
    if arm.weighting in EXTERNAL:
        definition["rdq"] = pinned_version()
    if cell.planted is not None:
        definition["planted"] = data_hash(cell.planted)
    if len(suite.controls) > 1:
        definition |= {"controls": suite.controls, "groups": cell.groups, "corruption": cell.corruption}
    return {
        "recipe_hash": _digest(json.dumps(definition, sort_keys=True, default=str)),
        "data_hash": data_hash(
            *(suite.demonstrations_of(cell.seed, control, cell.operators) for control in suite.controls)
        ),
        "behaviour": versions(cell.parts),
    }


def is_up_to_date(cell: Cell, line: Mapping[str, Any], depends_on: Dependencies, *, keep: bool = False) -> bool:
    """
    Whether a line of the results is valid for a cell with these dependencies.

    With `keep`, a line of an older behaviour can, too; settings and data must always be the same.
    """
    same_inputs = all(line.get(name) == depends_on[name] for name in INPUTS)
    return same_inputs and (keep or is_current(line, cell.parts))


@cache
def data_hash(*folders: Path) -> str:
    """
    Hash of the datasets in folders: the values of the episodes and the video files.

    Neither the storage format of a table nor the files that describe its recording count.
    """
    listed = ""
    for folder in folders:
        listed += f"{data_digest(read_dataset(folder))}\n"
        for video in sorted(folder.rglob("*.mp4")):
            listed += f"{video.relative_to(folder)} {hashlib.sha256(video.read_bytes()).hexdigest()}\n"
    return _digest(listed)


def _trained(folder: Path, depends_on: Dependencies, recipe: tuple[Path, list[str]], *, keep: bool) -> Path:
    """The folder with the recipe's finished run, reused or resumed where the file next to it states the same."""
    file = folder.with_name(f"{folder.name}.json")
    stored = json.loads(file.read_text()) if file.exists() else {}
    if keep and (folder / DONE_FILE).exists() and all(stored.get(name) == depends_on[name] for name in INPUTS):
        return folder
    if stored != depends_on:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(depends_on, file)
    with exit_when_stopped():
        return run_recipe(*recipe)


def _score_figures(
    cell: Cell, folder: Path, scores: pd.DataFrame | None, table: EpisodeTable, truth: Truth
) -> dict[str, Any]:
    """Figures of the weights that a run was given or made."""
    if (folder / SCORES_FILE).exists():
        scores = pd.read_parquet(folder / SCORES_FILE)
    elif scores is None and (folder / "scorer").is_dir():
        scores = score_dataset(folder, table, seed=cell.seed)
    return NO_FIGURES if scores is None else score_figures(scores, table, truth)


def _settings(cell: Cell) -> dict[str, Any]:
    return _without_folders(load_recipe(*_recipe_of(cell, cell.groups[0])).given)


def _without_folders(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe without its folders, which do not affect the result."""
    return {key: value for key, value in given.items() if key not in ("dataset", "output_dir", "policy", "sources")}


def _observed(cell: Cell) -> list[str]:
    """The observation features of the cell's policy."""
    start = cell.definition.start
    recipe = _recipe_of(cell, cell.groups[0]) if start is None else _start_recipe(start)
    return load_recipe(*recipe).data.observation_features


def _start_recipe(start: Start) -> tuple[Path, list[str]]:
    settings = (f"dataset={start.data}", f"output_dir={start.folder}", f"seed={start.seed}", "save_strategy=no")
    return ROOT / "recipes" / start.recipe, [*settings, *start.overrides]


def _start_definition(start: Start) -> dict[str, Any]:
    return {**asdict(start), "settings": _without_folders(load_recipe(*_start_recipe(start)).given)}


def _corrupted(cell: Cell, control: str) -> tuple[EpisodeTable, Truth]:
    """The corrupted demonstrations in a control mode, and which episodes and frames have which fault."""
    if cell.planted is not None:
        return read_planted(cell.planted)
    good = read_dataset(cell.definition.demonstrations_of(cell.seed, control))
    table, truth = corrupt(good, cell.corruption, cell.seed)
    return table, Truth.of_episodes(table, truth)


def _recipe_of(
    cell: Cell, group: tuple[str, ...], weights: Mapping[str, Path] = MappingProxyType({})
) -> tuple[Path, list[str]]:
    arm, suite = arm_of(cell.arm), cell.definition
    data = {
        control: {
            **_dataset(cell, control),
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


def _dataset(cell: Cell, control: str) -> dict[str, Any]:
    if cell.planted is not None:
        return {"dataset": str(cell.planted)}
    folder = cell.definition.demonstrations_of(cell.seed, control)
    return {"dataset": str(folder), "corruption": cell.corruption, "corruption_seed": cell.seed}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
