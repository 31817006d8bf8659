"""The line about the weights of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from leading_table import leading_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.runs.weights_in_words import weights_in_words


class Mixture(SimpleNamespace):
    """Chunks of two sources; a file cannot have the name of the second."""

    source_names, parts = ("usb", "a/b"), (None, None)


def trainer(weights: list[float] | None, *, mixed: bool = False, **args: object) -> SimpleNamespace:
    given = {"alpha": 0.0, "calibrates": False, "output_dir": "runs/a", **args}
    given["time_constants"] = SimpleNamespace(nce_warmup_steps=3000)
    chunks: Any = Mixture() if mixed else ChunkDataset(leading_table(2, frames=20), chunk_size=4, target_offset=4)
    chunks.weights = None if weights is None else torch.tensor(weights)
    return SimpleNamespace(args=SimpleNamespace(**given), train_dataset=chunks)


@pytest.mark.parametrize(
    ("run", "file", "line"),
    [
        (trainer(None), None, "Weights: equal, as in plain training."),
        (
            trainer(None, alpha=1.0),
            None,
            "Weights: PTR's score, computed in training; 1 for the first 3,000 steps.",
        ),
        (
            trainer([4.0, 4.0, 1.9, 0.25]),
            "s.parquet",
            "Weights: s.parquet; 50.0% of the 4 chunks have less than half of the highest weight, 4.",
        ),
        (
            trainer([3.99, 4.0], calibrates=True, alpha=1.0),
            None,
            "Weights: fitted on these episodes, runs/a/scores.parquet; all 2 chunks have nearly the same weight, "
            "as in plain training.",
        ),
        (
            trainer([4.0, 1.0], mixed=True, calibrates=True, alpha=1.0),
            None,
            "Weights: fitted on these episodes, runs/a/scores-usb.parquet, runs/a/scores-source-1.parquet; 50.0% of "
            "the 2 chunks have less than half of the highest weight, 4.",
        ),
    ],
)
def test_the_line_names_source_and_effect(run: SimpleNamespace, file: str | None, line: str) -> None:
    assert weights_in_words(run, file) == line
