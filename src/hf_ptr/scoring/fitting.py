"""The calibrated score without a policy: light heads fitted on the dataset that they score, across folds of episodes.

No label of quality, no reward, no rollout. In each round every fold's episodes are scored by heads that have trained
on the other folds only; the first round's weights say how often an episode is drawn in the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor

from hf_ptr import functional as F
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import normalization
from hf_ptr.data.weights import score_file_keys
from hf_ptr.errors import InputError
from hf_ptr.scoring.calibration import (
    FAILED,
    GOOD_QUANTILE,
    MARGIN_LIMIT,
    SHRINKAGE,
    W_MAX,
    W_MIN,
    calibrated_weight,
    consistent_margin,
    episode_mean,
    explaining_shift,
    fit_scale,
    keep_sample_size,
    least,
)
from hf_ptr.scoring.novelty import context_novelty, owed_to_novelty
from hf_ptr.scoring.picture_features import picture_features
from hf_ptr.scoring.views import (
    COMPONENTS,
    LIMIT,
    VIEWS,
    Cut,
    Transitions,
    TransitionViews,
    make_faults,
    mean_losses,
    view_of,
    with_noise,
)

# Of few episodes, heads should see most; each fold has two episodes or more.
FOLDS = 5
MIN_EPISODES = 4
ROUNDS = 2
# More make the heads learn the faults of the data they train on, and of small datasets every episode by heart.
STEPS = 120
BATCH_EPISODES = 64
BATCH_TIMES = 4
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
POOL_SIZE = 512
# Frames by which an action chunk is taken earlier or later; none is nearer than the guard of the views.
SHIFTS = (-16, -12, -10, -8, -6, -4, 4, 6, 8, 10, 12, 16)
# How well aligned an episode is says nothing beyond that it is: margins differ between tasks. Above one half the
# distance counts this many times, up to 1.
ALIGNED_GAIN = 1.5
NOISY_NEGATIVES = 8
# Every how many frames a chunk is scored again with its fault.
FAULT_STRIDE = 4
# An instruction that fewer training episodes have is not one that the heads know.
MIN_INSTRUCTION_EPISODES = 2
ROWS_A_PASS = 2048


def fit_scores(
    chunks: ChunkDataset,
    *,
    w_min: float = W_MIN,
    w_max: float = W_MAX,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """
    Calibrated score and weight of every chunk of a dataset, from the dataset alone.

    Args:
        chunks: of the episodes; what they are made of is what is read, pictures as `picture_features` has them.
        w_min, w_max: bounds of the weight.
        rounds: how often all is fitted, each time with the weights of the time before.
        steps: training steps for each fold and round.
        seed: the same seed gives the same scores.
        progress: show a bar.

    Returns:
        One row a frame, in the order of the dataset: the columns of a score file, and more. `score` is the distance
        `z` of `hf_ptr.scoring.calibration` (0 as a faulty sample, 1 as a good one), `view_*` the same of each view
        (NaN for one that was left out), `failed_view` the view that lowers the weight, or "", `failed_component` the
        part of it, and `explaining_shift` by how many frames its actions would have to be late (early, negative) to
        explain a failed `action/shift`. Frames without a valid
        `o_{t+Δ}` have `valid` False and their episode's evidence; those of an episode without any have the average.

    Raises:
        InputError: too few episodes that are longer than the chunks' `target_offset`.
    """
    for name, value in {"rounds": rounds, "steps": steps}.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    require_fittable(chunks)
    table, cut = chunks.table, cut_transitions(chunks, progress)
    usable = torch.nonzero(cut.count > 0).squeeze(1)
    folds = min(FOLDS, len(usable) // 2)
    # Of the episodes that can be scored, each fold has its share, however many others there are.
    fold = torch.zeros(table.num_episodes, dtype=torch.int64)
    fold[usable] = folds_of(table.episode_index[usable.numpy()], folds)
    generator = torch.Generator().manual_seed(seed)
    novelty = context_novelty(cut, fold, generator)
    weight = torch.ones(table.num_episodes)
    digest = hashlib.sha256()
    with Progress(disable=not progress) as bar:
        task = bar.add_task("fitting", total=rounds * folds * steps)
        for _ in range(rounds):
            real, faulted, heads = score_round(
                cut, fold, weight, len(table.tasks), steps, generator, lambda: bar.advance(task)
            )
            distances = distances_of(cut, real, faulted, novelty)
            z, _ = least(distances)
            chunk_weight = keep_sample_size(calibrated_weight(z, w_min=w_min, w_max=w_max))
            weight = episode_mean(chunk_weight, cut.samples.episode, table.num_episodes).nan_to_num(0.0)
    for head in heads:
        for parameter in head.state_dict().values():
            digest.update(parameter.numpy().tobytes())
    margins = real["action/shift"].clamp(-MARGIN_LIMIT, MARGIN_LIMIT)
    _, shift = explaining_shift(margins, cut.samples.episode, table.num_episodes)
    return _frame(table, cut, distances, torch.tensor(SHIFTS)[shift], digest.hexdigest()[:16], w_min, w_max)


def require_fittable(chunks: ChunkDataset) -> None:
    """Check that there is enough to fit scores on.

    Raises:
        InputError: too few episodes that are longer than the chunks' `target_offset`.
    """
    usable = int((chunks.table.lengths > chunks.target_offset).sum())
    if usable < MIN_EPISODES:
        raise InputError(
            f"{chunks.table.source!r} has {usable} episodes longer than target_offset {chunks.target_offset}; fitting "
            f"scores needs at least {MIN_EPISODES}, so record more or lower target_offset"
        )


def cut_transitions(chunks: ChunkDataset, progress: bool = False) -> Cut:
    """The transitions of the chunks, every dimension in its standard deviations; pictures as their features."""
    table = chunks.table
    left = np.repeat(table.starts + table.lengths, table.lengths) - np.arange(table.num_frames)
    row = torch.from_numpy(np.flatnonzero(left > chunks.target_offset))
    batch = chunks.without_observations(row) if chunks.cameras else chunks.__getitems__(row.tolist())

    def scaled(values: Tensor, names: Sequence[str]) -> Tensor:
        scale = normalization(table, names)
        return ((values - torch.from_numpy(scale["mean"])) / torch.from_numpy(scale["std"])).clamp(-LIMIT, LIMIT)

    if chunks.cameras:
        # What followed is seen by the cameras and felt by the joints.
        felt = scaled(chunks.state, [chunks.state_feature])
        seen = torch.cat((picture_features(chunks, progress), felt), dim=1)
        observation, consequence = seen[row], seen[row + chunks.target_offset]
    else:
        observation = scaled(batch["observation"], chunks.observation_features)
        consequence = scaled(batch["next_observation"], chunks.observation_features)
    action = scaled(batch["actions"], [chunks.action_feature]) * batch["action_mask"][..., None]
    change = consequence - observation
    deviation = change.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-4, deviation, 1.0)
    context = observation
    if not chunks.cameras and chunks.state_feature not in chunks.observation_features:
        context = torch.cat((observation, scaled(batch["state"], [chunks.state_feature])), dim=1)
    episode = torch.from_numpy(table.episode_of_row)[row]
    count = torch.bincount(episode, minlength=table.num_episodes)
    samples = Transitions(
        context=context,
        action=action.flatten(1),
        consequence=consequence,
        change=(change / scale).clamp(-LIMIT, LIMIT),
        instruction=batch["task_index"],
        episode=episode,
        time=torch.from_numpy(table.frame_index)[row],
    )
    return Cut(samples, count.cumsum(0) - count, count, row, scale)


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
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[TransitionViews]]:
    """
    Scores of all samples, real and with each component's fault, by heads that have not trained on their episodes.

    Args:
        cut: the samples.
        fold: `(E,)` int64.
        weight: `(E,)`, how often an episode is drawn, in training and for the pool of negatives.
        instructions: how many the dataset has.
        steps: of training.
        generator: of every draw.
        advance: called after each step.

    Returns:
        The scores of each component, real and faulted, NaN where none was taken; and the folds' heads.
    """
    real: dict[str, Tensor] = {}
    faulted: dict[str, Tensor] = {}
    trained = []
    for held_out in range(int(fold.max()) + 1):
        train = torch.nonzero((fold != held_out) & (cut.count > 0)).squeeze(1)
        test = torch.nonzero((fold == held_out) & (cut.count > 0)).squeeze(1)
        if min(len(train), len(test)) == 0:
            continue
        heads = train_heads(cut, train, weight[train], instructions, steps, generator, advance)
        trained.append(heads)
        known = torch.bincount(cut.samples.instruction[cut.first[train]], minlength=instructions)
        known = known >= MIN_INSTRUCTION_EPISODES
        row = torch.nonzero(fold[cut.samples.episode] == held_out).squeeze(1)
        pool = cut.samples.take(_draw(cut, test, weight[test], POOL_SIZE, generator))
        for component, score in score_rows(heads, cut, cut.samples, row, pool, known, generator).items():
            real.setdefault(component, score.new_full((len(cut.row), *score.shape[1:]), torch.nan))[row] = score
        faults = make_faults(cut, test, known, generator)
        some = row[::FAULT_STRIDE]
        for component, fault in COMPONENTS.items():
            if component not in heads.components or fault not in faults:
                continue
            score = score_rows(heads, cut, faults[fault], some, pool, known, generator, [component])[component]
            faulted.setdefault(component, score.new_full((len(cut.row), *score.shape[1:]), torch.nan))[some] = score
    return real, faulted, trained


def train_heads(
    cut: Cut,
    episodes: Tensor,
    weight: Tensor,
    instructions: int,
    steps: int,
    generator: torch.Generator,
    advance: Callable[[], None] = lambda: None,
) -> TransitionViews:
    """
    Heads fitted to episodes drawn in proportion to `weight`; half of a batch's times lie a shift from the others.

    Args:
        cut: the samples.
        episodes: positions of those to train on, each with a sample.
        weight: one for each of them.
        instructions, steps, generator, advance: as [`score_round`].
    """
    samples = cut.samples
    sizes = (samples.context.shape[1], samples.action.shape[1], samples.consequence.shape[1])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        heads = TransitionViews(*sizes, instructions)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    drawn = min(BATCH_EPISODES, len(episodes))
    anchors = BATCH_EPISODES * BATCH_TIMES // drawn // 2
    shifts = torch.tensor(SHIFTS)
    for _ in range(steps):
        chosen = episodes[torch.multinomial(weight, drawn, generator=generator)]
        last = cut.count[chosen, None] - 1
        time = (torch.rand(drawn, anchors, generator=generator) * (last + 1)).long().clamp(max=last)
        near = time + shifts[torch.randint(len(shifts), time.shape, generator=generator)]
        rows = cut.first[chosen, None] + torch.cat((time, near.clamp(min=0).minimum(last)), dim=1)
        batch = samples.take(rows.flatten())
        with F.unchecked():
            loss = mean_losses(heads.losses(batch, with_noise(batch.action, generator)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance()
    return heads.eval()


def score_rows(
    heads: TransitionViews,
    cut: Cut,
    samples: Transitions,
    row: Tensor,
    pool: Transitions,
    known: Tensor,
    generator: torch.Generator,
    components: Sequence[str] = tuple(COMPONENTS),
) -> dict[str, Tensor]:
    """The components' scores of some rows of `samples`: those of `cut`, or the same with a fault."""
    found: dict[str, list[Tensor]] = {}
    shifts = torch.tensor(SHIFTS)
    for part in row.split(ROWS_A_PASS):
        first = cut.first[cut.samples.episode[part], None]
        moved = part[:, None] + shifts
        inside = (moved >= first) & (moved < first + cut.count[cut.samples.episode[part], None])
        mine = samples.take(part)
        with F.unchecked():
            scores = heads.scores(
                mine,
                pool,
                shifted=samples.action[torch.where(inside, moved, part[:, None])],
                usable_shifts=inside,
                noisy=with_noise(mine.action[:, None].expand(-1, NOISY_NEGATIVES, -1), generator),
                known=known,
                components=components,
            )
        for component, score in scores.items():
            found.setdefault(component, []).append(score)
    return {component: torch.cat(parts) for component, parts in found.items()}


