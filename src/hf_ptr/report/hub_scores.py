"""Score files as datasets on the Hub."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from hf_ptr import __version__
from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.score_file import SCORES_FILE
from hf_ptr.hub.cards import Facts, score_card
from hf_ptr.hub.plots import HISTOGRAM_FILE, save_weight_histogram
from hf_ptr.hub.push import push_files, without_local_paths
from hf_ptr.hub.repos import HUB_ID
from hf_ptr.report.findings import sample_share, shifts
from hf_ptr.report.inputs import read_scores
from hf_ptr.utils.atomic_files import write_text

COLUMNS = ("index", "episode_index", "frame_index", "task_index", "source", "score", "weight", "valid", "scorer")
BINS = 40


def read_for_push(path: Path) -> pd.DataFrame:
    """
    A score file that is to be shared, as [`read_scores`] gives it.

    Raises:
        InputError: as [`read_scores`], and when a column is missing that others will look for.
    """
    scores, _ = read_scores(path)
    with open_columns(path) as file:
        file.require(COLUMNS)
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
    Pushes a score file with its card, in one commit.

    Args:
        path: of the file.
        scores: what it holds.
        repo_id: of a dataset repository that is there.
        dataset: Hub id of what was scored; by default the file's `source` where that is one.
        message: of the commit.
        revision: the branch; None for the main one.
        license: its id, for the card.

    Returns:
        The commit.

    Raises:
        InputError: when the push fails. Nothing of it is visible then.
    """
    counted = scores[scores["valid"]] if scores["weight"][scores["valid"]].any() else scores
    weight = counted["weight"].to_numpy(dtype=np.float64)
    low, high = float(weight.min()), float(weight.max())
    source = str(scores["source"].iloc[0])
    with tempfile.TemporaryDirectory() as made:
        counts, edges = np.histogram(weight, BINS, (low, high if high > low else low + 1.0))
        picture = save_weight_histogram(edges, counts, Path(made) / HISTOGRAM_FILE)
        facts = Facts(
            repo_id=repo_id,
            data={
                "source": dataset or source,
                "on_hub": dataset is not None or HUB_ID.fullmatch(source) is not None,
                "episodes": scores["episode_index"].nunique(),
                "frames": len(scores),
            },
            weights={"mean": weight.mean(), "ess": sample_share(weight), "low": low, "high": high},
            sources=[(shift.name, shift.share, shift.weighted) for shift in shifts(counted, list(counted["source"]))],
            versions={"hf-ptr": __version__, "pandas": pd.__version__, "pyarrow": metadata.version("pyarrow")},
            license=license,
            picture=HISTOGRAM_FILE,
        )
        with open_columns(path) as file:
            extra = [name for name in file.names if name not in COLUMNS]
        card = score_card(facts, ", ".join(sorted(set(scores["scorer"].astype(str)))), extra)
        readme = Path(made) / "README.md"
        write_text(str(card), readme)
        files = {SCORES_FILE: _public(path, Path(made) / SCORES_FILE), "README.md": readme, HISTOGRAM_FILE: picture}
        return push_files(files, repo_id, "dataset", message=message, revision=revision)


def _public(path: Path, copy: Path) -> Path:
    """The file, or a copy that does not say in which folder here the dataset lies."""
    frame = pd.read_parquet(path)
    told = without_local_paths(frame.attrs)
    if told == frame.attrs:
        return path
    frame.attrs = told
    frame.to_parquet(copy)
    return copy
