"""Weights and findings as plain tables, for programs of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd

from hf_ptr.detection.findings import Finding
from hf_ptr.utils.atomic_files import atomic_write


def frame_table(scores: pd.DataFrame, findings: Iterable[Finding]) -> pd.DataFrame:
    """
    Weight and findings of every frame.

    Args:
        scores: rows of a score file, in the order of episodes and frames.
        findings: the findings of its dataset.

    Returns:
        `index`, `episode_index`, `frame_index`, `weight`, `faults` and `notes`; the last two are the names of the
        checks with a finding on the frame, joined by `+`, without accepted findings.
    """
    table = scores[["index", "episode_index", "frame_index", "weight"]].copy()
    episode, frame = table["episode_index"].to_numpy(), table["frame_index"].to_numpy()
    names = {severity: np.full(len(table), "", dtype=object) for severity in ("fault", "note")}
    for found in sorted(findings, key=lambda one: one.check):
        here = names.get(found.severity)
        if here is None:
            continue
        first, end = np.searchsorted(episode, [found.episode_index, found.episode_index + 1])
        on = np.flatnonzero((frame[first:end] >= found.first_frame) & (frame[first:end] <= found.last_frame)) + first
        for row in on:
            if found.check not in here[row].split("+"):
                here[row] = f"{here[row]}+{found.check}" if here[row] else found.check
    return table.assign(faults=names["fault"], notes=names["note"])


def findings_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """The findings, one row each, with the columns of a findings file."""
    return pd.DataFrame([asdict(found) for found in findings], columns=[field.name for field in fields(Finding)])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as CSV atomically, with the names of the columns in the first line."""
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
