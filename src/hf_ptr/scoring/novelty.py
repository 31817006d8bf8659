"""Novelty of episodes: a low score of an unusual episode is not evidence of a fault.

Heads that have seen few episodes like the one they score give it a low score, faulty or not. Novelty is measured on
the contexts `o_t` alone, which neither wrong actions nor a wrong instruction change: the distance to the nearest
contexts that the heads have trained on. The score of a good episode falls with its novelty; that fall is added back.
N transitions, E episodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.transitions import ROWS_PER_PASS, LazyTransitions


def context_novelty(
    transitions: LazyTransitions, fold: Tensor, config: ScoreConfig, generator: torch.Generator
) -> Tensor:
    """
    Log of the mean distance of an episode's contexts to their nearest neighbours in other folds, `(E,)`.

    Args:
        transitions: transitions with contexts in standard deviations.
        fold: fold of each episode, `(E,)` int64.
        config: settings of the score.
        generator: random generator for the draw of the contexts to search.
    """
    episode = transitions.episode
    distance = torch.zeros(len(episode))
    for held_out in fold.unique():
        inside = fold[episode] == held_out
        others = torch.nonzero(~inside).squeeze(1)
        if not len(others):
            continue
        others = others[torch.randperm(len(others), generator=generator)[: config.novelty_contexts]]
        count = min(config.novelty_neighbours, len(others))
        searched = transitions.contexts(others)
        for rows in torch.nonzero(inside).squeeze(1).split(ROWS_PER_PASS):
            nearest = torch.cdist(transitions.contexts(rows), searched).topk(count, dim=1, largest=False).values
            distance[rows] = nearest.mean(dim=1)
    total = torch.zeros(len(transitions.count)).index_add_(0, episode, distance)
    return (total / transitions.count.clamp(min=1)).clamp(min=1e-3).log()


def novelty_correction(mean: Tensor, novelty: Tensor, config: ScoreConfig) -> Tensor:
    """
    Correction of the scores of each episode, `(E,)` nats, negative for a familiar one: `-b (ν - median ν)` with
    `b <= 0` the slope of the linear regression of the `good_quantile` of `mean` on ν.

    A high quantile follows the good episodes, as long as faults do not prefer familiar contexts.

    Args:
        mean: `(E,)` nats, the episodes' mean scores; NaN where there is none.
        novelty: `(E,)`.
        config: settings of the score.
    """
    quantile = config.good_quantile
    taken = ~mean.isnan()
    m, nu = mean[taken], novelty[taken]
    if len(m) < 2 or nu.std() == 0:
        return torch.zeros_like(novelty)
    slope = torch.linspace(0.0, -config.novelty_steepest, config.novelty_slopes) * m.std() / nu.std()
    residual = m[:, None] - nu[:, None] * slope
    residual = residual - residual.quantile(quantile, dim=0)
    loss = torch.maximum(quantile * residual, (quantile - 1.0) * residual).mean(dim=0)
    return -slope[loss.argmin()] * (novelty - nu.median())