def distances_of(cut: Cut, real: dict[str, Tensor], faulted: dict[str, Tensor], novelty: Tensor) -> dict[str, Tensor]:
    """
    The distance `z` of every sample on every component, `(N,)`; one without a fault to compare with is left out.

    Args:
        cut: the samples.
        real, faulted: the scores of each component, as [`score_round`] gives them.
        novelty: `(E,)`, what a low score may be owed to; of an episode, beside its task's.
    """
    episode, total = cut.samples.episode, len(cut.count)
    task = torch.zeros(total, dtype=torch.int64)
    task[cut.count > 0] = cut.samples.instruction[cut.first[cut.count > 0]]
    usual = torch.stack([novelty[(task == one) & (cut.count > 0)].median() for one in range(int(task.max()) + 1)])
    novelty = novelty - usual[task]
    distances = {}
    for component, score in real.items():
        if component not in faulted:
            continue
        made = faulted[component]
        # The margin over a shift is a likelihood ratio, of one meaning in every task; other scores depend on the task.
        group, groups = task, int(task.max()) + 1
        if component == "action/shift":
            score, made = (consistent_margin(margins, episode, total) for margins in (score, made))
            group, groups = torch.zeros_like(task), 1
        mean = episode_mean(score, episode, total, SHRINKAGE)
        score = score + owed_to_novelty(mean, novelty, GOOD_QUANTILE)[episode]
        good, bad = (episode_mean(values, episode, total, SHRINKAGE) for values in (score, made))
        distances[component] = fit_scale(good, bad, group, groups).distance(score, episode, group)
        if component == "action/shift":
            z = distances[component]
            distances[component] = torch.where(z > FAILED, FAILED + ALIGNED_GAIN * (z - FAILED), z).clamp(max=1.0)
    return distances


