"""The episodes of a run: those that a recipe selects, and their digests in the folder of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hf_ptr.data.corruption import CorruptionTruth, corrupt
from hf_ptr.data.episode_ids import parse_episodes
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.lerobot.usable import read_usable
from hf_ptr.data.lerobot.videos import with_video_decoder
from hf_ptr.errors import InputError, UnknownEpisodeError
from hf_ptr.hub.datasets import with_origin, with_streamed_videos
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.utils.atomic_files import write_json

DATA_FILE = "data.json"


class Episodes(Protocol):
    """Episode ids in a recipe or in one of its sources. None selects all episodes, or holds none out."""

    @property
    def episodes(self) -> str | None: ...

    @property
    def skip_episodes(self) -> str | None: ...

    @property
    def eval_episodes(self) -> str | None: ...


@dataclass(frozen=True)
class Split:
    """
    The selected episodes of a dataset, as recorded.

    Attributes:
        whole: all selected episodes.
        train: the training episodes.
        held_out: the held-out episodes, or None.
        skip: ids of the unusable episodes that were left out.
    """

    whole: EpisodeTable
    train: EpisodeTable
    held_out: EpisodeTable | None
    skip: list[int]


@dataclass(frozen=True)
class Selection(Split):
    """
    The selected episodes of a dataset, with synthetic faults in `train`.

    Attributes:
        truth: the synthetic faults.
    """

    truth: CorruptionTruth


def select_episodes(dataset: Path, data: DataArguments, features: Sequence[str] | None = None) -> Selection:
    """
    Reads the episodes that a recipe selects, and adds its synthetic faults to the training episodes.

    Args:
        dataset: folder of the dataset.
        data: data arguments of the recipe.
        features: the vectors to read; None reads all.

    Raises:
        InputError: as [`split_episodes`] or [`corrupt`].
    """
    split = split_episodes(dataset, data, features)
    train, truth = corrupt(split.train, data.corruption, data.corruption_seed, data.corruption_severity)
    return Selection(split.whole, train, split.held_out, split.skip, truth)


def split_episodes(dataset: Path, data: Episodes, features: Sequence[str] | None = None) -> Split:
    """
    Reads training and held-out episodes.

    Args:
        dataset: folder of the dataset.
        data: data arguments with the ids.
        features: the vectors to read; None reads all.

    Raises:
        InputError: the dataset cannot be read, or an episode is in both sets.
    """
    skip = parse_episodes(data.skip_episodes, "skip_episodes") or []
    episodes, held_out = (
        None if ids is None else [number for number in ids if number not in set(skip)]
        for ids in (parse_episodes(data.episodes), parse_episodes(data.eval_episodes, "eval_episodes"))
    )
    both = sorted(set(episodes or ()) & set(held_out or ()))
    if both:
        raise InputError(f"episodes {both} are in episodes and in eval_episodes; hold out others")
    wanted = None if episodes is None else [*episodes, *(held_out or ())]
    try:
        whole = with_origin(read_usable(dataset, wanted, skip=skip, features=features), dataset)
        if held_out and episodes is None:
            episodes = [number for number in whole.episode_index.tolist() if number not in set(held_out)]
        table = whole if episodes is None else whole.select(episodes)
        return Split(whole, table, None if held_out is None else whole.select(held_out), skip)
    except UnknownEpisodeError as error:
        given = {"eval_episodes": held_out, "episodes": episodes, "skip_episodes": skip}
        key = next((name for name, ids in given.items() if error.episode in (ids or ())), "episodes")
        raise InputError(f"{key} of the recipe: {error}; correct {key}") from error


def with_video_options(table: EpisodeTable, dataset: Path, data: DataArguments) -> EpisodeTable:
    """The table with the video decoder of a recipe, and with videos streamed from the Hub where it asks for that."""
    table = with_video_decoder(table, data.video_decoder)
    return with_streamed_videos(table, dataset) if data.streaming else table


def require_same_data(folder: Path, data: Mapping[str, Any]) -> None:
    """
    Writes digests of a run's data to `data.json`, or checks that a resumed run has the data that it started with.

    Args:
        folder: folder of the run.
        data: datasets of chunks, or mixtures, by their use; None is left out.

    Raises:
        InputError: the run started with other data.
    """
    found = {
        name: [_describe(part) for part in getattr(dataset, "parts", [dataset])]
        for name, dataset in data.items()
        if dataset is not None
    }
    file = folder / DATA_FILE
    if not file.is_file():
        write_json(found, file)
        return
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged; delete {folder}, or choose another output_dir") from error
    if recorded != found:
        raise InputError(
            f"output_dir {folder} contains a run on other data ({file}): the dataset has changed since it started; "
            "choose another output_dir, or delete the folder to start over"
        )


def _describe(chunks: Any) -> dict[str, Any]:
    table, weights = chunks.table, chunks.weights
    digest = None if weights is None else hashlib.blake2b(weights.numpy().tobytes(), digest_size=16).hexdigest()
    return {"source": table.source, "episodes": table.num_episodes, "digest": data_digest(table), "weights": digest}
