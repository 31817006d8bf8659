"""What each part of the calibrated score is good for: the score without it, on every corruption, no policy trained.

    python -m benchmarks.score_ablations [--seeds 3] [--keep]

The demonstrations are those of `benchmarks.robustness` (`mt10-state`). What is there already of the same code and data
is not fitted again; with `--keep`, of older code neither. Results in `benchmarks/results/score_ablations.json`, shown
in `docs/calibrated.md` by `python -m benchmarks.robustness.report`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from benchmarks.fits import Cell, corrupted_chunks, fill
from benchmarks.robustness.figures import score_figures
from benchmarks.robustness.suites import ROOT
from hf_ptr.scoring import action_noise
from hf_ptr.scoring import cross_fitting as crossfitting
from hf_ptr.scoring import fit as fitting
from hf_ptr.scoring.calibration import WIDTH, Scale
from hf_ptr.scoring.transitions import Cut

RESULTS = ROOT / "benchmarks" / "results" / "score_ablations.json"
CORRUPTIONS = ("hard", "misaligned", "clean")


def trained_on_all(cut: Cut, episodes: Tensor, weight: Tensor, *rest: Any) -> Any:
    """Heads that have trained on the episodes that they score, too."""
    usable = torch.nonzero(cut.count > 0).squeeze(1)
    every = torch.full((len(cut.count),), float(weight.mean())).index_copy(0, episodes, weight)
    return crossfitting_train_heads(cut, usable, every[usable], *rest)


def about_the_median(real: Tensor, faulted: Tensor, group: Tensor, groups: int) -> Scale:
    """A scale without faults made on purpose: half of any data lie below the middle of the weights."""
    median, spread = torch.zeros(groups), torch.ones(groups)
    for number in range(groups):
        mine = real[(group == number) & ~real.isnan()]
        if len(mine):
            median[number] = mine.median()
            spread[number] = (1.4826 * (mine - median[number]).abs().median()).clamp(min=1e-6) / WIDTH
    return Scale(median - spread / 2, median + spread / 2, torch.ones(groups))


def each_for_itself(scale: Scale, score: Tensor, episode: Tensor, group: Tensor) -> Tensor:
    """A chunk's distance without its episode's evidence."""
    group = group[episode]
    return scale.limited((score - scale.fault[group]) / scale.gap[group], group)


def without(*names: str) -> AbstractContextManager:
    """The score without the components of these names."""

    def distances(*args: Any) -> dict[str, Tensor]:
        return {name: z for name, z in fitting_distances_of(*args).items() if name not in names}

    return patch.object(fitting, "distances_of", distances)


def with_neighbours(cut: Cut, episodes: Tensor, anchors: int, generator: torch.Generator) -> Tensor:
    """Half of the samples that lie a shift from others are the nearest of another episode instead, in what is seen."""
    rows = crossfitting_batch_of(cut, episodes, anchors, generator).view(len(episodes), -1)
    # Nearest of sixteen of each of the batch's episodes, which their weight has drawn.
    time = (torch.rand(len(episodes), 16, generator=generator) * cut.count[episodes, None]).long()
    others = (cut.first[episodes, None] + time).flatten()
    near = rows[:, :anchors:2].flatten()
    distance = torch.cdist(cut.contexts(near), cut.contexts(others))
    distance.masked_fill_(cut.episode[near][:, None] == cut.episode[others], torch.inf)
    rows[:, anchors::2] = others[distance.argmin(dim=1)].view(len(episodes), -1)
    return rows.flatten()


@contextmanager
def centred() -> Iterator[None]:
    """The score about the median of the data."""
    with (
        patch.object(fitting, "fit_scale", about_the_median),
        patch.object(action_noise, "fit_scale", about_the_median),
    ):
        yield


# As they are, for those that stand in their place.
crossfitting_train_heads, fitting_distances_of = crossfitting.train_heads, fitting.distances_of
crossfitting_batch_of = crossfitting.batch_of
Variant = tuple[Callable[[], AbstractContextManager], dict[str, Any]]
VARIANTS: dict[str, Variant] = {
    "all of it": (nullcontext, {}),
    "no cross-fitting": (partial(patch.object, crossfitting, "train_heads", trained_on_all), {}),
    "centred on the median": (centred, {}),
    "negatives near in state, too": (partial(patch.object, crossfitting, "batch_of", with_neighbours), {}),
    "no next-observation check": (partial(without, "next_observation/pool"), {}),
    "no action among other samples": (partial(without, "action/pool"), {}),
    "no action among its neighbours": (partial(without, "action/shift"), {}),
    "no instruction check": (partial(without, "instruction/pool"), {}),
    "no action-noise check": (partial(patch.object, fitting, "action_noise_scores", lambda *args: {}), {}),
    "chunks for themselves": (partial(patch.object, Scale, "distance", each_for_itself), {}),
    "nothing owed to novelty": (
        partial(patch.object, fitting, "owed_to_novelty", lambda mean, novelty, quantile: torch.zeros_like(novelty)),
        {},
    ),
    "one round": (nullcontext, {"rounds": 1}),
}


def figures_of(cell: Cell) -> dict[str, Any]:
    """AUROC and weights of the score with a part left out."""
    left_out, settings = VARIANTS[cell["variant"]]
    chunks, truth = corrupted_chunks(cell["corruption"], cell["seed"])
    with left_out():
        scores = fitting.fit_scores(chunks, seed=cell["seed"], progress=False, **settings).frame()
    weight, faulty = scores.weight.to_numpy(np.float64), np.repeat(truth.any, chunks.table.lengths)
    parts = {"weight_good": weight[~faulty], "weight_faulty": weight[faulty]}
    means = {name: float(part.mean()) if len(part) else None for name, part in parts.items()}
    return {**score_figures(scores, chunks.table, truth), **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="count lines of older code, too")
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
