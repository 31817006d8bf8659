"""The check `action/noise`: noise on actions, measured without a head, and judged by its size.

Identifying an action among others is a coarser question than noise of a tenth of a standard deviation. From frame to
frame such noise is obvious: independent noise dominates the second differences of a smooth movement. Their median over
a chunk ignores a start, a stop or a slip, which take few frames.

What is easy to see is not thereby a fault: hands tremble, each by its own amount. The size of the noise decides, in
standard deviations of the movement within episodes, and relative to the noise that the data usually have.
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
# Frames between the actions of a difference. Commands that change in every second frame only look noisy from frame to
# frame, but not in steps of two; noise looks the same in all.
STRIDES = (1, 2, 3)
# Planted noise takes the noise that the data usually have to at least this multiple.
TIMES_USUAL = 2.0


def second_difference(action: Tensor, stride: int = 1) -> Tensor:
    """
    The median absolute second difference of each action dimension, `(N, da)`.

    Args:
        action: `(N, L, da)` with `L > 2 * stride`.
        stride: frames between the actions of a difference.
    """
    first = action[:, stride:] - action[:, :-stride]
    return (first[:, stride:] - first[:, :-stride]).abs().median(dim=1).values


def action_noise_score(
    transitions: LazyTransitions, config: ScoreConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """
    The calibrated score of every transition on `action/noise`, `(N,)`, by the name of the check; empty where chunks
    have fewer than three actions, or no action moves.

    Chunks that run past the end of their episode or a pause are left out, because their padding has no noise.

    The scale is that of `hf_ptr.scoring.calibration`, linear in the size of the noise: its standard deviation in units
    of the movement within episodes, the mean over the dimensions, and the least over the `STRIDES`. The planted noise
    is `planted_noise` of these units, and at least enough to make the usual noise of the data `TIMES_USUAL` as large.

    Args:
        transitions: N transitions of E episodes.
        config: settings of the score.
        generator: random generator of the planted noise.
    """
    whole = torch.arange(len(transitions))
    whole = whole[transitions.frames(whole) + transitions.chunk_size <= transitions.ends(whole)]
    strides = [stride for stride in STRIDES if 2 * stride < transitions.chunk_size]
    movement = transitions.movement()
    moving = movement > 0
    if not strides or not len(whole) or not moving.any():
        return {}

    def sizes(rows: Tensor, planted: float = 0.0) -> Tensor:
        """The size of the noise of chunks `(n,)` by stride, `(n, K)`."""
        found = torch.empty(len(rows), len(strides))
        for done in torch.arange(len(rows)).split(ROWS_PER_PASS):
            chunks = transitions.actions(rows[done]).unflatten(1, (transitions.chunk_size, -1))
            action = chunks[..., moving] / movement[moving]
            if planted:
                action += planted * torch.randn(action.shape, generator=generator)
            for column, stride in enumerate(strides):
                found[done, column] = second_difference(action, stride).mean(dim=1) / WHITE_NOISE_MEDIAN
        return found

    total, episode = len(transitions.count), transitions.episode

    def least(size: Tensor, rows: Tensor) -> Tensor:
        """The size by the stride that has the least in each episode, `(n,)`."""
        mean = torch.stack([episode_mean(column, episode[rows], total) for column in size.unbind(dim=1)], dim=1)
        return size.gather(1, mean.nan_to_num(0.0).argmin(dim=1)[episode[rows], None]).squeeze(1)

    size = least(sizes(whole), whole)
    usual = float(size.median())
    again = whole[:: config.planted_stride]
    noise = max(config.planted_noise, usual * (TIMES_USUAL**2 - 1.0) ** 0.5)
    planted = least(sizes(again, noise), again)
    real = torch.full((len(transitions),), torch.nan).index_copy_(0, whole, -size)
    good = episode_mean(real, episode, total, config.episode_shrinkage)
    bad = episode_mean(-planted, episode[again], total, config.episode_shrinkage)
    # A size has one meaning for all tasks.
    group = torch.zeros(total, dtype=torch.int64)
    return {ACTION_NOISE: fit_scale(good, bad, group, 1, config).score(real, episode, group)}
