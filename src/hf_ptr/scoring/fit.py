"""The calibrated score without a policy: light heads fitted on the dataset that they score, across folds of episodes.

No label of quality, no reward, no rollout. In each round every fold's episodes are scored by heads that have trained
on the other folds only; the first round's weights say how often an episode is drawn in the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hf_ptr import __version__
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.memmap import BLOCK_ROWS
from hf_ptr.data.score_file import score_file_keys
from hf_ptr.errors import InputError
from hf_ptr.scoring.action_noise import ACTION_NOISE, action_noise_scores
from hf_ptr.scoring.calibration import (
    GOOD_QUANTILE,
    SHRINKAGE,
    calibrated_weight,
    episode_mean,
    fit_scale,
    keep_sample_size,
    least,
)
from hf_ptr.scoring.config import ELEMENTS, FAILED, W_MAX, W_MIN
from hf_ptr.scoring.cross_fitting import FOLDS, SHIFTS, Scored, folds_of, passes_of, score_round
from hf_ptr.scoring.identification_heads import ACTION_SHIFT, element_of
from hf_ptr.scoring.image_features import picture_features
from hf_ptr.scoring.novelty import context_novelty, owed_to_novelty
from hf_ptr.scoring.transitions import Cut, cut_transitions
from hf_ptr.utils.progress import progress_bar
from hf_ptr.utils.safetensors_io import PartCache

MIN_EPISODES = 4
ROUNDS = 2
# More make the heads learn the faults of the data they train on, and of small datasets every episode by heart.
STEPS = 120
# How well aligned an episode is says nothing beyond that it is: margins differ between tasks. Above one half the
# distance counts this many times, up to 1.
ALIGNED_GAIN = 1.5


def fit_scores(
    chunks: ChunkDataset,
    *,
    w_min: float = W_MIN,
    w_max: float = W_MAX,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    keep: Path | None = None,
    progress: bool = True,
) -> FittedScores:
    """
    Calibrated score and weight of every chunk of a dataset, from the dataset alone.

    Args:
        chunks: of the episodes; what they are made of is what is read, pictures as `picture_features` has them.
        w_min, w_max: bounds of the weight.
        rounds: how often all is fitted, each time with the weights of the time before.
        steps: training steps for each fold and round.
        seed: the same seed gives the same scores, on the same device.
        device: where the heads are fitted. All draws are the processor's, so that devices differ by rounding alone.
        keep: a folder for what is finished, fold by fold: a fit that was killed goes on there. Whoever has written
            the scores removes it.
        progress: show a bar.

    Returns:
        What has been found, a row a frame in its `frame()`.

    Raises:
        InputError: too few episodes that are longer than the chunks' `target_offset`.
    """
    for name, value in {"rounds": rounds, "steps": steps}.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    require_fittable(chunks)
    settings = {"bounds": [w_min, w_max], "rounds": rounds, "steps": steps, "seed": seed, "device": str(device)}
    parts = PartCache(keep, {} if keep is None else _made_of(chunks, settings))
    cut = cut_transitions(chunks, _pictures(chunks, parts, progress) if chunks.cameras else None)
    usable = torch.nonzero(cut.count > 0).squeeze(1)
    folds = min(FOLDS, len(usable) // 2)
    table = chunks.table
    # Of the episodes that can be scored, each fold has its share, however many others there are.
    fold = torch.zeros(table.num_episodes, dtype=torch.int64)
    fold[usable] = folds_of(table.episode_index[usable.numpy()], folds)
    generator = torch.Generator().manual_seed(seed)
    novelty = context_novelty(cut, fold, generator)
    task_of = tasks_of(cut)
    trembling = action_noise_scores(cut, task_of, generator)
    weight = torch.ones(table.num_episodes)
    with progress_bar(progress) as bar:
        task = bar.add_task("fitting scores", total=rounds * (folds * steps + passes_of(cut)))

        for number in range(rounds):
            scored, digest = score_round(
                cut,
                fold,
                weight,
                len(table.tasks),
                steps,
                generator,
                device=torch.device(device),
                parts=parts,
                name=f"round-{number}",
                advance=lambda done: bar.advance(task, done),
            )
            distances = {**distances_of(cut, scored, novelty, task_of), **trembling}
            shift = torch.where(scored.shift < 0, 0, torch.tensor(SHIFTS)[scored.shift])
            del scored
            if number + 1 < rounds:
                z = reduce(torch.minimum, distances.values())
                # Tremor is not forgiven here: heads learn best from what is right in every respect.
                chunk_weight = keep_sample_size(calibrated_weight(z, w_min=w_min, w_max=w_max))
                weight = episode_mean(chunk_weight, cut.episode, table.num_episodes).nan_to_num(0.0)
                # Nothing of a round is held in the next but how often an episode is drawn.
                del z, chunk_weight, distances
        bar.update(task, completed=bar.tasks[task].total)
    return FittedScores(table, cut, distances, shift, digest[:16], w_min, w_max)


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


def _made_of(chunks: ChunkDataset, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the parts of a fit depend on: data, code and settings."""
    names = ("chunk_size", "target_offset", "observation_features", "state_feature", "action_feature")
    return {
        "data": data_digest(chunks.table),
        "chunks": {name: getattr(chunks, name) for name in names},
        "versions": {"hf_ptr": __version__, "torch": torch.__version__},
        "code": code_digest(Path(__file__).parent),
        **settings,
    }


