"""Which episodes of a dataset a recipe trains on and holds out, with the faults that it puts in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hf_ptr.data.corruption import CorruptionTruth, corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import require_usable, validate_dataset
from hf_ptr.data.lerobot.videos import with_video_decoder
from hf_ptr.errors import InputError
from hf_ptr.hub.datasets import with_origin, with_streamed_videos
from hf_ptr.runs.data_arguments import DataArguments, parse_episodes


class Episodes(Protocol):
    """Ids of episodes as a recipe, or a source in it, names them; None for all, or for none held out."""

    @property
    def episodes(self) -> str | None: ...

    @property
    def skip_episodes(self) -> str | None: ...

    @property
    def eval_episodes(self) -> str | None: ...


@dataclass(frozen=True)
class Split:
    """
    What is taken of a dataset, as recorded.

    Attributes:
        whole: all of it.
        train: what is trained on.
        held_out: what is not; None without.
        skip: ids of the unusable episodes that were left out.
    """

    whole: EpisodeTable
    train: EpisodeTable
    held_out: EpisodeTable | None
    skip: list[int]


@dataclass(frozen=True)
class Selection(Split):
    """
    What a recipe takes of its dataset: of what is trained on, with the faults that were put in.

    Attributes:
        truth: those faults.
    """

    truth: CorruptionTruth


def select_episodes(dataset: Path, data: DataArguments) -> Selection:
    """
    Reads what a recipe asks for. Faults are drawn among the very episodes that are trained on.

    Args:
        dataset: its folder.
        data: of the recipe.

    Raises:
        InputError: as [`split_episodes`], or as [`corrupt`].
    """
    split = split_episodes(dataset, data)
    train, truth = corrupt(split.train, data.corruption, data.corruption_seed, data.corruption_severity)
    return Selection(split.whole, train, split.held_out, split.skip, truth)


def split_episodes(dataset: Path, data: Episodes) -> Split:
    """
    Reads the episodes that are trained on, and those that are held out.

    Args:
        dataset: its folder.
        data: which those are.

    Raises:
        InputError: the dataset cannot be read, or an episode is both trained on and held out.
    """
    skip = parse_episodes(data.skip_episodes) or []
    episodes, held_out = (
        None if ids is None else [number for number in ids if number not in set(skip)]
        for ids in (parse_episodes(data.episodes), parse_episodes(data.eval_episodes))
    )
    both = sorted(set(episodes or ()) & set(held_out or ()))
    if both:
        raise InputError(f"episodes {both} are in episodes and in eval_episodes; hold out others")
    wanted = None if episodes is None else [*episodes, *(held_out or ())]
    whole = with_origin(_read(str(dataset), wanted, skip), dataset)
    if held_out and episodes is None:
        episodes = [number for number in whole.episode_index.tolist() if number not in set(held_out)]
    table = whole if episodes is None else whole.select(episodes)
    return Split(whole, table, None if held_out is None else whole.select(held_out), skip)


def seen_through(table: EpisodeTable, dataset: Path, data: DataArguments) -> EpisodeTable:
    """The table with its videos decoded, and pulled, as a recipe says."""
    table = with_video_decoder(table, data.video_decoder)
    return with_streamed_videos(table, dataset) if data.streaming else table


def _read(dataset: str, episodes: list[int] | None, skip: list[int]) -> EpisodeTable:
    try:
        return read_dataset(dataset, episodes, skip=skip)
    except InputError:
        # The reader stops at the first thing that is wrong; this says which episodes to skip for all of it.
        everything = validate_dataset(dataset, episodes=episodes, skip=skip, cameras=(), decode=False)
        require_usable(everything, skip)
        raise
