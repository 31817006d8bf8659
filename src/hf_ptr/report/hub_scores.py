"""Pushing a score file with its findings to the Hub, as a dataset with a card."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from hf_ptr._version import __version__
from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.score_file import BASE_COLUMNS, SCORES_FILE, read_scores
from hf_ptr.detection.findings_file import (
    DETECTION,
    FINDINGS_FILE,
    FINDINGS_JSON,
    POWER_FILE,
    FindingsFiles,
    attributes,
)
from hf_ptr.hub.cards import CardFacts, score_card
from hf_ptr.hub.plots import HISTOGRAM_FILE, save_weight_histogram
from hf_ptr.hub.push import push_files, without_local_paths
from hf_ptr.hub.repos import HUB_ID
from hf_ptr.report.inputs import is_calibrated
from hf_ptr.report.statistics import ess_ratio, share_shifts
from hf_ptr.utils.atomic_files import write_text

CARD_FILE = "README.md"
BINS = 40


def read_for_push(path: Path) -> pd.DataFrame:
    """
    Reads a score file and checks that it has all columns of the schema.

    Raises:
        InputError: as in [`read_scores`]; also if a column is missing.
    """
    scores = read_scores(path)
    with open_columns(path) as file:
        file.require(BASE_COLUMNS)
    return scores


def push_scores(
    path: Path,
    scores: pd.DataFrame,
    repo_id: str,
    *,
    dataset: str | None,
    message: str,
    revision: str | None = None,
    license: str | None = None,
) -> str:
    """
    Pushes a score file with its findings, power card and card, in one commit.

    Args:
        path: the score file.
        scores: its content, from [`read_for_push`].
        repo_id: an existing dataset repository.
        dataset: the Hub id of the scored dataset; default: the `source` of the file, if that is a Hub id.
        message: the commit message.
        revision: the branch; None for the main branch.
        license: the licence id, for the card.

    Returns:
        The commit hash.

    Raises:
        InputError: the push fails. No part of it is visible then.
    """
    counted = scores[scores["valid"]] if scores["weight"][scores["valid"]].any() else scores
    weight = counted["weight"].to_numpy(dtype=np.float64)
    low, high = float(weight.min()), float(weight.max())
    source = str(scores["source"].iloc[0])
    by_source = share_shifts(counted, list(counted["source"]))
    with tempfile.TemporaryDirectory() as made:
        counts, edges = np.histogram(weight, BINS, (low, high if high > low else low + 1.0))
        histogram = save_weight_histogram(edges, counts, Path(made) / HISTOGRAM_FILE)
        facts = CardFacts(
            repo_id=repo_id,
            data={
                "source": dataset or source,
                "on_hub": dataset is not None or HUB_ID.fullmatch(source) is not None,
                "episodes": scores["episode_index"].nunique(),
                "frames": len(scores),
            },
            weights={"mean": weight.mean(), "ess": ess_ratio(weight), "low": low, "high": high},
            sources=[(shift.name, shift.share, shift.weighted) for shift in by_source],
            versions={"hf-ptr": __version__, "pandas": pd.__version__, "pyarrow": metadata.version("pyarrow")},
            license=license,
            histogram=HISTOGRAM_FILE,
        )
        with open_columns(path) as file:
            extra = [name for name in file.names if name not in BASE_COLUMNS]
        scorers = ", ".join(sorted(set(scores["scorer"].astype(str))))
        card = score_card(facts, scorers, calibrated=is_calibrated(scores), extra=extra)
        readme = Path(made) / CARD_FILE
        write_text(str(card), readme)
        files = {
            SCORES_FILE: _without_local_path(path, Path(made) / SCORES_FILE),
            **_findings(path, scores, Path(made)),
            CARD_FILE: readme,
            HISTOGRAM_FILE: histogram,
        }
        return push_files(files, repo_id, "dataset", message=message, revision=revision)


def _findings(path: Path, scores: pd.DataFrame, made: Path) -> dict[str, Path]:
    """The findings files that were written with a score file, under the names that they have next to `SCORES_FILE`."""
    mark, files = scores.attrs.get(DETECTION), FindingsFiles.beside(path)
    if mark is None or not all(file.is_file() for file in files.all()):
        return {}
    if attributes(files.findings).get(DETECTION) != mark:
        return {}
    return {
        FINDINGS_FILE: _without_local_path(files.findings, made / FINDINGS_FILE),
        FINDINGS_JSON: files.rows,
        POWER_FILE: files.power,
    }


def _without_local_path(path: Path, copy: Path) -> Path:
    """The file itself, or a copy without the local path of the dataset in its metadata."""
    frame = pd.read_parquet(path)
    public = without_local_paths(frame.attrs)
    if public == frame.attrs:
        return path
    frame.attrs = public
    frame.to_parquet(copy)
    return copy
