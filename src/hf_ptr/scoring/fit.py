"""Fitting the label-free score: small heads fitted on the dataset that they score, across folds of episodes.

The fit needs no quality label, reward, rollout or policy. Of a large dataset, heads are fitted to a sample of the
episodes and score all. In each round the episodes of every fold are scored by heads
that have trained on the other folds only; the weights of one round set how often an episode is drawn in the next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import hf_ptr
from hf_ptr._version import __version__
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episode_groups import episode_groups
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.errors import InputError
from hf_ptr.scoring.action_noise import ActionNoise
from hf_ptr.scoring.calibration import calibrated_weight, episode_mean, fit_scale, keep_sample_size
from hf_ptr.scoring.config import ACTION_NOISE, ACTION_SHIFT, ScoreConfig
from hf_ptr.scoring.cross_fitting import FoldContext, RoundScores, assign_folds, passes_per_round, score_round
from hf_ptr.scoring.fitted_scores import FittedScores
from hf_ptr.scoring.image_features import image_features
from hf_ptr.scoring.novelty import context_novelty, novelty_correction, searched_contexts
from hf_ptr.scoring.other_episodes import OtherEpisodes
from hf_ptr.scoring.transitions import ROWS_PER_PASS, LazyTransitions, Segments, lazy_transitions
from hf_ptr.utils.code_digest import code_digest
from hf_ptr.utils.progress import progress_bar
from hf_ptr.utils.safetensors_io import PartCache
from hf_ptr.utils.shared_work import ALONE, Share

if TYPE_CHECKING:
    from hf_ptr.scoring.frame_encoder import FrameEncoder


def fit_scores(
    chunks: ChunkDataset,
    config: ScoreConfig = ScoreConfig(),
    *,
    device: str | torch.device | None = None,
    keep: Path | None = None,
    progress: bool = True,
    share: Share = ALONE,
) -> FittedScores:
    """
    Calibrated score and weight of every chunk of a dataset, from the dataset alone.

    Heads are fitted to at most about `MOST_EPISODES` episodes (`hf_ptr.data.episode_groups`), a sample by task.

    Example:
        ```python
        from hf_ptr import ChunkDataset, ScoreConfig, fit_scores, load_dataset

        chunks = ChunkDataset(load_dataset("data/g1_bottle"))
        scores = fit_scores(chunks, ScoreConfig(seed=1)).frame()
        ```

    Args:
        chunks: chunks of the episodes. Camera observations are scored by their `image_features`.
        config: all constants, including the seed; its frames are converted to the frame rate of the data.
        device: device of the heads and of `vision_model`. All draws are made on the CPU, so that devices differ by
            rounding alone. None for heads on the CPU and the vision model on the best device there is.
        keep: a folder for finished folds, from which the same fit resumes after an interruption. The caller removes
            it once the scores are written.
        progress: show a bar.
        share: the share of this process, if several with the same `keep` divide the episodes outside of the sample.

    Returns:
        The scores; their `frame()` has one row per frame.

    Raises:
        InputError: fewer than `min_episodes` episodes are longer than the chunks' `target_offset`, or `vision_model`
            is not a vision model or has no camera to encode.
    """
    require_fittable(chunks, config)
    encoder = frame_encoder(chunks, config, device)
    config = config.at_rate(chunks.table.fps)
    device = device or "cpu"
    parts = PartCache(keep, {} if keep is None else _cache_key(chunks, config, device, encoder))
    if not share.is_main:
        # The main process fits; the others read its parts.
        share.wait()
    transitions = lazy_transitions(chunks, config, _image_features(chunks, config, parts, encoder, progress))
    table, episodes = chunks.table, chunks.table.num_episodes
    sample = _sample(table, config)
    rows = torch.nonzero(sample[transitions.episode]).squeeze(1)
    fold, folds = _folds(transitions, table.episode_index, config)
    generator = torch.Generator().manual_seed(config.seed)
    searched = searched_contexts(transitions, rows, fold, config, generator)
    novelty = context_novelty(transitions, rows, fold, searched, config).masked_fill(~sample, torch.nan)
    task = tasks_of(transitions)
    noise = ActionNoise(transitions, rows, config, generator) if ACTION_NOISE in config.checks else None
    weight = torch.ones(episodes)

    def calibrated(scored: RoundScores, others: Tensor | None = None) -> dict[str, Tensor]:
        scores = calibrated_scores(transitions, scored, novelty, task, config)
        scores |= {} if noise is None else noise.calibrated(others)
        if not scores:
            raise InputError(
                f"none of the checks {', '.join(config.checks)} applies to {table.source!r}; the instruction "
                "needs two tasks, action noise chunks of three actions or more"
            )
        return scores

    steps = config.training_steps(len(rows) * (folds - 1) // folds)
    with progress_bar(progress) as bar:
        total = config.rounds * (folds * steps + passes_per_round(len(rows), config))
        total += (len(transitions) - len(rows)) // ROWS_PER_PASS // share.size
        bar_task = bar.add_task(f"fitting scores ({steps} steps per fold)", total=total)
        context = FoldContext(
            transitions,
            config,
            steps,
            len(table.tasks),
            generator,
            torch.device(device),
            lambda done: bar.advance(bar_task, done),
        )
        for number in range(config.rounds):
            scored, fitted = score_round(context, rows, fold, weight, parts=parts, name=f"round-{number}")
            if number + 1 == config.rounds:
                break
            scores = calibrated(scored)
            z = reduce(torch.minimum, scores.values())[rows]
            # Action noise is not excused here: heads learn best from episodes that are right in every respect.
            chunk_weight = keep_sample_size(calibrated_weight(z, config), min_share=config.min_sample_size)
            weight = episode_mean(chunk_weight, transitions.episode[rows], episodes).nan_to_num(0.0)
            # The next round needs only the weights of the episodes.
            del scores, z, chunk_weight
        if share.is_main:
            share.wait()
        others = None
        if not sample.all():
            others = OtherEpisodes(context, sample, fold, fitted, searched, noise).score(scored, novelty, parts, share)
        scores = calibrated(scored, others)
        lag = torch.where(scored.shift < 0, 0, torch.tensor(config.shifts)[scored.shift])
        bar.update(bar_task, completed=bar.tasks[bar_task].total)
    heads = hashlib.sha256(b"".join(one.heads.numpy().tobytes() for one in fitted.values())).hexdigest()
    return FittedScores(table, transitions, scores, lag, _scorer_id(heads, config), config, int(sample.sum()))


def require_fittable(chunks: ChunkDataset, config: ScoreConfig = ScoreConfig()) -> None:
    """Check that there are enough episodes to fit scores on.

    Raises:
        InputError: fewer than `min_episodes` are longer than the chunks' `target_offset`.
    """
    table, offset = chunks.table, chunks.target_offset
    usable = int((Segments.of_table(table, offset).count_by_episode(table.num_episodes) > 0).sum())
    if usable < config.min_episodes:
        raise InputError(
            f"{table.source!r} has {usable} episodes longer than target_offset {offset}; fitting "
            f"scores needs at least {config.min_episodes}, so record more or lower target_offset"
        )


def frame_encoder(
    chunks: ChunkDataset, config: ScoreConfig, device: str | torch.device | None = None
) -> FrameEncoder | None:
    """
    The `vision_model` of the settings, loaded; None if there is none.

    Args:
        chunks: chunks of the episodes.
        config: settings of the score.
        device: device of the model; None for the best there is.

    Raises:
        InputError: no camera is observed, or as for [`FrameEncoder`][hf_ptr.scoring.frame_encoder.FrameEncoder].
    """
    if config.vision_model is None:
        return None
    if not chunks.cameras:
        cameras = ", ".join(chunks.table.videos)
        fix = f"observe {cameras} (--observation)" if cameras else "the dataset has none, so leave vision_model out"
        raise InputError(f"vision_model is {config.vision_model}, but no camera is observed; {fix}")
    # Scores of vectors need not wait for transformers.
    from hf_ptr.scoring.frame_encoder import FrameEncoder

    return FrameEncoder(config.vision_model, config.image_side, device)


def _cache_key(
    chunks: ChunkDataset, config: ScoreConfig, device: str | torch.device, encoder: FrameEncoder | None = None
) -> dict[str, Any]:
    """All inputs of a finished fold: data, code and settings."""
    names = ("chunk_size", "target_offset", "observation_features", "state_feature", "action_feature")
    return {
        "data": data_digest(chunks.table),
        "chunks": {name: getattr(chunks, name) for name in names},
        "versions": {"hf_ptr": __version__, "torch": torch.__version__},
        "images": image_stamps(chunks.table, chunks.cameras),
        "code": code_digest(Path(hf_ptr.__path__[0])),
        "config": dataclasses.asdict(config),
        "device": str(device),
        "encoder": None if encoder is None else encoder.digest,
    }


def image_stamps(table: EpisodeTable, cameras: Sequence[str]) -> str:
    """A hash of the cameras and, for each episode, of its place in their files, with size and time; reads no file."""
    digest = hashlib.sha256()
    for camera in cameras:
        # The clips alone do not distinguish a camera without clips from no camera.
        digest.update(camera.encode() + b"\0")
        clips = table.videos[camera]
        for episode in table.episode_index.tolist():
            clip = clips.get(episode)
            if clip is None:
                continue
            # The form of a clip contains its path and where it starts in the file.
            digest.update(repr(clip).encode())
            if clip.path.is_file():
                file = clip.path.stat()
                digest.update(f"{file.st_size} {file.st_mtime_ns}".encode())
    return digest.hexdigest()


def _scorer_id(heads: str, config: ScoreConfig) -> str:
    """A short hash of the fitted heads and the configuration."""
    text = json.dumps([heads, dataclasses.asdict(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _image_features(
    chunks: ChunkDataset, config: ScoreConfig, parts: PartCache, encoder: FrameEncoder | None, progress: bool
) -> Tensor | None:
    """The image features, or those of an interrupted fit; None unless the observation is camera images."""
    if not chunks.cameras:
        return None
    part = parts.load("images")
    if part is None:
        part = {"features": image_features(chunks, config, encoder, progress)}
        parts.save("images", part)
    return part["features"]


def _sample(table: EpisodeTable, config: ScoreConfig) -> Tensor:
    """The episodes that heads are fitted to, `(E,)` bool; all of a dataset with few."""
    # Copies need not be kept together, so no vector is read.
    first = episode_groups(table, (), config.seed)[0]
    return torch.from_numpy(np.isin(table.episode_index, first))


def _folds(transitions: LazyTransitions, episode_index: Any, config: ScoreConfig) -> tuple[Tensor, int]:
    """The fold of each episode, `(E,)` int64, and the number of folds; usable episodes are shared out evenly."""
    usable = torch.nonzero(transitions.count > 0).squeeze(1)
    folds = min(config.folds, len(usable) // 2)
    fold = torch.zeros(len(transitions.count), dtype=torch.int64)
    fold[usable] = assign_folds(episode_index[usable.numpy()], folds)
    return fold, folds


def tasks_of(transitions: LazyTransitions) -> Tensor:
    """Each episode's task, that of its first transition, `(E,)` int64; 0 for an episode without one."""
    task = torch.zeros(len(transitions.count), dtype=torch.int64)
    usable = transitions.count > 0
    task[usable] = transitions.instructions(transitions.first[usable])
    return task


