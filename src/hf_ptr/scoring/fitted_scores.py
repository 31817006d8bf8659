"""The result of a fit: score, weight and failed check of every chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import reduce

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import BLOCK_ROWS
from hf_ptr.data.score_file import ELEMENT_PREFIX, ELEMENTS, score_frame
from hf_ptr.scoring.calibration import calibrated_weight, episode_mean, fault_score, keep_sample_size, least
from hf_ptr.scoring.config import ACTION_NOISE, ScoreConfig
from hf_ptr.scoring.identification_heads import element_of
from hf_ptr.scoring.transitions import LazyTransitions


class FittedScores:
    """
    Score and weight of every chunk of a dataset, and the failed checks.

    Args:
        table: E episodes of F frames.
        transitions: their N transitions.
        scores: calibrated scores by check, `(N,)`.
        lag: `(E,)` int64, frames by which each episode's actions fit best when taken later; 0 without evidence.
        scorer: identifier of heads and configuration in the file.
        config: settings of the score.
        fitted_to: number of episodes that the heads were fitted to.
    """

    def __init__(
        self,
        table: EpisodeTable,
        transitions: LazyTransitions,
        scores: dict[str, Tensor],
        lag: Tensor,
        scorer: str,
        config: ScoreConfig,
        fitted_to: int,
    ):
        self._table, self._transitions, self._lag = table, transitions, lag
        self._scores = scores
        self.fitted_to = fitted_to
        self._scorer, self._config = scorer, config
        self._checks = {element: [check for check in scores if element_of(check) == element] for element in ELEMENTS}
        self._default = {element: self._default_of(checks) for element, checks in self._checks.items() if checks}
        rows = self._rows_of(slice(None))
        self._score = self._all_frames(list(scores), rows)
        self._milder = self._excusing_noise(rows)
        self._usable = (transitions.count > 0).repeat_interleave(torch.from_numpy(table.lengths))
        self._weight = self._weights()

    @property
    def resting(self) -> dict[str, list[int]]:
        """The dimensions that rest and do not enter the score, by the name of their feature."""
        return self._transitions.resting

    def with_faults(
        self, harm: np.ndarray, explained: np.ndarray | None = None, least_harm: np.ndarray | None = None
    ) -> FittedScores:
        """
        The scores with the faults that were found by other means, for example by `hf_ptr.detection`.

        Score and weight of a chunk are at most those of its fault, `w <= h w_min + (1 - h) w_max`. Chunks that are
        `explained` have at least the median score of the episodes without harm. Without harm nothing changes.
        The least effective sample size holds for the new weights: where faults cover most chunks, it raises weights
        above this limit, first those of the least harmful faults. Scores by element and failed checks stay those of
        the fit.

        Args:
            harm: `(F,)`, `h`, the expected harm of the faults in the frames of the chunk that starts at each frame,
                from `hf_ptr.detection.chunk_faults.chunk_harm`.
            explained: `(F,)` bool, sound chunks of episodes in which a fault elsewhere explains a low score, from
                `hf_ptr.detection.chunk_faults.chunks_next_to_faults`; none by default.
            least_harm: `(F,)`, at most `harm`, from `hf_ptr.detection.chunk_faults.least_harm`: down to it the least
                effective sample size excuses faults before it raises all weights. `harm` by default.
        """
        if not harm.any() and (explained is None or not explained.any()):
            return self
        found = copy(self)
        if explained is not None:
            spared = torch.from_numpy(explained)
            sound = self._usable & self._harmless(harm)
            if sound.any():
                usual = self._score[sound].median()
                found._score = torch.where(spared, self._score.clamp(min=usual), self._score)
                found._milder = torch.where(spared, self._milder.clamp(min=usual), self._milder)
        limit, milder = (
            fault_score(torch.from_numpy(each).to(self._score.dtype), self._config)
            for each in (harm, harm if least_harm is None else least_harm)
        )
        found._score, found._milder = torch.minimum(found._score, limit), torch.minimum(found._milder, milder)
        weight = found._weights()
        # Episodes without a transition have the mean weight, whatever their score is.
        lowered = torch.minimum(weight, calibrated_weight(limit, self._config))
        weight = torch.where(self._usable, weight, lowered)
        found._weight = keep_sample_size(weight, min_share=self._config.min_sample_size)
        return found

    def _harmless(self, harm: np.ndarray) -> Tensor:
        """`(F,)` bool: the frames of the episodes in which no chunk is harmful."""
        largest = np.maximum.reduceat(harm, self._table.starts)
        return torch.from_numpy(largest == 0).repeat_interleave(torch.from_numpy(self._table.lengths))

    def _weights(self) -> Tensor:
        """The weights of the scores, `(F,)`, with the least effective sample size."""
        usable, min_share = self._usable, self._config.min_sample_size
        weight, milder = (calibrated_weight(score, self._config) for score in (self._score, self._milder))
        raised = keep_sample_size(weight[usable], milder[usable], min_share=min_share)
        # Episodes without a transition get the mean, which does not lower the effective sample size.
        return torch.full_like(weight, float(raised.mean())).masked_scatter_(usable, raised)

    def frame(self) -> pd.DataFrame:
        """
        One row per frame, in the order of the dataset, with the columns of `hf_ptr.data.score_file.COLUMNS`.

        `score` is `z` of `hf_ptr.scoring.calibration`: 0 like a transition with a planted fault, 1 like a good one.
        Frames without an observation `target_offset` frames later, or with a pause of the recording before it, have
        `valid` False and the mean score of their episode; those of an episode without any transition have the average
        of the dataset.
        """
        return pd.concat(self.blocks(), ignore_index=True)

    def blocks(self) -> Iterator[pd.DataFrame]:
        """The same rows in parts of whole episodes, each of some ten thousand rows or one episode."""
        first, starts = 0, self._table.starts
        while first < len(starts):
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK_ROWS)))
            yield self._block(slice(first, last))
            first = last

    def _block(self, episodes: slice) -> pd.DataFrame:
        lengths = torch.from_numpy(self._table.lengths[episodes])
        begin, size = int(self._table.starts[episodes.start]), int(lengths.sum())
        rows = self._rows_of(episodes)
        missing = torch.full((size,), torch.nan)
        scores = {
            element: self._frames_of(checks, self._default[element], episodes, rows) if checks else missing
            for element, checks in self._checks.items()
        }
        samples = self._samples_of(episodes)
        failing = self._failing({check: score[samples] for check, score in self._scores.items()})
        check = torch.full((size,), -1, dtype=torch.int8).index_copy_(0, rows, failing)
        return score_frame(
            self._table,
            episodes,
            score=self._score[begin : begin + size].numpy(),
            weight=self._weight[begin : begin + size].numpy(),
            valid=torch.zeros(size, dtype=torch.bool).index_fill_(0, rows, True).numpy(),
            scorer=self._scorer,
            **{f"{ELEMENT_PREFIX}{element}": values.numpy() for element, values in scores.items()},
            failed_element=_names_of(ELEMENTS, self._failing(scores)),
            failed_check=_names_of(tuple(self._scores), check),
            estimated_lag=self._lag[episodes].repeat_interleave(lengths).numpy(),
        )

    def _samples_of(self, episodes: slice) -> slice:
        """The transitions of some episodes, which are adjacent."""
        first, count = self._transitions.first[episodes], self._transitions.count[episodes]
        return slice(int(first[0]), int(first[-1] + count[-1]))

    def _rows_of(self, episodes: slice) -> Tensor:
        """The row of each of their transitions among their frames."""
        samples = self._samples_of(episodes)
        frames = self._transitions.frames(torch.arange(samples.start, samples.stop))
        return frames.sub_(int(self._transitions.begin[episodes][0]))

    def _excusing_noise(self, rows: Tensor) -> Tensor:
        """The score with action noise half excused: of all faults, noise alone has the right action as its mean."""
        others = [check for check in self._scores if check != ACTION_NOISE]
        if not others:
            return self._score
        return torch.maximum(self._score, self._all_frames(others, rows).clamp(max=self._config.threshold))

    def _least(self, checks: Sequence[str], samples: slice) -> Tensor:
        return reduce(torch.minimum, (self._scores[check][samples] for check in checks))

    def _default_of(self, checks: Sequence[str]) -> Tensor:
        """The score of each episode's frames without a transition: the episode's mean, or the mean of all."""
        values = self._least(checks, slice(None))
        mean = episode_mean(values, self._transitions.episode, len(self._transitions.count))
        return torch.where(mean.isnan(), values.mean(), mean)

    def _all_frames(self, checks: Sequence[str], rows: Tensor) -> Tensor:
        """The least of the checks, for all frames."""
        return self._frames_of(checks, self._default_of(checks), slice(None), rows)

    def _frames_of(self, checks: Sequence[str], default: Tensor, episodes: slice, rows: Tensor) -> Tensor:
        """The least of the checks, for all frames of some episodes; `rows` are those with a transition."""
        frames = default[episodes].repeat_interleave(torch.from_numpy(self._table.lengths[episodes]))
        return frames.index_copy_(0, rows, self._least(checks, self._samples_of(episodes)))

    def _failing(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Position of the least score where it is below the threshold, and -1 elsewhere; NaN never fails. Int8."""
        z, position = least({name: values.nan_to_num(torch.inf) for name, values in scores.items()})
        return torch.where(z < self._config.threshold, position, -1).to(torch.int8)


def _names_of(names: Sequence[str], position: Tensor) -> np.ndarray:
    """The name at each position, "" at -1; as objects, since numpy's strings take the longest length in every row."""
    return np.array([*names, ""], dtype=object)[position.numpy()]
