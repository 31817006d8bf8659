"""Episodes and frames to train on, as lists: for LeRobot's `--dataset.episodes` and openpi's filter of ranges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hf_ptr.errors import InputError


def relative_weights(scores: pd.DataFrame) -> np.ndarray:
    """The weight of each row of a score file as a share of the largest one, `(F,)` in [0, 1]."""
    weight = scores["weight"].to_numpy(np.float64)
    return weight / weight.max()


def light_episodes(scores: pd.DataFrame, min_weight: float) -> list[int]:
    """
    Ids of the episodes with a mean weight below a share of the largest weight of the file, rising.

    Args:
        scores: rows of a score file.
        min_weight: the share, in (0, 1].
    """
    mean = pd.Series(relative_weights(scores)).groupby(scores["episode_index"].to_numpy()).mean()
    return sorted(int(number) for number in mean.index[mean < min_weight])


def kept_episodes(scores: pd.DataFrame, excluded: Collection[int], otherwise: str) -> list[int]:
    """
    Ids of the scored episodes that are not excluded, rising.

    Args:
        scores: rows of a score file.
        excluded: ids of the episodes to leave out.
        otherwise: what to do if none is left, for the message.

    Raises:
        InputError: none is left.
    """
    kept = sorted({*scores["episode_index"].tolist()} - set(excluded))
    if not kept:
        raise InputError(f"all {len(set(excluded))} episodes would be left out; {otherwise}")
    return kept


def kept_ranges(scores: pd.DataFrame, min_weight: float) -> dict[str, list[list[int]]]:
    """
    The frames of each episode whose weight is at least a share of the largest one.

    Args:
        scores: rows of a score file, in the order of episodes and frames.
        min_weight: the share, in (0, 1].

    Returns:
        By id of the episode, as text, `[first, end)` ranges of frames counted from its start, rising; an episode
        without such a frame has none.
    """
    kept = relative_weights(scores) >= min_weight
    episode, frame = scores["episode_index"].to_numpy(), scores["frame_index"].to_numpy()
    ranges: dict[str, list[list[int]]] = {str(number): [] for number in np.unique(episode)}
    joined = kept[1:] & kept[:-1] & (episode[1:] == episode[:-1]) & (np.diff(frame) == 1)
    for row in np.flatnonzero(kept & np.r_[True, ~joined]):
        ranges[str(episode[row])].append([int(frame[row]), 0])
    ends = np.flatnonzero(kept & np.r_[~joined, True])
    for found, row in zip((one for spans in ranges.values() for one in spans), ends, strict=True):
        found[1] = int(frame[row]) + 1
    return ranges


def openpi_filter(
    ranges: dict[str, list[list[int]]], keys: Sequence[str] | None, *, selected: bool = False
) -> dict[str, Any]:
    """
    Ranges of frames in the format of openpi's filter (`filter_dict_path` of its DROID loader).

    Args:
        ranges: from [`kept_ranges`].
        keys: the key of each episode of the dataset, in the order of the ids; None for the ids themselves.
        selected: whether only some episodes of the dataset were scored, so that its number of episodes is unknown.

    Raises:
        InputError: an episode has no key, or there are more keys than episodes.
    """
    if keys is not None and int(max(ranges, key=int)) >= len(keys):
        raise InputError(f"episode {max(ranges, key=int)} has no key among {len(keys)}; give one for each episode")
    if keys is not None and not selected and len(keys) != len(ranges) == int(max(ranges, key=int)) + 1:
        raise InputError(f"there are {len(keys)} keys for {len(ranges)} episodes; give one for each episode, in order")
    named = ranges if keys is None else {keys[int(number)]: spans for number, spans in ranges.items()}
    # openpi cuts this number of frames from each range; the weights count the chunks that reach into a fault already.
    return {"metadata": {"filter_last_n_in_ranges": 0}, "keep_ranges": named}