def calibrated_scores(
    transitions: LazyTransitions, scored: RoundScores, novelty: Tensor, task: Tensor, config: ScoreConfig
) -> dict[str, Tensor]:
    """
    The calibrated score `z` of every transition on every check, `(N,)`; a check without planted scores is left out.

    Args:
        transitions: N transitions of E episodes.
        scored: scores in nats.
        novelty: novelty of each episode, `(E,)`, NaN where it has no score; only the difference from the median of its
            task counts.
        task: task of each episode, `(E,)` int64.
        config: settings of the score.
    """
    episode, total, tasks = transitions.episode, len(transitions.count), int(task.max()) + 1
    again = episode[scored.again]
    usual = torch.stack([novelty[(task == one) & (transitions.count > 0)].nanmedian() for one in range(tasks)])
    novelty = novelty - usual[task]
    scores = {}
    for check, score in scored.real.items():
        if check not in scored.planted or check not in config.checks:
            continue
        # The margin over a shift is a likelihood ratio, with one meaning for all tasks; other scores depend on it.
        group, groups = (torch.zeros_like(task), 1) if check == ACTION_SHIFT else (task, tasks)
        if config.correct_novelty:
            mean = episode_mean(score, episode, total, config.episode_shrinkage)
            score = score + novelty_correction(mean, novelty, config)[episode]
        good = episode_mean(score, episode, total, config.episode_shrinkage)
        bad = episode_mean(scored.planted[check], again, total, config.episode_shrinkage)
        z = fit_scale(good, bad, group, groups, config).score(score, episode, group)
        if check == ACTION_SHIFT:
            aligned = config.threshold + config.aligned_gain * (z - config.threshold)
            z = torch.where(z > config.threshold, aligned, z).clamp(max=1.0)
        scores[check] = z
    return scores
