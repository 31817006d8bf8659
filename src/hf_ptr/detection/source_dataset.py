"""The dataset that findings were made of, recognised by its content wherever its folder is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hf_ptr.data.episode_ids import episode_ranges, parse_episodes
from hf_ptr.errors import InputError

# Keys of the metadata of a findings file.
SCORED, LENGTHS, CORRUPTION = "scored_episodes", "scored_lengths", "corruption"


def source_attributes(episodes: Iterable[int], lengths: Iterable[int], fps: float) -> dict[str, str]:
    """
    The scored episodes for the metadata of their findings: ids, and a hash of ids, lengths and frame rate.

    Args:
        episodes: ids.
        lengths: frames of each.
        fps: frames per second.
    """
    frames = dict(zip(map(int, episodes), map(int, lengths), strict=True))
    return {SCORED: episode_ranges(sorted(frames)), LENGTHS: _digest(frames, fps)}


def require_source(
    made: Mapping[str, Any], lengths: Mapping[int, int], fps: float, damaged: Collection[int] = ()
) -> None:
    """
    Check that findings are of a dataset as it is.

    Args:
        made: metadata of the findings; what they do not state is not checked.
        lengths: frames by id of the dataset's episodes.
        fps: frames per second of the dataset.
        damaged: ids of episodes whose length is not known.

    Raises:
        InputError: the findings are of planted faults, or of episodes with other ids, lengths or frame rate. The
            message has no place and no fix.
    """
    planted = made.get(CORRUPTION, "clean")
    if planted != "clean":
        raise InputError(f"it has faults planted with --corruption {planted}, which the dataset does not have")
    if not all(isinstance(made.get(key), str) for key in (SCORED, LENGTHS)):
        return
    scored = parse_episodes(made[SCORED], SCORED) or ()
    missing = {episode for episode in scored if episode not in lengths}
    if missing and missing <= set(damaged):
        return
    if missing:
        difference = "ids"
    elif _digest({episode: lengths[episode] for episode in scored}, fps) != made[LENGTHS]:
        difference = "lengths, or another frame rate"
    else:
        return
    raise InputError(f"it was made of {made.get('dataset') or 'a dataset'}, whose episodes have other {difference}")


def _digest(lengths: Mapping[int, int], fps: float) -> str:
    content = json.dumps([sorted(lengths.items()), float(fps)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
