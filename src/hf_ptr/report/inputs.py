"""The input of a report: a score file or the folder of a run, and the episodes that were scored."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import ELEMENT_PREFIX, SCORES_FILE, read_scores
from hf_ptr.equations import weight_bounds
from hf_ptr.errors import InputError
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.runs.episodes import select_episodes
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.training.weight_histograms import read_histograms

logger = logging.getLogger(__name__)
# Columns of the scores of single elements.


@dataclass(frozen=True)
class ReportInput:
    """
    The content of a score file or of the folder of a run.

    Attributes:
        name: the name in the report.
        scores: one row per frame, as in a score file; None for a run without saved scores.
        bounds: the lowest and highest weight that the settings allow.
        log: the log history in `trainer_state.json`; empty for a score file.
        settings: the settings in `training_args.json`; empty for a score file.
        recipe: the recipe of the run, or the metadata of the score file.
        histograms: the weights during training, from [`read_histograms`].
        path: the score file or folder; None if the input was built in memory.
    """

    name: str
    scores: pd.DataFrame | None
    bounds: tuple[float, float]
    log: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None

    @property
    def dataset(self) -> str | None:
        """The path or repo id of the dataset that was scored or trained on; None if it is not recorded."""
        dataset = self.recipe.get("dataset")
        return dataset if isinstance(dataset, str) else None

    @property
    def held_out(self) -> bool:
        """Whether each episode was scored by heads that were fitted on other episodes."""
        return self.scores is not None and is_calibrated(self.scores)


def is_calibrated(scores: pd.DataFrame) -> bool:
    """Whether the scores are label-free scores, which have one score per element, and not the PTR scores of a run."""
    return any(name.startswith(ELEMENT_PREFIX) for name in scores)


def read_report_input(path: str | Path) -> ReportInput:
    """
    Reads a score file or the folder of a run.

    Raises:
        InputError: the path is neither, or its content is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _read_run(path)
    if path.suffix != ".parquet":
        raise InputError(f"{path} is neither the folder of a run nor a score file (.parquet); write one: hf-ptr score")
    scores = read_scores(path)
    weight = scores.weight.to_numpy()
    inside = weight.min() >= ScoreConfig.w_min - 1e-6 and weight.max() <= ScoreConfig.w_max + 1e-6
    bounds = (ScoreConfig.w_min, ScoreConfig.w_max) if inside else (float(weight.min()), float(weight.max()))
    return ReportInput(name=path.name, scores=scores, bounds=bounds, recipe=scores.attrs, path=path)


def _read_run(folder: Path) -> ReportInput:
    settings = _json(folder / "training_args.json", folder)
    state = _json(folder / "trainer_state.json", folder)
    log = state.get("log_history")
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise InputError(f"{folder / 'trainer_state.json'} is damaged; train the run again")
    try:
        # PTR Eq. (22).
        alpha, w_min, w_max = (float(settings[name]) for name in ("alpha", "w_min", "w_max"))
        low, high = weight_bounds(alpha, w_min, w_max)
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
        scores = read_scores(file)
    if scores is not None and given:
        bounds = (float(scores.weight.min()), float(scores.weight.max()))
    name = folder.name or folder.resolve().name
    return ReportInput(name, scores, bounds, log, settings, recipe, read_histograms(folder), folder)


def _given_weights(source: str) -> Path:
    """The score file that a run was trained with, downloaded if it is on the Hub. It may no longer exist."""
    from hf_ptr.hub.datasets import score_file_path

    try:
        return score_file_path(source)
    except InputError:
        return Path(source)


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} contains no finished run ({file.name}: {error}); pass the folder of a run, or a score file"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged; train the run again")
    return content


def require_rows_of(scores: pd.DataFrame, table: EpisodeTable) -> None:
    """
    Checks that every row of the scores is a frame of the table, with the same episode and frame number.

    Raises:
        InputError: a row is not; the scores belong to another dataset.
    """
    position = np.searchsorted(table.frame_id, scores["index"], sorter=(order := np.argsort(table.frame_id)))
    rows = order[np.minimum(position, table.num_frames - 1)]
    episode = np.repeat(table.episode_index, table.lengths)[rows]
    other = (table.frame_id[rows] != scores["index"]) | (episode != scores.episode_index)
    other |= table.frame_index[rows] != scores.frame_index
    if other.any():
        row = int(np.asarray(other).argmax())
        raise InputError(
            f"the scores belong to another dataset than {table.source!r}, which has no frame {scores['index'][row]} "
            f"as frame {scores.frame_index[row]} of episode {scores.episode_index[row]}; pass the scored dataset"
        )


def load_scored_table(report: ReportInput, dataset: str | Path | None = None) -> EpisodeTable | None:
    """
    Loads the episodes that were scored or trained on, with the faults that were planted in them.

    Args:
        report: the content of the score file or run.
        dataset: the path or repo id of the dataset; default: the folder that the run or score file names, if it still
            exists.

    Returns:
        The episodes, or None if no dataset is known.

    Raises:
        InputError: the dataset does not exist, or lacks an episode that was scored.
    """
    folder = _dataset_folder(report, dataset)
    if folder is None:
        return None
    made = report.recipe
    if report.settings:
        known = {item.name for item in dataclasses.fields(DataArguments)}
        return select_episodes(folder, DataArguments(**{k: v for k, v in made.items() if k in known})).train
    table = read_dataset(folder)
    if report.scores is not None:
        table = table.select(report.scores.episode_index.unique().tolist())
    corruption, seed = made.get("corruption"), made.get("corruption_seed", 0)
    if isinstance(corruption, str) and isinstance(seed, int):
        table, _ = corrupt(table, corruption, seed)
    return table


def _dataset_folder(report: ReportInput, dataset: str | Path | None) -> Path | None:
    """The folder of a dataset, downloaded if it is on the Hub; default: the recorded folder, if it still exists."""
    if dataset is None:
        recorded = None if report.dataset is None else Path(report.dataset)
        return recorded if recorded is not None and (recorded / "meta" / "info.json").is_file() else None
    if Path(dataset).exists():
        return Path(dataset)
    # Imported here: the Hub client takes a second to load.
    from hf_ptr.hub.repos import dataset_folder

    return dataset_folder(dataset, cameras=None)


def add_run_scores(report: ReportInput, table: EpisodeTable) -> ReportInput:
    """
    Adds the scores of a run that saved none, computed with its scorer. If that fails, the input stays unchanged and a
    warning is logged: the log of the run is still worth a report. A score file that the run was given may have more
    episodes than the run trained on; only those of `table` are kept.
    """
    if report.settings and report.scores is not None:
        trained = report.scores.episode_index.isin(table.episode_index)
        return (
            dataclasses.replace(report, scores=report.scores[trained].reset_index(drop=True))
            if trained.any()
            else report
        )
    if report.scores is not None or report.path is None or not (report.path / "scorer").is_dir():
        return report
    # Imported here: PyTorch takes seconds to load, and other reports do not need it.
    from hf_ptr.runs.score_dataset import score_dataset

    try:
        return dataclasses.replace(report, scores=score_dataset(report.path, table))
    except InputError as error:
        logger.warning("No weights in the report, because the scorer of the run cannot be used: %s", error)
        return report
