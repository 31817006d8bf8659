"""The episodes that a run or a score file speaks of, and the scores of a run that kept none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.report.evidence import Evidence
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.runs.episodes import select_episodes


def scored_table(evidence: Evidence, dataset: Path | None) -> EpisodeTable | None:
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

        dataset = dataset_folder(dataset, ["*"])
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


def with_scores(evidence: Evidence, table: EpisodeTable, place: Path) -> Evidence:
    """The evidence with the scores of the run's own scorer, where it has one and kept none."""
    if evidence.scores is not None or not (place / "scorer").is_dir():
        return evidence
    from hf_ptr.runs.score_dataset import score_dataset

    return dataclasses.replace(evidence, scores=score_dataset(place, table))
