"""Scores of the episodes that no head was fitted with, in blocks that processes divide and that are kept one by one.

Large datasets have more episodes than a fit needs. The heads are fitted to a sample of them; all others are scored
like held-out episodes, by the heads of their fold. N transitions, E episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ptr.scoring.action_noise import ActionNoise
from hf_ptr.scoring.calibration import consistent_margin
from hf_ptr.scoring.config import ACTION_NOISE, ACTION_SHIFT
from hf_ptr.scoring.cross_fitting import FittedFold, FoldContext, RoundScores, score_rows
from hf_ptr.scoring.identification_heads import IdentificationHeads
from hf_ptr.scoring.novelty import context_novelty
from hf_ptr.scoring.transitions import LazyTransitions
from hf_ptr.utils.safetensors_io import PartCache
from hf_ptr.utils.shared_work import Share

# Transitions of a block, about; an interruption loses at most the work on one.
BLOCK = 65_536
# Names of the tensors of a block, besides the scores by check.
SHIFT, NOVELTY = "shift", "novelty"


@dataclass(frozen=True)
class OtherEpisodes:
    """
    Scores the episodes outside of the sample.

    Attributes:
        context: arguments shared by all folds.
        sample: `(E,)` bool, the episodes that the heads were fitted with.
        fold: fold of each episode, `(E,)` int64.
        fitted: the heads by fold.
        searched: from `searched_contexts`.
        noise: the check `action/noise`, None if it is not used.
    """

    context: FoldContext
    sample: Tensor
    fold: Tensor
    fitted: Mapping[int, FittedFold]
    searched: Mapping[int, Tensor]
    noise: ActionNoise | None

    def score(self, scored: RoundScores, novelty: Tensor, parts: PartCache, share: Share) -> Tensor:
        """
        Adds their scores and shifts to those of the sample, and their novelty to `novelty` `(E,)`, all in place.

        Args:
            scored: the scores of the sample.
            novelty: novelty of the sample.
            parts: cache of finished blocks, through which the processes exchange theirs.
            share: the share of this process.

        Returns:
            The scores of `action/noise`, `(N,)`, NaN for the sample.
        """
        heads = {number: one.restored(self.context) for number, one in self.fitted.items()}
        noise = torch.full((len(self.context.transitions),), torch.nan)
        blocks = list(enumerate(_blocks(self.context.transitions, self.sample)))
        # The other processes' blocks are there when this one has finished its own.
        own, others = ([block for block in blocks if share.has(block[0]) is mine] for mine in (True, False))
        for turn in (own, others):
            for number, (first, rows) in turn:
                part = parts.load(f"block-{number}")
                if part is None:
                    part = self._score_block(first, rows, heads)
                    parts.save(f"block-{number}", part)
                episodes = self.context.transitions.episode[rows].unique()
                scored.shift[episodes] = part.pop(SHIFT)
                novelty[episodes] = part.pop(NOVELTY)
                noise[rows] = part.pop(ACTION_NOISE)
                for check, score in part.items():
                    scored.real.setdefault(check, torch.full_like(noise, torch.nan))[rows] = score
            if turn is own:
                share.wait()
        return noise

    def _score_block(self, first: int, rows: Tensor, heads: Mapping[int, IdentificationHeads]) -> dict[str, Tensor]:
        """The part of transitions `(n,)` of whole episodes, from position `first` on: by check, `(n,)` each."""
        transitions, config = self.context.transitions, self.context.config
        episode = transitions.episode[rows]
        of_row = self.fold[episode]
        part: dict[str, Tensor] = {}
        shift = torch.full_like(transitions.count, -1)
        for number, fitted in self.fitted.items():
            here = torch.nonzero(of_row == number).squeeze(1)
            if not len(here):
                continue
            pool = transitions.take(fitted.pool)
            found = score_rows(self.context, heads[number], transitions, rows[here], pool, fitted.known)
            local = episode[here] - first
            found[ACTION_SHIFT], best = consistent_margin(found[ACTION_SHIFT], local, int(local.max()) + 1, config)
            shift[episode[here].unique()] = best[local.unique()]
            for check, score in found.items():
                part.setdefault(check, torch.full((len(rows),), torch.nan))[here] = score
        episodes = episode.unique()
        part[SHIFT] = shift[episodes]
        part[NOVELTY] = context_novelty(transitions, rows, self.fold, self.searched, config)[episodes]
        missing = torch.full((len(rows),), torch.nan)
        part[ACTION_NOISE] = missing if self.noise is None else self.noise.score_rows(rows)
        return part


def _blocks(transitions: LazyTransitions, sample: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Position of the first episode, and transitions outside of the sample, of each block of consecutive episodes."""
    ends = transitions.first + transitions.count
    begin = 0
    while begin < len(ends):
        limit = int(transitions.first[begin]) + BLOCK
        stop = max(begin + 1, int(torch.searchsorted(ends, limit, right=True)))
        rows = torch.arange(int(transitions.first[begin]), int(ends[stop - 1]))
        rows = rows[~sample[transitions.episode[rows]]]
        if len(rows):
            yield begin, rows
        begin = stop
