"""What there is to report on: a score file, or the folder of a run with its log, its settings and its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.columns import ColumnFile, open_columns
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import SCORES_FILE
from hf_ptr.errors import InputError, first_line
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.runs.episodes import select_episodes
from hf_ptr.scoring.config import ELEMENTS, W_MAX, W_MIN
from hf_ptr.training.weight_histograms import read_histograms

SCORE_PREFIX = "score_"
NAMES = ("source", "scorer", "failed_element", "failed_check", "fault")
OPTIONAL_IDS = ("frame_index", "task_index", "estimated_lag")


@dataclass(frozen=True)
class ReportInput:
    """
    What is known of a run or a score file.

    Attributes:
        name: how it is called in the report.
        scores: a row a frame, as in a score file; None for a run that left none.
        bounds: the least and the greatest weight that the settings allow.
        log: `trainer_state.json`'s history; empty for a score file.
        settings: of `training_args.json`; empty for a score file.
        recipe: what the run was made from, or what the score file says made it.
        histograms: of the weights while the run trained, as [`read_histograms`] gives them.
    """

    name: str
    scores: pd.DataFrame | None
    bounds: tuple[float, float]
    log: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    histograms: list[dict[str, Any]] = field(default_factory=list)

    @property
    def dataset(self) -> str | None:
        """The folder of the dataset that it was made from, as far as it says."""
        place = self.recipe.get("dataset")
        return place if isinstance(place, str) else None

    @property
    def held_out(self) -> bool:
        """Whether each episode was scored by heads that have not seen it."""
        return self.scores is not None and is_calibrated(self.scores)


def is_calibrated(scores: pd.DataFrame) -> bool:
    """Whether the scores are label-free scores, which have one score per element, and not the PTR scores of a run."""
    return any(name.startswith(SCORE_PREFIX) for name in scores)


def read_report_input(place: str | Path) -> ReportInput:
    """
    Reads a score file, or the folder of a run.

    Raises:
        InputError: it is neither, or damaged.
    """
    place = Path(place)
    if place.is_dir():
        return _of_run(place)
    if place.suffix != ".parquet":
        raise InputError(
            f"{place} is neither the folder of a run nor a score file (.parquet); write one: hf-ptr score"
        )
    scores, made = read_scores(place)
    weight = scores.weight.to_numpy()
    inside = weight.min() >= W_MIN - 1e-6 and weight.max() <= W_MAX + 1e-6
    bounds = (W_MIN, W_MAX) if inside else (float(weight.min()), float(weight.max()))
    return ReportInput(name=place.name, scores=scores, bounds=bounds, recipe=made)


def read_scores(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """
    A score file, checked, and what it says made it (`dataset`, `corruption` …; empty where it says nothing).

    Raises:
        InputError: it is missing or damaged, lacks a column, or a weight is negative or not finite.
    """
    if not path.is_file():
        raise InputError(f"score file {path} does not exist; write one with hf-ptr score")
    with open_columns(path) as file:
        columns: dict[str, Any] = {name: file.integers(name) for name in ("index", "episode_index")}
        columns |= {name: file.integers(name) for name in OPTIONAL_IDS if name in file.names}
        columns |= {name: file.numbers(name, 1)[:, 0].astype(np.float64) for name in ("score", "weight")}
        views = [f"{SCORE_PREFIX}{view}" for view in ELEMENTS if f"{SCORE_PREFIX}{view}" in file.names]
        columns |= {name: _distances(file, name) for name in views}
        columns["valid"] = file.numbers("valid", 1)[:, 0].astype(bool)
        columns |= {name: _texts(file, name) for name in NAMES if name in file.names}
        made = _made(file.metadata)
    scores = pd.DataFrame(columns, copy=False)
    if not len(scores):
        raise InputError(f"{path} has no rows; score a dataset with episodes")
    weight = scores.weight.to_numpy()
    wrong = ~(np.isfinite(weight) & (weight >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: the weight of frame {scores['index'][row]} is {weight[row]}; score the data again")
    if not weight.any():
        raise InputError(f"{path}: every weight is 0; score the data again")
    if "frame_index" not in scores:
        scores["frame_index"] = scores.groupby("episode_index").cumcount()
    # Nearly every file is in order, and sorting would hold it twice.
    episode, frame = np.diff(scores.episode_index), np.diff(scores.frame_index)
    if not ((episode > 0) | ((episode == 0) & (frame >= 0))).all():
        scores = scores.sort_values(["episode_index", "frame_index"], kind="stable", ignore_index=True)
    return scores, made


def _distances(file: ColumnFile, name: str) -> np.ndarray:
    """A view's column; a view that was left out has no values, which is no damage."""
    column = file.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"{file.path}: column {name!r} is {column.type}, not numbers")
    return column.to_numpy().astype(np.float64)


