"""Ablations of the label-free score: each part left out in turn, on every corruption, without training a policy.

    python -m benchmarks.score_ablations [--seeds 3] [--keep]

The demonstrations are those of `benchmarks.robustness` (`mt10-state`). Fits that are recorded for the same code and
data are not repeated; with `--keep`, neither are those of older code. Results in
`benchmarks/results/score_ablations.json`, shown in `docs/calibrated.md` by `python -m benchmarks.robustness.report`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.fits import Cell, corrupted_chunks, fill
from benchmarks.robustness.figures import score_figures
from benchmarks.robustness.planting import Truth
from benchmarks.robustness.suites import ROOT
from hf_ptr.scoring.config import CHECKS, ScoreConfig
from hf_ptr.scoring.fit import fit_scores

RESULTS = ROOT / "benchmarks" / "results" / "score_ablations.json"
CORRUPTIONS = ("hard", "misaligned", "clean")


def without(check: str) -> dict[str, Any]:
    """The settings of a score without one check."""
    return {"checks": tuple(name for name in CHECKS if name != check)}


# Fields of `ScoreConfig` that differ from the defaults, by the name of the variant in the results.
VARIANTS: dict[str, dict[str, Any]] = {
    "all of it": {},
    "no cross-fitting": {"cross_fit": False},
    "centred on the median": {"centre_on_median": True},
    "negatives near in state, too": {"near_state_candidates": 16},
    "no next-observation check": without("next_observation/pool"),
    "no action among other samples": without("action/pool"),
    "no action among its neighbours": without("action/shift"),
    "no instruction check": without("instruction/pool"),
    "no action-noise check": without("action/noise"),
    "chunks for themselves": {"episode_evidence": False},
    "nothing owed to novelty": {"correct_novelty": False},
    "one round": {"rounds": 1},
}


def figures_of(cell: Cell) -> dict[str, Any]:
    """AUROC and weights of the score without a part."""
    chunks, truth = corrupted_chunks(cell["corruption"], cell["seed"])
    config = ScoreConfig(seed=cell["seed"], **VARIANTS[cell["variant"]])
    scores = fit_scores(chunks, config, progress=False).frame()
    weight, faulty = scores.weight.to_numpy(np.float64), np.repeat(truth.any, chunks.table.lengths)
    parts = {"weight_good": weight[~faulty], "weight_faulty": weight[faulty]}
    means = {name: float(part.mean()) if len(part) else None for name, part in parts.items()}
    return {**score_figures(scores, chunks.table, Truth.of_episodes(chunks.table, truth)), **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="accept recorded fits of older code")
    options = parser.parse_args()
    cells = [
        {"variant": name, "corruption": corruption, "seed": seed}
        for seed in range(options.seeds)
        for name in VARIANTS
        for corruption in CORRUPTIONS
    ]
    fill(RESULTS, cells, figures_of, keep=options.keep)


if __name__ == "__main__":
    main()
