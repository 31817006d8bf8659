"""Heads across folds of episodes: each fold is scored by heads that have trained on the other folds only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_ptr import functional as F
from hf_ptr.scoring.calibration import consistent_margin
from hf_ptr.scoring.identification_heads import ACTION_SHIFT, COMPONENTS, IdentificationHeads, mean_losses
from hf_ptr.scoring.transitions import FAULT_STRIDE, ROWS_A_PASS, Cut, Transitions, make_faults
from hf_ptr.utils.safetensors_io import PartCache

# Of few episodes, heads should see most; each fold has two episodes or more.
FOLDS = 5
BATCH_EPISODES = 64
BATCH_TIMES = 4
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
POOL_SIZE = 512
# Frames by which an action chunk is taken earlier or later; none is nearer than the guard of the views.
SHIFTS = (-16, -12, -10, -8, -6, -4, 4, 6, 8, 10, 12, 16)
# An instruction that fewer training episodes have is not one that the heads know.
MIN_INSTRUCTION_EPISODES = 2


@dataclass(frozen=True)
class Scored:
    """
    The scores of each component, and of those among the samples that were scored again, the scores with its fault.

    Attributes:
        real: `(N,)`; NaN where none was taken.
        again: `(n,)` int64, the samples that were scored again.
        faulted: `(n,)`.
        shift: `(E,)` int64, which of `SHIFTS` explains each episode best; -1 where nothing says.
    """

    real: dict[str, Tensor]
    again: Tensor
    faulted: dict[str, Tensor]
    shift: Tensor


def folds_of(episode_index: np.ndarray, folds: int) -> Tensor:
    """Fold of each episode, `(E,)` int64 in `0 .. folds - 1`: by the rank of a hash of its id, so folds are equal."""
    hashes = [int.from_bytes(hashlib.blake2b(str(int(i)).encode(), digest_size=8).digest()) for i in episode_index]
    rank = np.argsort(np.argsort(np.array(hashes, dtype=np.uint64), kind="stable"), kind="stable")
    return torch.from_numpy(rank % folds)


def score_round(
    cut: Cut,
    fold: Tensor,
    weight: Tensor,
    instructions: int,
    steps: int,
    generator: torch.Generator,
    *,
    device: torch.device,
    parts: PartCache,
    name: str,
    advance: Callable[[int], None],
) -> tuple[Scored, str]:
    """
    Scores of all samples, real and with each component's fault, by heads that have not trained on their episodes.

    Args:
        cut: the samples.
        fold: `(E,)` int64.
        weight: `(E,)`, how often an episode is drawn, in training and for the pool of negatives.
        instructions: how many the dataset has.
        steps: of training.
        generator: of every draw.
        device: of the heads.
        parts: where each fold is kept as soon as it is finished, and found again.
        name: of the round, for them.
        advance: called with the steps and passes that are done.

    Returns:
        The scores, and a hash of the folds' heads.
    """
    real: dict[str, Tensor] = {}
    again, faulted = [], []
    shift = torch.full_like(cut.count, -1)
    digest = hashlib.sha256()
    for held_out in range(int(fold.max()) + 1):
        test = torch.nonzero((fold == held_out) & (cut.count > 0)).squeeze(1)
        train = torch.nonzero((fold != held_out) & (cut.count > 0)).squeeze(1)
        if min(len(train), len(test)) == 0:
            continue
        row = torch.nonzero(fold[cut.episode] == held_out).squeeze(1)
        done = f"{name}-fold-{held_out}"
        part = parts.load(done)
        if part is None:
            heads = train_heads(cut, train, weight[train], instructions, steps, generator, device, advance)
            part = score_fold(heads, cut, train, test, weight, row, instructions, generator, advance)
            part["heads"] = torch.cat([value.detach().cpu().flatten() for value in heads.state_dict().values()])
            parts.save(done, {**part, "generator": generator.get_state()})
        else:
            generator.set_state(part["generator"])
            advance(steps + len(row) // ROWS_A_PASS)
        again.append(row[::FAULT_STRIDE].contiguous())
        faulted.append(_under(part, "faulted."))
        for component, score in _under(part, "real.").items():
            real.setdefault(component, score.new_full((len(cut),), torch.nan))[row] = score
        shift = torch.where(fold == held_out, part["shift"], shift)
        digest.update(part["heads"].numpy().tobytes())
    return Scored(real, torch.cat(again), _below_each_other(faulted, again), shift), digest.hexdigest()


def score_fold(
    heads: IdentificationHeads,
    cut: Cut,
    train: Tensor,
    test: Tensor,
    weight: Tensor,
    row: Tensor,
    instructions: int,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """
    Scores of one fold by its heads: `real.COMPONENT` of every sample, `faulted.COMPONENT` of every `FAULT_STRIDE`-th,
    and `shift`, the shift that explains each of its episodes best, `(E,)` int64.

    Margins over all shifts are a dozen numbers a sample; what they say is taken here, fold by fold.

    Args:
        heads: fitted on the episodes `train`.
        cut: the samples.
        train, test: positions of episodes.
        weight: `(E,)`, how often an episode stands in the pool of negatives.
        row: `(n,)` int64, the fold's samples.
        instructions, generator, advance: as [`score_round`].
    """
    known = torch.bincount(cut.instructions(cut.first[train]), minlength=instructions) >= MIN_INSTRUCTION_EPISODES
    pool = cut.take(_draw(cut, test, weight[test], POOL_SIZE, generator))
    scores = score_rows(heads, cut, row, pool, known, generator, advance)
    scores[ACTION_SHIFT], shift = consistent_margin(scores[ACTION_SHIFT], cut.episode[row], len(cut.count))
    part = {"shift": shift, **{f"real.{component}": score for component, score in scores.items()}}
    again = row[::FAULT_STRIDE].contiguous()
    faults = make_faults(cut, test, known, generator)
    for component, fault in COMPONENTS.items():
        if component in heads.components and fault in faults:
            made = score_rows(heads, faults[fault], again, pool, known, generator, advance, [component])[component]
            if component == ACTION_SHIFT:
                made, _ = consistent_margin(made, cut.episode[again], len(cut.count))
            part[f"faulted.{component}"] = made
    return part


def train_heads(
    cut: Cut,
    episodes: Tensor,
    weight: Tensor,
    instructions: int,
    steps: int,
    generator: torch.Generator,
    device: torch.device,
    advance: Callable[[int], None],
) -> IdentificationHeads:
    """
    Heads fitted to episodes drawn in proportion to `weight`; half of a batch's times lie a shift from the others.

    Args:
        cut: the samples.
        episodes: positions of those to train on, each with a sample.
        weight: one for each of them.
        instructions, steps, generator, device, advance: as [`score_round`].
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        heads = IdentificationHeads(*cut.sizes, instructions).to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    drawn = min(BATCH_EPISODES, len(episodes))
    anchors = BATCH_EPISODES * BATCH_TIMES // drawn // 2
    for _ in range(steps):
        chosen = episodes[torch.multinomial(weight, drawn, generator=generator)]
        batch = cut.take(batch_of(cut, chosen, anchors, generator))
        with F.unchecked():
            loss = mean_losses(heads.losses(batch.to(device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(1)
    return heads.eval()


def batch_of(cut: Cut, episodes: Tensor, anchors: int, generator: torch.Generator) -> Tensor:
    """Of each episode some samples at any time, and as many a shift from those: `(2 * episodes * anchors,)`."""
    last = cut.count[episodes, None] - 1
    time = (torch.rand(len(episodes), anchors, generator=generator) * (last + 1)).long().clamp(max=last)
    shift = torch.tensor(SHIFTS)[torch.randint(len(SHIFTS), time.shape, generator=generator)]
    rows = torch.cat((time, (time + shift).clamp(min=0).minimum(last)), dim=1)
    return (cut.first[episodes, None] + rows).flatten()


def score_rows(
    heads: IdentificationHeads,
    cut: Cut,
    row: Tensor,
    pool: Transitions,
    known: Tensor,
    generator: torch.Generator,
    advance: Callable[[int], None],
    components: Sequence[str] = tuple(COMPONENTS),
) -> dict[str, Tensor]:
    """The scores of some samples `(n,)`, of data as they are or with a fault: `(n,)`, of `action/shift` `(n, S)`."""
    shifts = torch.tensor(SHIFTS)
    # Made before the first pass: what is kept of each pass would lie between the large tensors of the next ones, and
    # the process could give none of their memory back.
    found = {
        component: torch.empty(len(row), *shifts.shape[: component == ACTION_SHIFT])
        for component in heads.components
        if component in components
    }
    device = next(heads.parameters()).device
    pool, known = pool.to(device), known.to(device)
    for begin in range(0, len(row), ROWS_A_PASS):
        done = slice(begin, begin + ROWS_A_PASS)
        part = row[done]
        first = cut.first[cut.episode[part], None]
        moved = part[:, None] + shifts
        inside = (moved >= first) & (moved < first + cut.count[cut.episode[part], None])
        near = torch.where(inside, moved, part[:, None])
        with F.unchecked():
            scores = heads.scores(
                cut.take(part).to(device),
                pool,
                shifted=(cut.actions(rows).to(device) for rows in near.unbind(dim=1)),
                usable_shifts=inside.to(device),
                known=known,
                components=components,
            )
        for component, score in scores.items():
            found[component][done] = score.cpu()
        advance(1)
    return found


def passes_of(cut: Cut) -> int:
    """How many passes a round makes over the samples, at most; each takes about as long as a step of training."""
    again = len(COMPONENTS) / FAULT_STRIDE
    return int(len(cut) / ROWS_A_PASS * (1.0 + again)) + FOLDS * (1 + len(COMPONENTS))


def _draw(cut: Cut, episodes: Tensor, weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples of episodes drawn in proportion to `weight`, at any time of them: `(count,)`."""
    chosen = episodes[torch.multinomial(weight, count, replacement=True, generator=generator)]
    time = (torch.rand(count, generator=generator) * cut.count[chosen]).long()
    return cut.first[chosen] + time.minimum(cut.count[chosen] - 1)


def _under(part: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in part.items() if key.startswith(prefix)}


def _below_each_other(folds: Sequence[Mapping[str, Tensor]], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """The scores of all folds; NaN where a fold has none of a component."""
    names = dict.fromkeys(component for fold in folds for component in fold)
    return {
        name: torch.cat(
            [fold.get(name, torch.full((len(row),), torch.nan)) for fold, row in zip(folds, rows, strict=True)]
        )
        for name in names
    }
