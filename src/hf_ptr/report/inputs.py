"""The input of a report: a score file or the folder of a run, and the episodes that were scored."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episode_ids import episode_ranges, parse_episodes
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.usable import read_usable
from hf_ptr.data.score_file import ELEMENT_PREFIX, SCORES_FILE, read_scores
from hf_ptr.detection.findings import Finding, flagged_episodes
from hf_ptr.detection.findings_file import MissingFindings, read_beside
from hf_ptr.detection.harm import lowered_episodes
from hf_ptr.equations import weight_bounds
from hf_ptr.errors import InputError, first_line
from hf_ptr.hub.datasets import score_file_path, with_origin, with_streamed_videos
from hf_ptr.hub.repos import dataset_folder, parse_hub_dataset
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.runs.episodes import select_episodes
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.training.weight_histograms import read_histograms

logger = logging.getLogger(__name__)
TRAINER_STATE = "trainer_state.json"
STEP = re.compile(r"checkpoint-(\d+)")


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
        scored: the number of episodes in the score file, if the report is about fewer of them; else None.
        findings: the findings beside the score file; None if it has none.
        power: the power card beside the score file, from `read_power`.
        made: how the findings were made: the names of the state and of the action, the seed, the harm.
    """

    name: str
    scores: pd.DataFrame | None
    bounds: tuple[float, float]
    log: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None
    scored: int | None = None
    findings: tuple[Finding, ...] | None = None
    power: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def flagged(self) -> list[int]:
        """Ids of the episodes with a finding of severity `fault`."""
        return flagged_episodes(self.findings or ())

    @property
    def lowered(self) -> list[int]:
        """Ids of the episodes without a fault whose notes lower weights."""
        return lowered_episodes(self.findings or (), self.harm)

    @property
    def dataset(self) -> str | None:
        """The recorded path or repo id of the dataset that was scored or trained on; None if none is recorded."""
        dataset = self.recipe.get("dataset")
        return dataset if isinstance(dataset, str) else None

    @property
    def harm(self) -> dict[str, float]:
        """The user's choice of harm when the findings were made, by name of the check."""
        return self.made.get("harm") or {}

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
    return ReportInput(
        name=path.name, scores=scores, bounds=bounds, recipe=scores.attrs, path=path, **_found_beside(path, scores)
    )


def _found_beside(file: Path, scores: pd.DataFrame) -> dict[str, Any]:
    """The findings beside a score file, if they were written with it."""
    try:
        found = read_beside(file, scores.attrs)
    except MissingFindings as error:
        logger.warning("No findings in the report: %s.", error)
        return {}
    return {} if found is None else {"findings": found.findings, "power": found.power, "made": found.made}


def _read_run(folder: Path) -> ReportInput:
    if (folder / "meta" / "info.json").is_file():
        raise InputError(
            f"{folder} is a dataset; score it with hf-ptr score {shlex.quote(str(folder))}, then report the score file"
        )
    settings = _json(folder / "training_args.json", folder)
    log = _json(_log_file(folder), folder).get("log_history")
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
    found: dict[str, Any] = {}
    given = recipe.get("weights")
    file = folder / SCORES_FILE
    if not file.is_file() and isinstance(given, str):
        file = _given_weights(given)
    if file.is_file():
        scores = read_scores(file)
        found = _found_beside(file, scores)
    if scores is not None and given:
        bounds = (float(scores.weight.min()), float(scores.weight.max()))
    name = folder.name or folder.resolve().name
    return ReportInput(name, scores, bounds, log, settings, recipe, read_histograms(folder), folder, **found)


def _log_file(folder: Path) -> Path:
    """The log of a run; `save_model()` alone writes none, but the last checkpoint has one."""
    file = folder / TRAINER_STATE
    if file.is_file():
        return file
    saved = [(int(name[1]), path) for path in folder.glob("checkpoint-*") if (name := STEP.fullmatch(path.name))]
    logs = [path / TRAINER_STATE for _, path in sorted(saved) if (path / TRAINER_STATE).is_file()]
    if logs:
        return logs[-1]
    raise InputError(
        f"{folder} has a policy but no log ({TRAINER_STATE}): save_model() alone writes none; call "
        "trainer.save_state() as well, or report the score file"
    )


