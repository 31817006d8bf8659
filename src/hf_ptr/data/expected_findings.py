"""Findings that the owner of a dataset accepts: `meta/hf_ptr_expected.yaml`.

```yaml
- check: progress/retry
  episodes: 3,7:10          # ids and ranges, the end of a range is exclusive; or all
  frames: 40:90             # optional
  reason: the second grasp is part of the task
```
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_ptr.data.episode_ids import parse_ranges
from hf_ptr.data.lerobot.paths import within
from hf_ptr.errors import InputError, first_line, nearest
from hf_ptr.utils.yaml_values import ValueLoader, dump_values

EXPECTED_FILE = "hf_ptr_expected.yaml"
KEYS = ("check", "episodes", "frames", "reason")


@dataclass(frozen=True)
class ExpectedFinding:
    """
    Findings that are accepted.

    Attributes:
        check: name of the check.
        reason: why they are accepted.
        episodes: ranges of ids of the episodes; None for all.
        frames: first frame and the frame after the last, counted from the start of the episode; None for all.
        place: the entry and its file, for messages.
    """

    check: str
    reason: str
    episodes: tuple[range, ...] | None = None
    frames: tuple[int, int] | None = None
    place: str = ""

    def has_episode(self, episode: int) -> bool:
        """Whether the entry is for the episode."""
        return self.episodes is None or any(episode in span for span in self.episodes)


def expected_of_dataset(root: Path) -> tuple[ExpectedFinding, ...]:
    """
    The accepted findings in the folder of a dataset; empty without a file.

    Raises:
        InputError: as [`read_expected`], or the file is a link out of the folder.
    """
    path = root / within(root, f"meta/{EXPECTED_FILE}")
    return read_expected(path) if path.is_file() else ()


def read_expected(path: Path) -> tuple[ExpectedFinding, ...]:
    """
    A file of accepted findings.

    Raises:
        InputError: the file is missing, is not a list of entries, or an entry lacks a key or has a wrong one.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=ValueLoader)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; write a first one with hf-ptr export SCORES --to expected, and edit it"
        ) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({first_line(error)}); correct it") from error
    if content is None:
        return ()
    if not isinstance(content, list):
        raise InputError(f"{path} is not a list; start each entry with `- check: NAME`")
    return tuple(_entry(values, f"{path}, entry {number}") for number, values in enumerate(content, start=1))


def dump_expected(entries: Sequence[dict[str, Any]]) -> str:
    """Entries as the text of a file that [`read_expected`] reads, each a mapping with `KEYS`."""
    head = "# Findings that the owner of the dataset accepts: they are not faults and do not lower weights.\n"
    return head + dump_values(list(entries), sort_keys=False)


def _entry(values: Any, place: str) -> ExpectedFinding:
    if not isinstance(values, dict):
        raise InputError(f"{place} is not a mapping; write check, episodes and reason")
    for key in values:
        if key not in KEYS:
            raise InputError(f"{place}: unknown key {key!r}.{nearest(str(key), KEYS)} The keys are {', '.join(KEYS)}")
    for key in ("check", "reason"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise InputError(f"{place} has no {key}; write `{key}: TEXT`")
    if "episodes" not in values or values["episodes"] is None:
        raise InputError(f"{place} has no episodes; write ids and ranges, as in 0:16,20, or all")
    chosen = values["episodes"]
    spans = None if chosen == "all" else parse_ranges(chosen, f"{place}: episodes")
    return ExpectedFinding(
        check=values["check"].strip(),
        reason=" ".join(values["reason"].split()),
        episodes=None if spans is None else tuple(spans),
        frames=_frames(values.get("frames"), place),
        place=place,
    )


def _frames(value: Any, place: str) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", str(value).replace(" ", ""))
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError(f"{place}: frames {value!r} is not a range; write FIRST:END, the end is exclusive")
    return int(match[1]), int(match[2])
