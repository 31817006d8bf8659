"""Detection of faults by the label-free score: AUROC on every corruption, without training a policy.

    python -m benchmarks.detection [--seeds 5] [--keep]

The demonstrations are those of `benchmarks.robustness` (`mt10-state`). Fits that are recorded for the same code and
data are not repeated; with `--keep`, neither are those of older code. Results in
`benchmarks/results/detection.json`, shown in `docs/tables.md` by `python -m benchmarks.robustness.report`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.fits import Cell, corrupted_chunks, fill
from benchmarks.robustness.figures import score_figures
from benchmarks.robustness.planting import Truth
from benchmarks.robustness.suites import ROOT
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores

RESULTS = ROOT / "benchmarks" / "results" / "detection.json"
CORRUPTIONS = (
    "hard",
    "misaligned",
    "ani",
    "ln",
    "foreign",
    "ani-severe",
    "misaligned-mild",
    "misaligned-severe",
    "tt",
    "wrong-goal",
    "clean",
)


def figures_of(cell: Cell) -> dict[str, Any]:
    """AUROC and weights of the score."""
    chunks, truth = corrupted_chunks(cell["corruption"], cell["seed"])
    scores = fit_scores(chunks, ScoreConfig(seed=cell["seed"]), progress=False).frame()
    return score_figures(scores, chunks.table, Truth.of_episodes(chunks.table, truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="accept recorded fits of older code")
    options = parser.parse_args()
    cells = [{"corruption": name, "seed": seed} for seed in range(options.seeds) for name in CORRUPTIONS]
    fill(RESULTS, cells, figures_of, keep=options.keep)


if __name__ == "__main__":
    main()