def _draw(cut: Cut, episodes: Tensor, weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples of episodes drawn in proportion to `weight`, at any time of them: `(count,)`."""
    chosen = episodes[torch.multinomial(weight, count, replacement=True, generator=generator)]
    time = (torch.rand(count, generator=generator) * cut.count[chosen]).long()
    return cut.first[chosen] + time.minimum(cut.count[chosen] - 1)


def _frame(
    table: EpisodeTable,
    cut: Cut,
    distances: dict[str, Tensor],
    shift: Tensor,
    scorer: str,
    w_min: float,
    w_max: float,
) -> pd.DataFrame:
    episode_of_row = torch.from_numpy(table.episode_of_row)

    def everywhere(values: Tensor) -> Tensor:
        """Values of samples as those of frames: a frame without takes its episode's mean, or else the mean of all."""
        mean = episode_mean(values, cut.samples.episode, table.num_episodes)
        frames = torch.where(mean.isnan(), values.mean(), mean)[episode_of_row]
        return frames.index_copy(0, cut.row, values)

    z, whose = least(distances)
    score = everywhere(z)
    weight = keep_sample_size(calibrated_weight(score, w_min=w_min, w_max=w_max))
    bare = (cut.count == 0)[episode_of_row]
    weight = torch.where(bare, weight[~bare].mean(), weight)
    views = {}
    for view in VIEWS:
        own = {component: z for component, z in distances.items() if view_of(component) == view}
        views[view] = everywhere(least(own)[0]) if own else torch.full_like(score, torch.nan)
    stacked = torch.stack([views[view] for view in VIEWS]).nan_to_num(torch.inf)
    lowest = stacked.min(dim=0)
    components = np.full(table.num_frames, "", dtype=object)
    components[cut.row.numpy()] = np.where(z < FAILED, np.array(list(distances))[whose], "")
    valid = torch.zeros(table.num_frames, dtype=torch.bool)
    valid[cut.row] = True
    return pd.DataFrame(
        {
            **score_file_keys(table),
            "score": score.numpy(),
            "weight": weight.numpy(),
            "valid": valid.numpy(),
            "scorer": scorer,
            **{f"view_{view}": values.numpy() for view, values in views.items()},
            "failed_view": np.where(lowest.values < FAILED, np.array(VIEWS)[lowest.indices], ""),
            "failed_component": components,
            "explaining_shift": shift[episode_of_row].numpy(),
        }
    )
