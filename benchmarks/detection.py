"""Which faults the calibrated score finds: AUROC on every corruption, no policy trained.

    python -m benchmarks.detection [--seeds 5]

The demonstrations are those of `benchmarks.robustness` (`mt10-state`). What is there already of the same code and data
is not fitted again. Results in `benchmarks/results/detection.json`, shown in `docs/results.md` by
`python -m benchmarks.robustness.report`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.fits import Cell, corrupted_chunks, fill
from benchmarks.robustness.figures import score_figures
from benchmarks.robustness.suites import ROOT
from hf_ptr.scoring.fitting import fit_scores

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
    return score_figures(fit_scores(chunks, seed=cell["seed"], progress=False).frame(), chunks.table, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    fill(RESULTS, [{"corruption": name, "seed": seed} for seed in seeds for name in CORRUPTIONS], figures_of)


if __name__ == "__main__":
    main()
