"""How much actions tremble: noise on them needs no scorer to be seen.

What identifies an action among others is far coarser than noise of a tenth of a standard deviation, and heads look
through it. From frame to frame it is plain: a movement has small second differences, white noise has those of `√6`
times its own deviation. Their median along a chunk is that of most frames, so that a start, a stop or a slip is no
tremor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ptr.scoring.calibration import SHRINKAGE, episode_mean, fit_scale
from hf_ptr.scoring.transitions import FAULT_STRIDE, ROWS_A_PASS, Cut

ACTION_NOISE = "action/noise"
# The noise made on purpose, in root mean square deviations of an action dimension around its chunk's mean: that is the
# size of the movement, whether actions are displacements or positions. Where hands tremble anyway it is more.
PLANTED_NOISE = 0.3
# The median size of second differences of white noise, in deviations of the noise.
OF_WHITE_NOISE = 6**0.5 * 0.6745
# Values that are held to take their medians.
MAX_VALUES_PER_MEDIAN = 4_000_000


def tremor(action: Tensor) -> Tensor:
    """
    The median size of the second differences of each action dimension, `(N, da)`.

    Args:
        action: `(N, L, da)` with L at least 3.
    """
    return action.diff(n=2, dim=1).abs().median(dim=1).values


def action_noise_scores(cut: Cut, task: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """
    The distance `z` of every sample by its tremor alone, `(N,)`, under its name; nothing where chunks are too short.

    Of chunks that run past the end of their episode nothing is taken: what fills them up does not tremble.

    The scale is that of `hf_ptr.scoring.calibration`, linear in the tremor: who trembles half as much as with the
    noise made on purpose lies in the middle. That noise is at least as much as the data have.

    Args:
        cut: the samples.
        task: `(E,)` int64.
        generator: of the noise.
    """
    every = torch.arange(len(cut))
    every = every[cut.frames(every) + cut.chunk_size <= cut.end[cut.episode]]
    if cut.chunk_size < 3 or not len(every):
        return {}

    def chunks(rows: Tensor) -> Tensor:
        return cut.actions(rows).unflatten(1, (cut.chunk_size, -1))

    moved, real = [], torch.full((len(cut),), torch.nan)
    for rows in every.split(ROWS_A_PASS):
        steady = chunks(rows)
        moved.append(steady.var(dim=1, correction=0).sum(dim=0))
        real[rows] = -tremor(steady).mean(dim=1)
    movement, usual = torch.stack(moved).sum(dim=0), torch.empty(cut.acted.width)
    # A median wants all samples at once: a few dimensions at a time.
    for some in torch.arange(cut.acted.width).split(max(1, MAX_VALUES_PER_MEDIAN // len(every))):
        trembled = torch.empty(len(every), len(some))
        for place in torch.arange(len(every)).split(ROWS_A_PASS):
            trembled[place] = tremor(chunks(every[place])[..., some])
        usual[some] = trembled.median(dim=0).values / OF_WHITE_NOISE
    deviation = (PLANTED_NOISE**2 * movement / len(every) + usual.square()).sqrt()
    again = every[::FAULT_STRIDE]
    noisy = torch.empty(len(again))
    for place in torch.arange(len(again)).split(ROWS_A_PASS):
        steady = chunks(again[place])
        noisy[place] = -tremor(steady + deviation * torch.randn(steady.shape, generator=generator)).mean(dim=1)
    total = len(cut.count)
    good = episode_mean(real, cut.episode, total, SHRINKAGE)
    bad = episode_mean(noisy, cut.episode[again], total, SHRINKAGE)
    scale = fit_scale(good, bad, task, int(task.max()) + 1)
    return {ACTION_NOISE: scale.distance(real, cut.episode, task)}
