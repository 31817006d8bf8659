"""The edits between a scored dataset and the datasets that it was made of, to compare scorings of any two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hf_ptr.data.lerobot.metadata_files import EDITS_FILE, read_json
from hf_ptr.data.lerobot.paths import within
from hf_ptr.detection.findings import Finding
from hf_ptr.errors import InputError


@dataclass(frozen=True)
class Version:
    """
    A dataset in the line of copies that `hf-ptr apply` made.

    Attributes:
        names: names of its folder; two of a link.
        edits: how it was made of the next version, the content of `meta/hf_ptr_edits.json`; None for an original.
    """

    names: frozenset[str]
    edits: Mapping[str, Any] | None

    def is_same(self, other: Version) -> bool:
        """Whether both are one dataset: made by the same edits, or originals of the same name."""
        if self.edits is None or other.edits is None:
            return self.edits is other.edits and bool(self.names & other.names)
        return self.edits == other.edits


@dataclass(frozen=True)
class Scoring:
    """
    Findings and scores of a dataset.

    Attributes:
        findings: the findings.
        rows: rows of the score file; None without.
        dataset: path or repo id of the dataset; None if it is not recorded.
    """

    findings: Sequence[Finding]
    rows: pd.DataFrame | None
    dataset: str | None

    @property
    def is_missing(self) -> bool:
        """Whether the dataset is a folder that is not there, so that its edits are unknown."""
        return self.dataset is not None and Path(self.dataset).is_absolute() and not Path(self.dataset).is_dir()

    def versions(self) -> list[Version]:
        """
        The dataset, the one that it was made of, and so on.

        Raises:
            InputError: the file of the edits is damaged.
        """
        if self.dataset is None:
            return []
        root = Path(self.dataset)
        file = root / "meta" / EDITS_FILE
        edits: Any = read_json(root / within(root, f"meta/{EDITS_FILE}")) if file.is_file() else None
        versions = [Version(frozenset({root.name, root.resolve().name}), edits)]
        while edits is not None:
            if not isinstance(edits, dict) or not isinstance(edits.get("source"), str):
                raise InputError(f"{file} is damaged; run hf-ptr apply again")
            source, edits = edits["source"], edits.get("earlier")
            versions.append(Version(frozenset({source}), edits))
        return versions


def in_common_source(first: Scoring, second: Scoring) -> tuple[Scoring, Scoring, str]:
    """
    Two scorings with the episodes and frames of the latest dataset that both were made of.

    Args:
        first, second: scorings of a dataset and an edited copy, of two copies, or of one dataset.

    Returns:
        Both, and a warning where it is unknown whether they are of one dataset; else "".

    Raises:
        InputError: one is of an edited copy of another dataset, or the edits are damaged.
    """
    if first.dataset == second.dataset:
        return first, second, ""
    lines = first.versions(), second.versions()
    common = [
        (at + other, at, other)
        for at, one in enumerate(lines[0])
        for other, two in enumerate(lines[1])
        if one.is_same(two)
    ]
    if common:
        _, *steps = min(common)
        both = [_before(one, line[:step]) for one, line, step in zip((first, second), lines, steps, strict=True)]
        return both[0], both[1], ""
    for one, other, line in ((first, second, lines[0]), (second, first, lines[1])):
        if line and line[0].edits is not None and other.dataset is not None:
            source = sorted(line[-1].names)[0]
            raise InputError(
                f"{one.dataset} is an edited copy of {source!r}, and the other scores are of {other.dataset}; compare "
                "scores of one dataset and its copies"
            )
    missing = next((one.dataset for one in (first, second) if one.is_missing), None)
    if missing is not None:
        why = f"{missing} does not exist, so its edits are unknown"
    elif first.dataset is None or second.dataset is None:
        return first, second, ""
    else:
        why = f"{first.dataset} and {second.dataset} are different datasets"
    return first, second, f"{why}; episodes are compared by their ids"


def _before(scoring: Scoring, versions: Sequence[Version]) -> Scoring:
    """The scoring before the edits of the versions, the latest first."""
    findings, rows = scoring.findings, scoring.rows
    for version in versions:
        findings, rows = _in_source(findings, rows, version.edits or {}, str(scoring.dataset))
    return Scoring(findings, rows, scoring.dataset)


def _in_source(
    findings: Sequence[Finding], rows: pd.DataFrame | None, edits: Mapping[str, Any], dataset: str
) -> tuple[list[Finding], pd.DataFrame | None]:
    try:
        source = {
            _number(one["episode_index"]): (_number(one["source_episode"]), _number(one["source_first_frame"]))
            for one in edits["episodes"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{dataset}/meta/{EDITS_FILE} is damaged; run hf-ptr apply again") from error
    scored = {found.episode_index for found in findings} | (
        {*rows["episode_index"].tolist()} if rows is not None else set()
    )
    unknown = sorted(scored - set(source))
    if unknown:
        raise InputError(
            f"episode {unknown[0]} of the scores is not in {dataset}/meta/{EDITS_FILE}; score the dataset that "
            "hf-ptr apply wrote"
        )
    moved = []
    for found in findings:
        episode, first = source[found.episode_index]
        fields = {"episode_index": episode, "first_frame": found.first_frame + first}
        moved.append(Finding(**{**asdict(found), **fields, "last_frame": found.last_frame + first}))
    if rows is not None:
        rows = rows.assign(
            episode_index=rows["episode_index"].map({number: episode for number, (episode, _) in source.items()})
        )
    return moved, rows


def _number(value: Any) -> int:
    """A number of an episode or frame, as it is in JSON."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is not a number of an episode or frame")
    return value
