"""Cross-fitting over folds of episodes: each fold is scored by heads that have trained on the other folds only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_ptr import functional as F
from hf_ptr.scoring.calibration import consistent_margin
from hf_ptr.scoring.config import ACTION_SHIFT, PLANTED_FAULTS, ScoreConfig
from hf_ptr.scoring.identification_heads import IdentificationHeads, sum_losses
from hf_ptr.scoring.transitions import ROWS_PER_PASS, LazyTransitions, Transitions, plant_faults
from hf_ptr.utils.random_state import forked_random_state
from hf_ptr.utils.safetensors_io import PartCache


@dataclass(frozen=True)
class RoundScores:
    """
    The scores of one round, in nats.

    Attributes:
        real: scores by check, `(N,)`; NaN for a missing score.
        again: transitions scored again with planted faults, `(n,)` int64.
        planted: their scores by check, `(n,)`.
        shift: `(E,)` int64, position in `shifts` of the best-fitting shift of each episode; -1 without evidence.
    """

    real: dict[str, Tensor]
    again: Tensor
    planted: dict[str, Tensor]
    shift: Tensor


@dataclass(frozen=True)
class FoldContext:
    """
    The arguments that training and scoring of all folds share.

    Attributes:
        transitions: N transitions of E episodes.
        config: settings of the score.
        steps: training steps of each fold.
        instructions: number of instructions of the dataset.
        generator: random generator of every draw.
        device: device of the heads.
        advance: callback, called with the number of finished steps and passes.
    """

    transitions: LazyTransitions
    config: ScoreConfig
    steps: int
    instructions: int
    generator: torch.Generator
    device: torch.device
    advance: Callable[[int], None]


def assign_folds(episode_index: np.ndarray, folds: int) -> Tensor:
    """Fold of each episode, `(E,)` int64 in `0 .. folds - 1`: rank of a hash of its id, so that folds are equal."""
    hashes = [int.from_bytes(hashlib.blake2b(str(int(i)).encode(), digest_size=8).digest()) for i in episode_index]
    rank = np.argsort(np.argsort(np.array(hashes, dtype=np.uint64), kind="stable"), kind="stable")
    return torch.from_numpy(rank % folds)


@dataclass(frozen=True)
class FittedFold:
    """
    What scores the episodes of a fold.

    Attributes:
        heads: parameters of the heads, one vector.
        pool: transitions that are the candidates, `(pool_size,)` int64.
        known: instructions that the heads know, `(instructions,)` bool.
    """

    heads: Tensor
    pool: Tensor
    known: Tensor

    def restored(self, context: FoldContext) -> IdentificationHeads:
        """The heads."""
        # Their first parameters are drawn, and replaced.
        with forked_random_state(context.device, 0):
            heads = IdentificationHeads(*context.transitions.sizes, context.instructions, context.config)
        values = list(heads.state_dict().values())
        for value, part in zip(values, self.heads.split([value.numel() for value in values]), strict=True):
            value.copy_(part.view_as(value))
        return heads.to(context.device).eval()


def score_round(
    context: FoldContext, rows: Tensor, fold: Tensor, weight: Tensor, *, parts: PartCache, name: str
) -> tuple[RoundScores, dict[int, FittedFold]]:
    """
    Scores of transitions, real and with each planted fault, by heads that have not trained on their episodes.

    Args:
        context: arguments shared by all folds.
        rows: `(n,)` int64, all transitions of some episodes, which the heads are fitted to.
        fold: fold of each episode, `(E,)` int64.
        weight: `(E,)`, relative frequency of an episode in training and among the candidates.
        parts: cache of finished folds.
        name: name of the round in the cache.

    Returns:
        The scores, NaN for other transitions, and the heads by fold.
    """
    transitions, config = context.transitions, context.config
    real: dict[str, Tensor] = {}
    again, planted = [], []
    shift = torch.full_like(transitions.count, -1)
    fitted: dict[int, FittedFold] = {}
    given = torch.zeros(len(transitions.count), dtype=torch.bool)
    given[transitions.episode[rows]] = True
    of_row = fold[transitions.episode[rows]]
    for held_out in range(int(fold.max()) + 1):
        test = torch.nonzero((fold == held_out) & given).squeeze(1)
        train = torch.nonzero((fold != held_out) & given).squeeze(1)
        if min(len(train), len(test)) == 0:
            continue
        row = rows[of_row == held_out]
        part_name = f"{name}-fold-{held_out}"
        part = parts.load(part_name)
        if part is None:
            heads = train_heads(context, *_training_episodes(given, train, weight, config))
            part = score_fold(context, heads, train, test, weight, row)
            part["heads"] = torch.cat([value.detach().cpu().flatten() for value in heads.state_dict().values()])
            parts.save(part_name, {**part, "generator": context.generator.get_state()})
        else:
            context.generator.set_state(part["generator"])
            context.advance(context.steps + len(row) // ROWS_PER_PASS)
        again.append(row[:: config.planted_stride].contiguous())
        planted.append(_with_prefix(part, "planted."))
        for check, score in _with_prefix(part, "real.").items():
            real.setdefault(check, score.new_full((len(transitions),), torch.nan))[row] = score
        shift = torch.where(fold == held_out, part["shift"], shift)
        fitted[held_out] = FittedFold(part["heads"], part["pool"], part["known"])
    return RoundScores(real, torch.cat(again), _concatenate_folds(planted, again), shift), fitted


def _training_episodes(given: Tensor, train: Tensor, weight: Tensor, config: ScoreConfig) -> tuple[Tensor, Tensor]:
    """The episodes to train on, and their weights."""
    if config.cross_fit:
        return train, weight[train]
    # Held-out episodes are drawn like an average training episode.
    usable = torch.nonzero(given).squeeze(1)
    every = torch.full((len(given),), float(weight[train].mean())).index_copy(0, train, weight[train])
    return usable, every[usable]


def score_fold(
    context: FoldContext, heads: IdentificationHeads, train: Tensor, test: Tensor, weight: Tensor, row: Tensor
) -> dict[str, Tensor]:
    """
    Scores of one fold by its heads: `real.CHECK` of every transition, `planted.CHECK` of every `planted_stride`-th,
    `shift`, the position of the shift that fits each of its episodes best, `(E,)` int64, and `pool` and `known` of
    [`FittedFold`].

    The margins over all shifts are a dozen numbers per transition; they are reduced here, fold by fold.

    Args:
        context: arguments shared by all folds.
        heads: heads fitted on the episodes `train`.
        train, test: positions of training and held-out episodes.
        weight: `(E,)`, relative frequency of an episode among the candidates.
        row: `(n,)` int64, the transitions of the fold.
    """
    transitions, config, generator = context.transitions, context.config, context.generator
    instruction = transitions.instructions(transitions.first[train])
    known = torch.bincount(instruction, minlength=context.instructions) >= config.min_instruction_episodes
    drawn = _draw(transitions, test, weight[test], config.pool_size, generator)
    pool = transitions.take(drawn)
    episodes = len(transitions.count)
    scores = score_rows(context, heads, transitions, row, pool, known)
    scores[ACTION_SHIFT], shift = consistent_margin(scores[ACTION_SHIFT], transitions.episode[row], episodes, config)
    part = {"shift": shift, "pool": drawn, "known": known}
    part |= {f"real.{check}": score for check, score in scores.items()}
    again = row[:: config.planted_stride].contiguous()
    faults = plant_faults(transitions, test, known, config.planted_shift, generator)
    for check, fault in PLANTED_FAULTS.items():
        if check in heads.checks and fault in faults:
            score = score_rows(context, heads, faults[fault], again, pool, known, [check])[check]
            if check == ACTION_SHIFT:
                score, _ = consistent_margin(score, transitions.episode[again], episodes, config)
            part[f"planted.{check}"] = score
    return part


def train_heads(context: FoldContext, episodes: Tensor, weight: Tensor) -> IdentificationHeads:
    """
    Heads fitted to episodes drawn in proportion to `weight`.

    Args:
        context: arguments shared by all folds.
        episodes: positions of the training episodes, each with a transition.
        weight: sampling weight of each of them.
    """
    transitions, config, generator = context.transitions, context.config, context.generator
    with forked_random_state(context.device, int(torch.randint(2**31, (1,), generator=generator))):
        heads = IdentificationHeads(*transitions.sizes, context.instructions, config).to(context.device)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, config.final_learning_rate, context.steps)
    drawn = min(config.batch_episodes, len(episodes))
    anchors = config.batch_episodes * config.chunks_per_episode // drawn // 2
    for _ in range(context.steps):
        chosen = episodes[torch.multinomial(weight, drawn, generator=generator)]
        batch = transitions.take(draw_batch(transitions, chosen, anchors, config, generator))
        with F.unchecked():
            loss = sum_losses(heads.losses(batch.to(context.device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        context.advance(1)
    return heads.eval()


def draw_batch(
    transitions: LazyTransitions, episodes: Tensor, anchors: int, config: ScoreConfig, generator: torch.Generator
) -> Tensor:
    """Transitions at random times of each episode, and as many shifted from them: `(2 * episodes * anchors,)`."""
    last = transitions.count[episodes, None] - 1
    time = (torch.rand(len(episodes), anchors, generator=generator) * (last + 1)).long().clamp(max=last)
    shift = torch.tensor(config.shifts)[torch.randint(len(config.shifts), time.shape, generator=generator)]
    rows = transitions.first[episodes, None] + time
    rows = torch.cat((rows, transitions.moved(rows, shift)), dim=1)
    if config.near_state_candidates:
        near = rows[:, :anchors:2].flatten()
        rows[:, anchors::2] = _nearest(transitions, episodes, near, config, generator).view(len(episodes), -1)
    return rows.flatten()


def _nearest(
    transitions: LazyTransitions, episodes: Tensor, rows: Tensor, config: ScoreConfig, generator: torch.Generator
) -> Tensor:
    """The nearest transition in context among some of the other episodes, for transitions `(n,)`: `(n,)`."""
    drawn = torch.rand(len(episodes), config.near_state_candidates, generator=generator)
    time = (drawn * transitions.count[episodes, None]).long()
    others = (transitions.first[episodes, None] + time).flatten()
    distance = torch.cdist(transitions.contexts(rows), transitions.contexts(others))
    distance.masked_fill_(transitions.episode[rows][:, None] == transitions.episode[others], torch.inf)
    return others[distance.argmin(dim=1)]


def score_rows(
    context: FoldContext,
    heads: IdentificationHeads,
    transitions: LazyTransitions,
    row: Tensor,
    pool: Transitions,
    known: Tensor,
    checks: Sequence[str] = tuple(PLANTED_FAULTS),
) -> dict[str, Tensor]:
    """The scores of transitions `(n,)`, real or with a planted fault: `(n,)`, of `action/shift` `(n, S)`."""
    shifts = torch.tensor(context.config.shifts)
    # Allocated before the first pass: results of each pass would lie between the large tensors of the next ones, and
    # the process could return none of that memory.
    found = {
        check: torch.empty(len(row), *shifts.shape[: check == ACTION_SHIFT])
        for check in heads.checks
        if check in checks
    }
    pool, known = pool.to(context.device), known.to(context.device)
    for begin in range(0, len(row), ROWS_PER_PASS):
        done = slice(begin, begin + ROWS_PER_PASS)
        part = row[done]
        moved = transitions.moved(part[:, None], shifts)
        inside = moved == part[:, None] + shifts
        near = torch.where(inside, moved, part[:, None])
        with F.unchecked():
            scores = heads.scores(
                transitions.take(part).to(context.device),
                pool,
                shifted=(transitions.actions(rows).to(context.device) for rows in near.unbind(dim=1)),
                usable_shifts=inside.to(context.device),
                known=known,
                checks=checks,
            )
        for check, score in scores.items():
            found[check][done] = score.cpu()
        context.advance(1)
    return found


def passes_per_round(transitions: int, config: ScoreConfig) -> int:
    """An upper bound of the passes of a round; each takes about as long as a training step."""
    planted = len(PLANTED_FAULTS) / config.planted_stride
    return int(transitions / ROWS_PER_PASS * (1.0 + planted)) + config.folds * (1 + len(PLANTED_FAULTS))


def _draw(
    transitions: LazyTransitions, episodes: Tensor, weight: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Transitions at random times of episodes drawn in proportion to `weight`: `(count,)`."""
    chosen = episodes[torch.multinomial(weight, count, replacement=True, generator=generator)]
    time = (torch.rand(count, generator=generator) * transitions.count[chosen]).long()
    return transitions.first[chosen] + time.minimum(transitions.count[chosen] - 1)


def _with_prefix(part: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in part.items() if key.startswith(prefix)}


def _concatenate_folds(folds: Sequence[Mapping[str, Tensor]], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """The scores of all folds; NaN where a fold has no score for a check."""
    names = dict.fromkeys(check for fold in folds for check in fold)
    return {
        name: torch.cat(
            [fold.get(name, torch.full((len(row),), torch.nan)) for fold, row in zip(folds, rows, strict=True)]
        )
        for name in names
    }
