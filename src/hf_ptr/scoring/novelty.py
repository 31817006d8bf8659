"""Novelty of episodes: a low score of an unusual episode is not evidence of a fault.

Heads that have seen few episodes like the one they score give it a low score, faulty or not. Novelty is measured on
the contexts `o_t` alone, which neither wrong actions nor a wrong instruction change: the distance to the nearest
contexts that the heads have trained on. The score of a good episode falls with its novelty; that fall is added back.
N transitions, E episodes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.transitions import ROWS_PER_PASS, LazyTransitions


def searched_contexts(
    transitions: LazyTransitions, rows: Tensor, fold: Tensor, config: ScoreConfig, generator: torch.Generator
) -> dict[int, Tensor]:
    """
    By fold, the transitions of other folds whose contexts are searched for neighbours; folds without any are left out.

    Args:
        transitions: transitions with contexts in standard deviations.
        rows: `(n,)` int64, transitions to draw from.
        fold: fold of each episode, `(E,)` int64.
        config: settings of the score.
        generator: random generator of the draw.
    """
    of_row, found = fold[transitions.episode[rows]], {}
    for held_out in fold.unique().tolist():
        others = rows[of_row != held_out]
        if len(others):
            found[held_out] = others[torch.randperm(len(others), generator=generator)[: config.novelty_contexts]]
    return found


def context_novelty(
    transitions: LazyTransitions, rows: Tensor, fold: Tensor, searched: Mapping[int, Tensor], config: ScoreConfig
) -> Tensor:
    """
    Log of the mean distance of an episode's contexts to their nearest neighbours in other folds, `(E,)`; meaningless
    for episodes without a row.

    Args:
        transitions: transitions with contexts in standard deviations.
        rows: `(n,)` int64, all transitions of some episodes.
        fold: fold of each episode, `(E,)` int64.
        searched: from [`searched_contexts`].
        config: settings of the score.
    """
    episode = transitions.episode[rows]
    distance, of_row = torch.zeros(len(rows)), fold[episode]
    for held_out, others in searched.items():
        inside = torch.nonzero(of_row == held_out).squeeze(1)
        if not len(inside):
            continue
        count = min(config.novelty_neighbours, len(others))
        contexts = transitions.contexts(others)
        for part in inside.split(ROWS_PER_PASS):
            nearest = torch.cdist(transitions.contexts(rows[part]), contexts).topk(count, dim=1, largest=False).values
            distance[part] = nearest.mean(dim=1)
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