def code_digest(folder: Path) -> str:
    """A hash of a package's source: who changes the scoring has no other version yet, and needs no old parts."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _pictures(chunks: ChunkDataset, parts: PartCache, progress: bool) -> Tensor:
    """The features of the pictures; those that were read before, where a fit goes on."""
    part = parts.load("pictures")
    if part is None:
        part = {"features": picture_features(chunks, progress)}
        parts.save("pictures", part)
    return part["features"]


def tasks_of(cut: Cut) -> Tensor:
    """Each episode's task, that of its first sample, `(E,)` int64; 0 where it has none."""
    task = torch.zeros(len(cut.count), dtype=torch.int64)
    task[cut.count > 0] = cut.instructions(cut.first[cut.count > 0])
    return task


def distances_of(cut: Cut, scored: Scored, novelty: Tensor, task: Tensor) -> dict[str, Tensor]:
    """
    The distance `z` of every sample on every component, `(N,)`; one without a fault to compare with is left out.

    Args:
        cut: the samples.
        scored: as [`score_round`] gives it.
        novelty: `(E,)`, what a low score may be owed to; of an episode, beside its task's.
        task: `(E,)` int64.
    """
    episode, total = cut.episode, len(cut.count)
    again = episode[scored.again]
    usual = torch.stack([novelty[(task == one) & (cut.count > 0)].median() for one in range(int(task.max()) + 1)])
    novelty = novelty - usual[task]
    distances = {}
    for component, score in scored.real.items():
        if component not in scored.faulted:
            continue
        made = scored.faulted[component]
        # The margin over a shift is a likelihood ratio, of one meaning in every task; other scores depend on the task.
        group, groups = task, int(task.max()) + 1
        if component == ACTION_SHIFT:
            group, groups = torch.zeros_like(task), 1
        mean = episode_mean(score, episode, total, SHRINKAGE)
        score = score + owed_to_novelty(mean, novelty, GOOD_QUANTILE)[episode]
        good, bad = episode_mean(score, episode, total, SHRINKAGE), episode_mean(made, again, total, SHRINKAGE)
        distances[component] = fit_scale(good, bad, group, groups).distance(score, episode, group)
        if component == ACTION_SHIFT:
            z = distances[component]
            distances[component] = torch.where(z > FAILED, FAILED + ALIGNED_GAIN * (z - FAILED), z).clamp(max=1.0)
    return distances


