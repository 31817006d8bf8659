"""Which faults the calibrated score finds: AUROC on every corruption, no policy trained.

    python -m benchmarks.detection [--seeds 5] [--keep]

The demonstrations are those of `benchmarks.robustness` (`mt10-state`). What is there already of the same code and data
is not fitted again; with `--keep`, of older code neither. Results in `benchmarks/results/detection.json`, shown in
`docs/tables.md` by `python -m benchmarks.robustness.report`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.fits import Cell, corrupted_chunks, fill
from benchmarks.robustness.figures import score_figures
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
    return score_figures(
        fit_scores(chunks, ScoreConfig(seed=cell["seed"]), progress=False).frame(), chunks.table, truth
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="count lines of older code, too")
    options = parser.parse_args()
    cells = [{"corruption": name, "seed": seed} for seed in range(options.seeds) for name in CORRUPTIONS]
    fill(RESULTS, cells, figures_of, keep=options.keep)


if __name__ == "__main__":
    main()