def _given_weights(source: str) -> Path:
    """The score file that a run was trained with, downloaded if it is on the Hub. It may no longer exist."""
    try:
        return score_file_path(source)
    except InputError:
        return Path(source)


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {first_line(error)}"
        raise InputError(
            f"{folder} contains no finished run ({file.name} {problem}); pass the folder of a run, or a score file"
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


def require_frames_of(report: ReportInput, table: EpisodeTable) -> None:
    """
    Checks that the findings of a report are on frames of the table.

    Raises:
        InputError: one is not; the findings belong to another dataset.
    """
    length = dict(zip(table.episode_index.tolist(), table.lengths.tolist(), strict=True))
    for found in report.findings or ():
        if found.last_frame >= length.get(found.episode_index, 0):
            raise InputError(
                f"the findings belong to another dataset than {table.source!r}, which has no frame {found.last_frame} "
                f"in episode {found.episode_index}; pass the scored dataset"
            )


def load_scored_table(
    report: ReportInput,
    dataset: str | Path | None = None,
    *,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
) -> EpisodeTable | None:
    """
    Loads the episodes that were scored or trained on, with the faults that were planted in them.

    Args:
        report: the content of the score file or run.
        dataset: the path or repo id of the dataset; default: the folder that the run or score file names, if it still
            exists.
        episodes: ids of the episodes to report; all by default.
        skip: ids of episodes to leave out.

    Returns:
        The episodes, or None if no dataset is known.

    Raises:
        InputError: the dataset does not exist, or lacks an episode that was scored; no episode is left.
    """
    folder = _dataset_folder(report, dataset)
    if folder is None:
        return None
    made = report.recipe
    if report.settings:
        known = {item.name for item in dataclasses.fields(DataArguments)}
        given = {key: value for key, value in made.items() if key in known}
        if skip:
            left_out = {*(parse_episodes(given.get("skip_episodes")) or ()), *skip}
            given["skip_episodes"] = episode_ranges(left_out)
        table = select_episodes(folder, DataArguments(**given)).train
        return table if episodes is None else table.select(_kept(table.episode_index.tolist(), episodes, ()))
    wanted: list[int] | None = None if episodes is None else list(episodes)
    if report.scores is not None:
        wanted = report.scores.episode_index.unique().tolist()
    if wanted is not None and (episodes is not None or skip):
        wanted = _kept(wanted, episodes, skip)
    table = with_streamed_videos(with_origin(_read_scored(folder, wanted, skip), folder), folder)
    corruption, seed = made.get("corruption"), made.get("corruption_seed", 0)
    if isinstance(corruption, str) and isinstance(seed, int):
        table, _ = corrupt(table, corruption, seed)
    return table


def _read_scored(folder: Path, ids: list[int] | None, skip: Collection[int]) -> EpisodeTable:
    """The given episodes of a dataset. Damage in episodes that were not scored does not concern the report."""
    left_out = set(skip)
    while True:
        try:
            return read_usable(folder, ids, skip=left_out)
        except InputError as error:
            others = set() if ids is None else set(error.skip) - set(ids) - left_out
            if not others:
                raise
            left_out |= others


def _dataset_folder(report: ReportInput, dataset: str | Path | None) -> Path | None:
    """The folder of a dataset, downloaded if it is on the Hub; default: the recorded one, if it still exists."""
    if dataset is None:
        if report.dataset is None:
            return None
        if (Path(report.dataset) / "meta" / "info.json").is_file():
            return Path(report.dataset)
        # A relative path that no longer exists looks like a repo id; the scores name their source.
        repo = parse_hub_dataset(report.dataset)
        if repo is None or report.scores is None or repo.name not in set(report.scores.get("source", ())):
            return None
        try:
            return dataset_folder(report.dataset)
        except InputError as error:
            logger.warning("No film strips in the report: %s", error)
            return None
    if Path(dataset).exists():
        return Path(dataset)
    # Videos of the film strips are downloaded one by one.
    return dataset_folder(dataset)


def _kept(ids: Collection[int], episodes: Collection[int] | None, skip: Collection[int]) -> list[int]:
    """
    The ids among `episodes` that are not left out.

    Raises:
        InputError: none is.
    """
    kept = [number for number in ids if (episodes is None or number in episodes) and number not in skip]
    if not kept:
        raise InputError(f"none of the selected episodes was scored; the scored ones are {episode_ranges(ids)}")
    return kept


def add_run_scores(report: ReportInput, table: EpisodeTable) -> ReportInput:
    """
    The input with the scores of the episodes of a table. A run that saved no scores gets those of its scorer; if that
    fails, the input stays unchanged and a warning is logged: the log of the run is still worth a report.

    A score file may have more episodes than the run trained on, or than were selected for the report; `scored` counts
    them. If it has none of these episodes, it is unchanged, and of another dataset.
    """
    if report.scores is not None:
        ids = report.scores.episode_index
        here = ids.isin(table.episode_index)
        if here.all() or not here.any():
            return report
        scores = report.scores[here].reset_index(drop=True)
        findings = report.findings
        if findings is not None:
            kept = set(table.episode_index.tolist())
            findings = tuple(found for found in findings if found.episode_index in kept)
        return dataclasses.replace(report, scores=scores, scored=ids.nunique(), findings=findings)
    if report.path is None or not (report.path / "scorer").is_dir():
        return report
    # Imported here: PyTorch takes seconds to load, and other reports do not need it.
    from hf_ptr.runs.score_dataset import score_dataset

    try:
        return dataclasses.replace(report, scores=score_dataset(report.path, table))
    except InputError as error:
        logger.warning("No weights in the report, because the scorer of the run cannot be used: %s", error)
        return report
