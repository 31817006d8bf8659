"""Score files: the weight that a trained scorer gives every chunk of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from hf_ptr import functional as F
from hf_ptr.belief import BeliefCarry
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.segments import SegmentBatches
from hf_ptr.data.weights import SCORES_FILE, score_file_keys
from hf_ptr.errors import InputError
from hf_ptr.hub.places import pull_videos
from hf_ptr.policies import VLAProcessor, require_fits
from hf_ptr.training.batch import candidates_of, model_inputs
from hf_ptr.training.collator import ChunkCollator
from hf_ptr.training.config import PTRConfig
from hf_ptr.training.model import PTRModel
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.run import chunks_for
from hf_ptr.training.sidecar import load_objective_state

CHUNKS_A_BATCH = 256


@torch.no_grad()
def score_dataset(run: str | Path, table: EpisodeTable, *, seed: int = 0) -> pd.DataFrame:
    """
    Scores and weights of every chunk of a dataset by the scorer of a finished run, as that run scored them.

    The negatives come from the dataset itself: the other chunks of a batch and the queue, as in training. The first
    batches are walked twice, so that the queue is full when they are scored. In-sample: the scorer has trained on
    these chunks if the run did.

    Args:
        run: the folder of a PTR run.
        table: the episodes.
        seed: of the order of the segments, the draws and the policy's noise.

    Returns:
        One row a frame, in the order of the dataset: `index episode_index frame_index task_index source score weight
        valid scorer`.

    Raises:
        InputError: when the run has no scorer, or does not know the dataset's instructions.
    """
    folder = Path(run)
    model = PTRModel.from_pretrained(folder).eval()
    if model.scorer is None:
        raise InputError(
            f"{folder} has no scorer: it was trained with alpha 0, or with calibrated weights, which then lie in "
            f"{SCORES_FILE}; score with a run of scoring paper, or with --fit"
        )
    args = PTRConfig.from_run(folder)
    objective = PTRObjective(args)
    load_objective_state(objective, folder, with_queue=False)
    config = model.adapter.config
    require_fits(config, table, str(folder))
    pull_videos(table, config.observation_features)
    dataset = chunks_for(
        config, table, segment_chunks=model.config.segment_chunks, target_offset=model.config.target_offset
    )
    collator = ChunkCollator(VLAProcessor.from_pretrained(folder), dataset.tasks)
    scores = np.zeros(len(table.frame_id), dtype=np.float32)
    weights = np.ones(len(table.frame_id), dtype=np.float32)
    valid = np.zeros(len(table.frame_id), dtype=bool)
    row_of = {int(frame): row for row, frame in enumerate(table.frame_id)}
    # The caller's random state is none of ours to move.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        walk = list(SegmentBatches(dataset, CHUNKS_A_BATCH, seed=seed))
        carry = BeliefCarry()
        warm_up = _filling(dataset, walk, args.queue_size)
        for number, chunks in enumerate(track((*warm_up, *walk), "scoring")):
            batch = collator(dataset.__getitems__(chunks))
            output = model(**model_inputs(batch, carry if args.belief_tokens else None))
            if output.belief_tokens is not None:
                carry.remember(batch["index"], output.belief_tokens)
            candidates = candidates_of(model.adapter, batch, output.target)
            logits, _ = objective.logits(output, candidates)
            objective.remember()
            if number < len(warm_up):
                continue
            score = F.ptr_score(logits)
            weight = objective.weight(score, candidates.valid, None, step=args.nce_warmup_steps)
            rows = [row_of[int(frame)] for frame in batch["index"]]
            scores[rows] = torch.where(candidates.valid, score, torch.zeros_like(score)).numpy()
            weights[rows], valid[rows] = weight.numpy(), candidates.valid.numpy()
    return pd.DataFrame(
        {
            **score_file_keys(table),
            "score": scores,
            "weight": weights,
            "valid": valid,
            "scorer": _digest(folder / "scorer" / "model.safetensors"),
        }
    )


def _filling(dataset: ChunkDataset, walk: list[list[int]], size: int) -> list[list[int]]:
    """The first batches of the walk that together hold `size` targets; all of them if they hold fewer."""
    held = 0
    for number, chunks in enumerate(walk):
        if held >= size:
            return walk[:number]
        held += int(dataset.__getitems__(chunks)["next_valid"].sum())
    return walk


def with_known_faults(scores: pd.DataFrame, truth: CorruptionTruth) -> pd.DataFrame:
    """The scores with a column `fault`: the faults that each row's episode is known to carry, joined by `+`."""
    carried = {
        int(episode): "+".join(name for name, carries in truth.faults.items() if carries[position])
        for position, episode in enumerate(truth.episode_index)
    }
    return scores.assign(fault=[carried.get(number, "") for number in scores.episode_index.tolist()])


def worst_episodes(scores: pd.DataFrame, tasks: Sequence[str], count: int = 10) -> Table:
    """The episodes of least mean weight among fitted scores, and the view that lowers it, for the terminal."""
    by_episode = scores.groupby("episode_index").agg(
        weight=("weight", "mean"),
        score=("score", "mean"),
        task=("task_index", "first"),
        failed=("failed_view", lambda views: views[views != ""].mode().get(0, "")),
    )
    shown = Table(title=f"episodes of least weight, of {len(by_episode)}")
    shown.add_column("episode", justify="right")
    shown.add_column("mean weight", justify="right")
    shown.add_column("mean score", justify="right")
    shown.add_column("what does not fit")
    shown.add_column("task")
    for number, row in by_episode.nsmallest(count, "weight").iterrows():
        shown.add_row(str(number), f"{row.weight:.2f}", f"{row.score:.2f}", row.failed, escape(tasks[int(row.task)]))
    return shown


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
