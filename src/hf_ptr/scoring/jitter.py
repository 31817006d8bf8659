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

JITTER = "action/jitter"
# The noise made on purpose, in root mean square deviations of an action dimension around its chunk's mean: that is the
# size of the movement, whether actions are displacements or positions.
FAULT_JITTER = 0.3


def tremor(action: Tensor) -> Tensor:
    """
    The mean over dimensions of the median size of an action's second differences, `(N,)`.

    Args:
        action: `(N, L, da)` with L at least 3.
    """
    return action.diff(n=2, dim=1).abs().median(dim=1).values.mean(dim=1)


def jitter_distance(cut: Cut, task: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """
    The distance `z` of every sample by its tremor alone, `(N,)`, under its name; nothing where chunks are too short.

    The scale is that of `hf_ptr.scoring.calibration`, linear in the tremor: who trembles half as much as the noise
    made on purpose lies in the middle.

    Args:
        cut: the samples.
        task: `(E,)` int64.
        generator: of the noise.
    """
    if cut.chunk_size < 3 or not len(cut):
        return {}
    passes = torch.arange(len(cut)).split(ROWS_A_PASS)

    def chunks(rows: Tensor) -> Tensor:
        return cut.actions(rows).unflatten(1, (cut.chunk_size, -1))

    movement = torch.stack([chunks(rows).var(dim=1, correction=0).sum(dim=0) for rows in passes]).sum(dim=0)
    deviation = FAULT_JITTER * (movement / len(cut)).sqrt()
    real = torch.cat([-tremor(chunks(rows)) for rows in passes])
    again = torch.arange(0, len(cut), FAULT_STRIDE)
    made = []
    for rows in again.split(ROWS_A_PASS):
        steady = chunks(rows)
        made.append(-tremor(steady + deviation * torch.randn(steady.shape, generator=generator)))
    total = len(cut.count)
    good = episode_mean(real, cut.episode, total, SHRINKAGE)
    bad = episode_mean(torch.cat(made), cut.episode[again], total, SHRINKAGE)
    scale = fit_scale(good, bad, task, int(task.max()) + 1)
    return {JITTER: scale.distance(real, cut.episode, task)}
