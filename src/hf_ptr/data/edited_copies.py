"""Ends of the episodes of an edited copy at which frames of the recording are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hf_ptr.data.lerobot.metadata_files import EDITS_FILE, read_json
from hf_ptr.data.lerobot.paths import within
from hf_ptr.errors import InputError


class CutEnds(NamedTuple):
    """Whether frames of the recording before the start, or after the end, of an episode were left out."""

    start: bool
    end: bool


WHOLE = CutEnds(False, False)


def cut_ends_of_dataset(root: Path) -> dict[int, CutEnds]:
    """
    The cut ends of the episodes of a copy that `hf-ptr apply` made, by episode id; those without any are left out.

    Empty for an original, and where `meta/hf_ptr_edits.json` cannot be read: it only explains the copy.
    """
    try:
        found = _cut_ends(read_json(root / within(root, f"meta/{EDITS_FILE}")))
    except (InputError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return {}
    return {episode: ends for episode, ends in found.items() if any(ends)}


def _cut_ends(edits: Mapping[str, Any]) -> dict[int, CutEnds]:
    """The ends of every episode; the edits of a copy contain those of the copy that it was made of."""
    before = _cut_ends(edits["earlier"]) if "earlier" in edits else {}
    found = {}
    for each in edits["episodes"]:
        source = before.get(int(each["source_episode"]), WHOLE)
        first, last = int(each["source_first_frame"]) == 0, each["source_last_frame"] == each["source_frames"] - 1
        found[int(each["episode_index"])] = CutEnds(not first or source.start, not last or source.end)
    return found