def _texts(file: ColumnFile, name: str) -> pd.Series:
    """A column of texts, "" where there is none; not as a list, which is a Python object of its own for every row."""
    column = file.column(name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"{file.path}: column {name!r} is {column.type}, not text")
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.path} is damaged: {first_line(error)}") from error
    return column.fill_null("").to_pandas()


def _made(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What pandas keeps of a frame's `attrs`; whatever else stands there is none of ours."""
    try:
        made = json.loads(metadata.get(b"PANDAS_ATTRS", b"{}"))
    except ValueError:
        return {}
    return made if isinstance(made, dict) else {}


def _of_run(folder: Path) -> ReportInput:
    settings = _json(folder / "training_args.json", folder)
    state = _json(folder / "trainer_state.json", folder)
    log = state.get("log_history")
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise InputError(f"{folder / 'trainer_state.json'} is damaged; train the run again")
    try:
        # PTR Eq. (22). Not from `hf_ptr.functional`: PyTorch takes seconds to load, and a report needs none of it.
        alpha, *ends = (float(settings[name]) for name in ("alpha", "w_min", "w_max"))
        low, high = (1.0 + alpha * (end - 1.0) for end in ends)
        made = folder / "recipe.yaml"
        recipe = yaml.safe_load(made.read_text(encoding="utf-8")) if made.is_file() else {}
    except (KeyError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{folder} is damaged ({type(error).__name__}: {error}); train the run again") from error
    recipe = recipe if isinstance(recipe, dict) else {}
    scores, bounds = None, (low, high)
    given = recipe.get("weights")
    file = folder / SCORES_FILE
    if not file.is_file() and isinstance(given, str):
        file = _given_weights(given)
    if file.is_file():
        scores, _ = read_scores(file)
    if scores is not None and given:
        bounds = (float(scores.weight.min()), float(scores.weight.max()))
    name = folder.name or folder.resolve().name
    return ReportInput(name, scores, bounds, log, settings, recipe, read_histograms(folder))


def _given_weights(place: str) -> Path:
    """The score file that a run was given, pulled where the Hub has it; a place without one where it is gone."""
    from hf_ptr.hub.datasets import score_file_path

    try:
        return score_file_path(place)
    except InputError:
        return Path(place)


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no finished run ({file.name}: {error}); pass a run or a score file"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged; train the run again")
    return content


def require_rows_of(scores: pd.DataFrame, table: EpisodeTable) -> None:
    """Check that every row of the scores is a frame of the table, at the place that it says.

    Raises:
        InputError: it is not; the scores are of another dataset.
    """
    place = np.searchsorted(table.frame_id, scores["index"], sorter=(order := np.argsort(table.frame_id)))
    rows = order[np.minimum(place, table.num_frames - 1)]
    episode = np.repeat(table.episode_index, table.lengths)[rows]
    other = (table.frame_id[rows] != scores["index"]) | (episode != scores.episode_index)
    other |= table.frame_index[rows] != scores.frame_index
    if other.any():
        row = int(np.asarray(other).argmax())
        raise InputError(
            f"the scores are of another dataset than {table.source!r}: it has no frame {scores['index'][row]} as "
            f"frame {scores.frame_index[row]} of episode {scores.episode_index[row]}; pass the dataset that was scored"
        )


def load_scored_table(evidence: ReportInput, dataset: Path | None) -> EpisodeTable | None:
    """
    The episodes that were scored or trained on, with the faults that were put in; None where no dataset is known.

    Args:
        evidence: of the run or score file.
        dataset: its folder, or Hub id; by default the folder that the evidence names, where it is still there.

    Raises:
        InputError: there is no such dataset, or it lacks an episode that was scored.
    """
    if dataset is None:
        named = None if evidence.dataset is None else Path(evidence.dataset)
        if named is None or not (named / "meta" / "info.json").is_file():
            return None
        dataset = named
    elif not dataset.exists():
        # The client of the Hub takes a while to load.
        from hf_ptr.hub.repos import dataset_folder

        dataset = dataset_folder(dataset, cameras=None)
    made = evidence.recipe
    if evidence.settings:
        known = {item.name for item in dataclasses.fields(DataArguments)}
        return select_episodes(dataset, DataArguments(**{k: v for k, v in made.items() if k in known})).train
    table = read_dataset(dataset)
    if evidence.scores is not None:
        table = table.select(evidence.scores.episode_index.unique().tolist())
    corruption, seed = made.get("corruption"), made.get("corruption_seed", 0)
    if isinstance(corruption, str) and isinstance(seed, int):
        table, _ = corrupt(table, corruption, seed)
    return table


def with_scores(evidence: ReportInput, table: EpisodeTable, place: Path) -> ReportInput:
    """The evidence with the scores of the run's own scorer, where it has one and kept none."""
    if evidence.scores is not None or not (place / "scorer").is_dir():
        return evidence
    from hf_ptr.runs.score_dataset import score_dataset

    return dataclasses.replace(evidence, scores=score_dataset(place, table))
