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


class ActionNoise:
    """
    The check `action/noise` of a dataset.

    Chunks that run past the end of their episode or a pause are left out, because their padding has no noise.

    The scale is that of `hf_ptr.scoring.calibration`, linear in the size of the noise: its standard deviation in units
    of the movement within episodes, the mean over the dimensions, and the least over the `STRIDES`. The planted noise
    is `planted_noise` of these units, and at least enough to make the usual noise of the data `TIMES_USUAL` as large.

    Args:
        transitions: N transitions of E episodes.
        rows: `(n,)` int64, all transitions of the episodes that show the usual noise and get the planted one.
        config: settings of the score.
        generator: random generator of the planted noise.

    Attributes:
        works: False where chunks have fewer than three actions, or no action moves.
    """

    def __init__(
        self, transitions: LazyTransitions, rows: Tensor, config: ScoreConfig, generator: torch.Generator
    ) -> None:
        self._transitions, self._config, self._generator = transitions, config, generator
        self._strides = [stride for stride in STRIDES if 2 * stride < transitions.chunk_size]
        self._movement = transitions.movement()
        self._moving = self._movement > 0
        whole = self._whole(rows)
        self.works = bool(self._strides and len(whole) and self._moving.any())
        if not self.works:
            return
        # The score of a transition is minus the size of its noise.
        size = self._least(self._sizes(whole), whole)
        self._shown, self._score = whole, -size
        again = whole[:: config.planted_stride]
        noise = max(config.planted_noise, float(size.median()) * (TIMES_USUAL**2 - 1.0) ** 0.5)
        planted = self._least(self._sizes(again, noise), again)
        self._bad = self._mean(-planted, again, config.episode_shrinkage)

    def score_rows(self, rows: Tensor) -> Tensor:
        """Minus the size of the noise of transitions `(n,)`, all of some episodes, `(n,)`; NaN where left out."""
        found = torch.full((len(rows),), torch.nan)
        if self.works:
            whole = self._whole(rows)
            found[torch.isin(rows, whole, assume_unique=True)] = -self._least(self._sizes(whole), whole)
        return found

    def calibrated(self, others: Tensor | None = None) -> dict[str, Tensor]:
        """
        The calibrated score of every transition, `(N,)`, by the name of the check; empty where it does not work.

        Args:
            others: `(N,)`, from `score_rows`, of the episodes that were not given at first; by default NaN.
        """
        if not self.works:
            return {}
        count = len(self._transitions)
        real = torch.full((count,), torch.nan) if others is None else others.clone()
        real.index_copy_(0, self._shown, self._score)
        good = episode_mean(
            real, self._transitions.episode, len(self._transitions.count), self._config.episode_shrinkage
        )
        # A size has one meaning for all tasks.
        group = torch.zeros(len(self._transitions.count), dtype=torch.int64)
        scale = fit_scale(good, self._bad, group, 1, self._config)
        return {ACTION_NOISE: scale.score(real, self._transitions.episode, group)}

    def _whole(self, rows: Tensor) -> Tensor:
        """Those of transitions `(n,)` whose chunks end within their segment."""
        return rows[self._transitions.frames(rows) + self._transitions.chunk_size <= self._transitions.ends(rows)]

    def _sizes(self, rows: Tensor, planted: float = 0.0) -> Tensor:
        """The size of the noise of chunks `(n,)` by stride, `(n, K)`."""
        found = torch.empty(len(rows), len(self._strides))
        for done in torch.arange(len(rows)).split(ROWS_PER_PASS):
            chunks = self._transitions.actions(rows[done]).unflatten(1, (self._transitions.chunk_size, -1))
            action = chunks[..., self._moving] / self._movement[self._moving]
            if planted:
                action += planted * torch.randn(action.shape, generator=self._generator)
            for column, stride in enumerate(self._strides):
                found[done, column] = second_difference(action, stride).mean(dim=1) / WHITE_NOISE_MEDIAN
        return found

    def _least(self, size: Tensor, rows: Tensor) -> Tensor:
        """The size by the stride that has the least in each episode, `(n,)`."""
        mean = torch.stack([self._mean(column, rows) for column in size.unbind(dim=1)], dim=1)
        best = mean.nan_to_num(0.0).argmin(dim=1)
        return size.gather(1, best[self._transitions.episode[rows], None]).squeeze(1)

    def _mean(self, score: Tensor, rows: Tensor, strength: float = 0.0) -> Tensor:
        """Means by episode, `(E,)`, of scores of transitions `(n,)`."""
        return episode_mean(score, self._transitions.episode[rows], len(self._transitions.count), strength)