class FittedScores:
    """
    Score and weight of every chunk of a dataset, and why.

    Args:
        table: E episodes of F frames.
        cut: their N samples.
        distances: of every component, `(N,)`.
        shift: `(E,)` int64, the frames by which each episode's actions would have to be late; 0 where nothing says.
        scorer: the name of the heads in the file.
        w_min, w_max: bounds of the weight.
    """

    def __init__(
        self,
        table: EpisodeTable,
        cut: Cut,
        distances: dict[str, Tensor],
        shift: Tensor,
        scorer: str,
        w_min: float,
        w_max: float,
    ):
        self._table, self._cut, self._distances, self._shift, self._scorer = table, cut, distances, shift, scorer
        self._components = {view: [name for name in distances if element_of(name) == view] for view in ELEMENTS}
        self._usual = {view: self._usual_of(own) for view, own in self._components.items() if own}
        sampled = self._rows_of(slice(None))
        self._score = self._of_all_frames(list(distances), sampled)
        weight = calibrated_weight(self._score, w_min=w_min, w_max=w_max)
        milder = calibrated_weight(self._forgiving_tremor(sampled), w_min=w_min, w_max=w_max)
        told = (cut.count > 0).repeat_interleave(torch.from_numpy(table.lengths))
        kept = keep_sample_size(weight[told], milder[told])
        # The others have the average, which makes the samples worth no less.
        self._weight = torch.full_like(weight, float(kept.mean())).masked_scatter_(told, kept)

    def frame(self) -> pd.DataFrame:
        """
        One row a frame, in the order of the dataset: the columns of a score file, and more.

        `score` is the distance `z` of `hf_ptr.scoring.calibration` (0 as a faulty sample, 1 as a good one), `score_*`
        the same of each view (NaN for one that was left out), `failed_element` the view that lowers the weight, or "",
        `failed_check` the part of it, and `estimated_lag` by how many frames its actions would have to be late
        (early, negative) to explain a failed `action/shift`, 0 where nothing says. Frames without a valid `o_{t+Δ}`
        have `valid` False and their episode's evidence; those of an episode without any have the average.
        """
        return pd.concat(self.blocks(), ignore_index=True)

    def blocks(self) -> Iterator[pd.DataFrame]:
        """The same in parts of whole episodes, some ten thousand rows or one episode each."""
        first, starts = 0, self._table.starts
        while first < len(starts):
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK_ROWS)))
            yield self._block(slice(first, last))
            first = last

    def _block(self, episodes: slice) -> pd.DataFrame:
        keys = score_file_keys(self._table, episodes)
        begin = int(self._table.starts[episodes.start])
        rows = slice(begin, begin + len(keys["index"]))
        sampled = self._rows_of(episodes)
        nothing = torch.full((len(keys["index"]),), torch.nan)
        views = {
            view: self._everywhere(own, self._usual[view], episodes, sampled) if own else nothing
            for view, own in self._components.items()
        }
        valid = torch.zeros(len(nothing), dtype=torch.bool).index_fill_(0, sampled, True)
        failing = _failing({name: distance[self._samples_of(episodes)] for name, distance in self._distances.items()})
        component = torch.full((len(nothing),), -1, dtype=torch.int8).index_copy_(0, sampled, failing)
        lengths = torch.from_numpy(self._table.lengths[episodes])
        columns = {
            **keys,
            "score": self._score[rows].numpy(),
            "weight": self._weight[rows].numpy(),
            "valid": valid.numpy(),
            "scorer": self._scorer,
            **{f"score_{view}": values.numpy() for view, values in views.items()},
            "failed_element": _named(ELEMENTS, _failing(views)),
            "failed_check": _named(tuple(self._distances), component),
            "estimated_lag": self._shift[episodes].repeat_interleave(lengths).numpy(),
        }
        return pd.DataFrame(columns)

    def _samples_of(self, episodes: slice) -> slice:
        """The samples of some episodes, which are adjacent."""
        first, count = self._cut.first[episodes], self._cut.count[episodes]
        return slice(int(first[0]), int(first[-1] + count[-1]))

    def _rows_of(self, episodes: slice) -> Tensor:
        """The place of each of their samples among their frames."""
        samples = self._samples_of(episodes)
        frames = self._cut.frames(torch.arange(samples.start, samples.stop))
        return frames.sub_(int(self._cut.begin[episodes][0]))

    def _forgiving_tremor(self, sampled: Tensor) -> Tensor:
        """The score of who half forgives a tremor: of the faults it alone lies about the right action."""
        others = [name for name in self._distances if name != ACTION_NOISE]
        if not others:
            return self._score
        return torch.maximum(self._score, self._of_all_frames(others, sampled).clamp(max=FAILED))

    def _least(self, components: Sequence[str], samples: slice) -> Tensor:
        return reduce(torch.minimum, (self._distances[name][samples] for name in components))

    def _usual_of(self, components: Sequence[str]) -> Tensor:
        """What stands for the frames of each episode that have none of their own: its mean, or the mean of all."""
        values = self._least(components, slice(None))
        mean = episode_mean(values, self._cut.episode, len(self._cut.count))
        return torch.where(mean.isnan(), values.mean(), mean)

    def _of_all_frames(self, components: Sequence[str], sampled: Tensor) -> Tensor:
        """The least of the components, of every frame there is."""
        return self._everywhere(components, self._usual_of(components), slice(None), sampled)

    def _everywhere(self, components: Sequence[str], usual: Tensor, episodes: slice, sampled: Tensor) -> Tensor:
        """The least of the components, of every frame of some episodes; `sampled` are the rows that have their own."""
        frames = usual[episodes].repeat_interleave(torch.from_numpy(self._table.lengths[episodes]))
        return frames.index_copy_(0, sampled, self._least(components, self._samples_of(episodes)))


def _failing(distances: Mapping[str, Tensor]) -> Tensor:
    """Which of the distances is least, where that has failed, and -1 elsewhere; NaN is no evidence. Int8."""
    z, whose = least({name: values.nan_to_num(torch.inf) for name, values in distances.items()})
    return torch.where(z < FAILED, whose, -1).to(torch.int8)


def _named(names: Sequence[str], which: Tensor) -> np.ndarray:
    """The name of each number, "" of -1; objects, since numpy's own texts take as much as the longest in every row."""
    return np.array([*names, ""], dtype=object)[which.numpy()]
