"""How much of a low score is owed to an episode being unlike the others, and proves no fault.

Heads that have seen few episodes like the one they score give it a low score, faulty or not. Whether they have is seen
from its contexts `o_t` alone, which neither wrong actions nor a wrong instruction touch: the distance to the nearest
contexts that the heads have trained on. A good episode's score falls with it; that fall is taken off the evidence.
N samples, E episodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ptr.scoring.transitions import Cut

NEIGHBOURS = 5
# Contexts of other folds that are searched, drawn by chance where there are more.
SEARCHED = 4096
ROWS_A_PASS = 2048
# Slopes that are tried, from none to this many times the ratio of the two standard deviations.
SLOPES = 201
STEEPEST = 3.0


def context_novelty(cut: Cut, fold: Tensor, generator: torch.Generator) -> Tensor:
    """
    Log of the mean distance of an episode's contexts to their nearest neighbours in other folds, `(E,)`.

    Args:
        cut: the samples; distances are in standard deviations of the context's dimensions.
        fold: `(E,)` int64.
        generator: of the draw of contexts that are searched.
    """
    episode = cut.episode
    distance = torch.zeros(len(episode))
    for held_out in fold.unique():
        inside = fold[episode] == held_out
        others = torch.nonzero(~inside).squeeze(1)
        if not len(others):
            continue
        others = others[torch.randperm(len(others), generator=generator)[:SEARCHED]]
        count = min(NEIGHBOURS, len(others))
        searched = cut.contexts(others)
        for rows in torch.nonzero(inside).squeeze(1).split(ROWS_A_PASS):
            nearest = torch.cdist(cut.contexts(rows), searched).topk(count, dim=1, largest=False).values
            distance[rows] = nearest.mean(dim=1)
    total = torch.zeros(len(cut.count)).index_add_(0, episode, distance)
    return (total / cut.count.clamp(min=1)).clamp(min=1e-3).log()


def owed_to_novelty(mean: Tensor, novelty: Tensor, quantile: float) -> Tensor:
    """
    By how much a good episode of this novelty scores below one of median novelty, `(E,)` nats, negative for a more
    familiar one: `-b (ν - median ν)` with `b <= 0` the slope of the linear regression of a quantile of `mean` on ν.

    A high quantile is that of good episodes as long as faults do not prefer familiar ones.

    Args:
        mean: `(E,)` nats, the episodes' scores; NaN where there is none.
        novelty: `(E,)`.
        quantile: in (0, 1).
    """
    taken = ~mean.isnan()
    m, nu = mean[taken], novelty[taken]
    if len(m) < 2 or nu.std() == 0:
        return torch.zeros_like(novelty)
    slope = torch.linspace(0.0, -STEEPEST, SLOPES) * m.std() / nu.std()
    residual = m[:, None] - nu[:, None] * slope
    residual = residual - residual.quantile(quantile, dim=0)
    loss = torch.maximum(quantile * residual, (quantile - 1.0) * residual).mean(dim=0)
    return -slope[loss.argmin()] * (novelty - nu.median())
