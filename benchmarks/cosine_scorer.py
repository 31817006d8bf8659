"""How far a trained cosine scorer is from the optimal score, on outcomes whose log ratio is known in closed form.

    python -m benchmarks.cosine_scorer [--steps 3000] [--seeds 3]

The outcomes lie on a ring, as the frames of a trajectory do: neighbours are similar. A context names a centre and a
spread, and the outcome is drawn around the centre. Mismatched outcomes are uniform, so the optimal logit (PTR
Proposition 1) is `log p+(y) / p-(y)` up to a constant. Both logits give a score of the same candidates (PTR Eq. 14),
and the difference of the two scores is the error of the scorer. The scorer and the equations are those of the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.measurement import command_parser, results_file, run, write_results
from hf_ptr import functional as F
from hf_ptr.metrics.statistics import auroc
from hf_ptr.ptr import TransitionScorer, TransitionScorerConfig

OUTCOMES, WIDTH, HARMONICS = 128, 64, 8
# Distance on the ring at which the cosine of two targets is exp(-1/2) = 0.61.
SIMILAR = 6.0
# Standard deviations of the outcome around its centre, from nearly certain to nearly uniform.
SPREADS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# As in the published run: a batch of 128, its other targets and 64 of the queue as negatives.
BATCH, NEGATIVES, EVALUATED = 128, 127 + 64, 4096
CLAMP, BETA = 20.0, {"1.5": 1.5, "1.2": 1.2}
UNBOUNDED = 1e6
# Temperature and clamp.
SETTINGS: dict[str, tuple[float, float]] = {
    "tau 0.12": (0.12, CLAMP),
    "tau 0.03": (0.03, CLAMP),
    "tau 0.03, no clamp": (0.03, UNBOUNDED),
}


class World:
    """
    The ring: unit targets `(OUTCOMES, WIDTH)`, and the probabilities of the outcomes of a context.

    Attributes:
        targets: their cosines fall with the distance on the ring.
    """

    def __init__(self) -> None:
        place = torch.arange(OUTCOMES, dtype=torch.float64)
        apart = (place[:, None] - place).abs()
        self._apart = torch.minimum(apart, OUTCOMES - apart)
        values, vectors = torch.linalg.eigh((-self._apart.square() / (2 * SIMILAR**2)).exp())
        targets = vectors[:, -WIDTH:] * values[-WIDTH:].clamp(min=0).sqrt()
        self.targets = torch.nn.functional.normalize(targets, dim=1).float()
        spreads = torch.tensor(SPREADS, dtype=torch.float64)
        density = (-self._apart.square() / (2 * spreads[:, None, None] ** 2)).exp()
        # `(spreads, centres, outcomes)`; the mismatched outcome is uniform, so the ratio is p+ times their number.
        # A bounded ratio, as Proposition 2 needs: one outcome in a hundred is any.
        self.probability = 0.99 * density / density.sum(dim=2, keepdim=True) + 0.01 / OUTCOMES
        angles = 2 * math.pi * place[:, None] * torch.arange(1, HARMONICS + 1) / OUTCOMES
        self._contexts = torch.cat((angles.cos(), angles.sin()), dim=1).float()

    def drawn(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Spread, centre and outcome of `rows` matched samples, each `(rows,)` int64."""
        spread = torch.randint(len(SPREADS), (rows,), generator=generator)
        centre = torch.randint(OUTCOMES, (rows,), generator=generator)
        outcome = torch.multinomial(self.probability[spread, centre], 1, generator=generator)[:, 0]
        return spread, centre, outcome

    def inputs(self, spread: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Context and action features of the scorer."""
        return self._contexts[centre], torch.nn.functional.one_hot(spread, len(SPREADS)).float()

    def log_ratio(self, spread: Tensor, centre: Tensor, outcomes: Tensor) -> Tensor:
        """`log p+ / p-` of `(N, K)` outcomes."""
        return (self.probability[spread[:, None], centre[:, None], outcomes] * OUTCOMES).log()


def trained(world: World, setting: str, steps: int, seed: int) -> Callable[..., Tensor]:
    """The logits of a scorer after `steps` steps of L_id (PTR Eq. 31), with its temperature."""
    temperature, clamp = SETTINGS[setting]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    width = TransitionScorerConfig(context_size=2 * HARMONICS, action_size=len(SPREADS), embedding_size=WIDTH)
    scorer = TransitionScorer(width)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-3, weight_decay=0.01)

    def logits(spread: Tensor, centre: Tensor, outcome: Tensor, others: Tensor) -> Tensor:
        query = scorer(*world.inputs(spread, centre))
        return F.identification_logits(
            query,
            world.targets[outcome],
            world.targets[others],
            temperature=temperature,
            logit_clamp=clamp,
            normalized=True,
        )

    for _ in range(steps):
        sample = world.drawn(BATCH, generator)
        others = torch.randint(OUTCOMES, (NEGATIVES,), generator=generator)
        found = logits(*sample, others)
        optimizer.zero_grad()
        F.identification_loss(found).backward()
        optimizer.step()
    return logits


def measured(world: World, setting: str, steps: int, seed: int) -> dict[str, float]:
    """The figures of one trained scorer on held-out samples."""
    logits = trained(world, setting, steps, seed)
    generator = torch.Generator().manual_seed(10_000 + seed)
    scores: dict[str, list[Tensor]] = {"found": [], "optimal": [], "wrong": [], "wrong, optimal": []}
    clamped = []
    for _ in range(EVALUATED // BATCH):
        spread, centre, outcome = world.drawn(BATCH, generator)
        others = torch.randint(OUTCOMES, (NEGATIVES,), generator=generator)
        wrong = torch.randint(OUTCOMES, (BATCH,), generator=generator)
        for names, match in ((("found", "optimal"), outcome), (("wrong", "wrong, optimal"), wrong)):
            own = logits(spread, centre, match, others).detach()
            candidates = torch.cat((match[:, None], others.expand(BATCH, -1)), dim=1)
            scores[names[0]].append(F.ptr_score(own))
            scores[names[1]].append(F.ptr_score(world.log_ratio(spread, centre, candidates)))
            if names[0] == "found":
                clamped.append(own[:, 0] >= SETTINGS[setting][1] - 1e-4)
    found, optimal, wrong, wrong_optimal = (torch.cat(each).double().numpy() for each in scores.values())
    return {
        "rmse": float(np.sqrt(np.square(found - optimal).mean())),
        "mean score": float(found.mean()),
        "mean optimal score": float(optimal.mean()),
        "rank correlation": float(spearmanr(found, optimal).statistic),
        "matches at the clamp": float(torch.cat(clamped).float().mean()),
        "AUROC of wrong outcomes": float(auroc(found, wrong) or 0.0),
        "AUROC of wrong outcomes, optimal": float(auroc(optimal, wrong_optimal) or 0.0),
        **{f"at w_max with beta {name}": _at_bound(found, beta) for name, beta in BETA.items()},
        **{f"at w_max with beta {name}, optimal": _at_bound(optimal, beta) for name, beta in BETA.items()},
    }


def _at_bound(score: np.ndarray, beta: float) -> float:
    """Share of the weights (PTR Eq. 21, published bounds) at w_max."""
    weight = F.conservative_weight(torch.from_numpy(score), beta=beta)
    return float((weight >= 4.0 - 1e-6).float().mean())


def main() -> None:
    parser = command_parser("cosine_scorer", __doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.small:
        options.steps, options.seeds = 60, 1
    world, figures = World(), {}
    for setting in SETTINGS:
        runs = [measured(world, setting, options.steps, seed) for seed in range(options.seeds)]
        figures[setting] = {name: [run_[name] for run_ in runs] for name in runs[0]}
        shown = {name: round(sum(values) / len(values), 3) for name, values in figures[setting].items()}
        print(setting, shown, flush=True)
    result: dict[str, Any] = {
        "what": "a trained cosine scorer against the optimal score, by temperature and clamp; one value a seed, nats",
        "command": f"python -m benchmarks.cosine_scorer --steps {options.steps} --seeds {options.seeds}",
        "settings": figures,
    }
    write_results(result, results_file("cosine_scorer", options.small))


if __name__ == "__main__":
    run("benchmarks.cosine_scorer", main)
