"""The check `action/noise`: noise on actions, measured without a head.

Identifying an action among others is a coarser question than noise of a tenth of a standard deviation. From frame to
frame such noise is obvious: independent noise dominates the second differences of a smooth movement. Their median over
a chunk ignores a start, a stop or a slip, which take few frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ptr.scoring.calibration import episode_mean, fit_scale
from hf_ptr.scoring.config import ACTION_NOISE, ScoreConfig
from hf_ptr.scoring.transitions import ROWS_PER_PASS, LazyTransitions

# Median absolute second difference of white noise, in standard deviations of the noise: second differences have the
# variance 1 + 4 + 1, and the median of |x| of a standard normal number is 0.6745.
WHITE_NOISE_MEDIAN = 6**0.5 * 0.6745
# Values held at a time to take their medians; bounds the memory and changes no result.
MAX_VALUES_PER_MEDIAN = 4_000_000


def second_difference(action: Tensor) -> Tensor:
    """
    The median absolute second difference of each action dimension, `(N, da)`.

    Args:
        action: `(N, L, da)` with L at least 3.
    """
    return action.diff(n=2, dim=1).abs().median(dim=1).values


def action_noise_score(
    transitions: LazyTransitions, task: Tensor, config: ScoreConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """
    The calibrated score of every transition on `action/noise`, `(N,)`, by the name of the check; empty where chunks
    have fewer than three actions.

    Chunks that run past the end of their episode are left out, because their padding has no noise.

    The scale is that of `hf_ptr.scoring.calibration`, linear in the second difference. The planted noise is
    `planted_noise` times the movement, plus as much noise as the data already have (added in squares).

    Args:
        transitions: N transitions of E episodes.
        task: `(E,)` int64.
        config: settings of the score.
        generator: random generator of the planted noise.
    """
    whole = torch.arange(len(transitions))
    whole = whole[transitions.frames(whole) + transitions.chunk_size <= transitions.end[transitions.episode]]
    if transitions.chunk_size < 3 or not len(whole):
        return {}

    def chunks(rows: Tensor) -> Tensor:
        return transitions.actions(rows).unflatten(1, (transitions.chunk_size, -1))

    variance, real = [], torch.full((len(transitions),), torch.nan)
    for rows in whole.split(ROWS_PER_PASS):
        action = chunks(rows)
        variance.append(action.var(dim=1, correction=0).sum(dim=0))
        real[rows] = -second_difference(action).mean(dim=1)
    width = transitions.actions_by_step.width
    movement, usual = torch.stack(variance).sum(dim=0), torch.empty(width)
    # A median needs all transitions at once: a few dimensions at a time.
    for dimensions in torch.arange(width).split(max(1, MAX_VALUES_PER_MEDIAN // len(whole))):
        differences = torch.empty(len(whole), len(dimensions))
        for rows in torch.arange(len(whole)).split(ROWS_PER_PASS):
            differences[rows] = second_difference(chunks(whole[rows])[..., dimensions])
        usual[dimensions] = differences.median(dim=0).values / WHITE_NOISE_MEDIAN
    deviation = (config.planted_noise**2 * movement / len(whole) + usual.square()).sqrt()
    again = whole[:: config.planted_stride]
    planted = torch.empty(len(again))
    for rows in torch.arange(len(again)).split(ROWS_PER_PASS):
        action = chunks(again[rows])
        noisy = action + deviation * torch.randn(action.shape, generator=generator)
        planted[rows] = -second_difference(noisy).mean(dim=1)
    total, episode = len(transitions.count), transitions.episode
    good = episode_mean(real, episode, total, config.episode_shrinkage)
    bad = episode_mean(planted, episode[again], total, config.episode_shrinkage)
    scale = fit_scale(good, bad, task, int(task.max()) + 1, config)
    return {ACTION_NOISE: scale.score(real, episode, task)}
