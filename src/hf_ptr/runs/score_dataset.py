"""Score files: the weight that a trained scorer gives every chunk of a dataset."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor

from hf_ptr import __version__
from hf_ptr import functional as F
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.data.score_file import SCORES_FILE, score_file_keys
from hf_ptr.errors import InputError
from hf_ptr.hub.datasets import pull_videos
from hf_ptr.policies import VLAProcessor, require_fits
from hf_ptr.ptr import BeliefCarry
from hf_ptr.runs.run import chunks_for
from hf_ptr.training.batch import candidates_of, model_inputs
from hf_ptr.training.collator import ChunkCollator
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTRModel, tensors_under
from hf_ptr.training.ptr_state import load_objective_state
from hf_ptr.utils.progress import progress_bar
from hf_ptr.utils.safetensors_io import PartCache

CHUNKS_A_BATCH = 256
# How often what is scored is kept, in seconds.
KEEP_EVERY = 30.0


@torch.no_grad()
def score_dataset(
    run: str | Path,
    table: EpisodeTable,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    keep: Path | None = None,
) -> pd.DataFrame:
    """
    Scores and weights of every chunk of a dataset by the scorer of a finished run, as that run scored them.

    The negatives come from the dataset itself: the other chunks of a batch and the queue, as in training. The first
    batches are walked twice, so that the queue is full when they are scored. In-sample: the scorer has trained on
    these chunks if the run did. Started by `accelerate launch`, the processes share the chunks, and the negatives are
    those of all of them; each returns all scores.

    Args:
        run: the folder of a PTR run.
        table: the episodes.
        seed: of the order of the segments, the draws and the policy's noise.
        device: where the model runs; by default this process's own.
        keep: a folder for what is scored so far: where it was killed it goes on, several processes where all have kept
            as much. Whoever has written the scores removes it.

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
    ranks = PartialState()
    device = torch.device(ranks.device if device is None else device)
    several = ranks.num_processes > 1
    objective = PTRObjective(args, gather=gather if several else None, ranks=ranks.num_processes)
    load_objective_state(objective, folder, with_queue=False)
    config = model.adapter.config
    require_fits(config, table, str(folder))
    pull_videos(table, config.observation_features)
    dataset = chunks_for(
        config, table, segment_chunks=model.config.segment_chunks, target_offset=model.config.target_offset
    )
    collator = ChunkCollator(VLAProcessor.from_pretrained(folder), dataset.tasks)
    model.to(device)
    walk = SegmentBatches(
        dataset, CHUNKS_A_BATCH, seed=seed, rank=ranks.process_index, ranks=ranks.num_processes, whole=True
    )
    made_of = {"data": data_digest(table), "run": _described(folder), "seed": seed, "device": device.type}
    parts = PartCache(keep, made_of | {"version": __version__, "ranks": ranks.num_processes})
    so_far = _SoFar(len(table.frame_id), objective, device, parts, f"rank-{ranks.process_index}")
    order = np.argsort(table.frame_id)
    # The caller's random state is none of ours to move.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        # Each counts its own lines; all must gather the same batches.
        filling = max(_of_all(_filling(dataset, walk, args.queue_size), device))
        begun = so_far.restore()
        with progress_bar(ranks.is_local_main_process) as progress:
            bar = progress.add_task("scoring", total=filling + len(walk), completed=begun)
            batches = itertools.chain(itertools.islice(walk, filling), walk)
            for number, chunks in enumerate(itertools.islice(batches, begun, None), begun):
                batch = {
                    name: value.to(device) if isinstance(value, Tensor) else value
                    for name, value in collator(dataset.__getitems__(chunks)).items()
                }
                output = model(**model_inputs(batch, so_far.carry if args.belief_tokens else None))
                if output.belief_tokens is not None:
                    so_far.carry.remember(batch["index"], output.belief_tokens)
                candidates = candidates_of(model.adapter, batch, output.target)
                logits, _ = objective.logits(output, candidates)
                objective.remember()
                if number >= filling:
                    score, valid = F.ptr_score(logits), candidates.valid
                    weight = objective.weight(score, valid, None, step=args.nce_warmup_steps)
                    found = (batch["index"], torch.where(valid, score, 0.0), weight, valid)
                    index, *values = (gather(value).cpu() if several else value.cpu() for value in found)
                    so_far.put(order[np.searchsorted(table.frame_id, index.numpy(), sorter=order)], values)
                progress.update(bar, completed=number + 1)
                so_far.keep(number + 1)
    return pd.DataFrame(
        {
            **score_file_keys(table),
            **{name: values.numpy() for name, values in so_far.columns.items()},
            "scorer": _digest(folder / "scorer" / "model.safetensors"),
        }
    )


class _SoFar:
    """What is scored so far, and all that decides how it goes on; kept every `KEEP_EVERY` seconds."""

    def __init__(self, frames: int, objective: PTRObjective, device: torch.device, parts: PartCache, name: str):
        self.columns = {
            "score": torch.zeros(frames),
            "weight": torch.ones(frames),
            "valid": torch.zeros(frames, dtype=torch.bool),
        }
        self.carry = BeliefCarry()
        self._objective, self._device, self._parts, self._name = objective, device, parts, name
        self._kept = time.monotonic()

    def put(self, rows: np.ndarray, values: Sequence[Tensor]) -> None:
        """Takes in a batch: rows of the table, and the values of each column."""
        for column, found in zip(self.columns.values(), values, strict=True):
            column[torch.from_numpy(rows)] = found.to(column.dtype)

    def keep(self, batches: int) -> None:
        """Keeps all, after so many batches; of several processes all at once, when the first one's time has come."""
        if (
            self._parts.folder is None
            or not _of_all(int(time.monotonic() - self._kept >= KEEP_EVERY), self._device)[0]
        ):
            return
        part = {f"column.{name}": values for name, values in self.columns.items()}
        part |= {f"pool.{name}": value for name, value in self._objective.pool.state_dict().items()}
        part |= {f"carry.{name}": value for name, value in self.carry.state_dict().items()}
        part |= {f"random.{name}": state for name, state in _random_states(self._device).items()}
        self._parts.save(self._name, {**part, "batches": torch.tensor(batches)})
        self._kept = time.monotonic()

    def restore(self) -> int:
        """Takes up what was kept, if all processes have kept as much, and returns after how many batches."""
        part = self._parts.load(self._name)
        begun = 0 if part is None else int(part["batches"])
        alike = set(_of_all(begun, self._device)) == {begun}
        if part is None or not alike:
            return 0
        self.columns = {name: part[f"column.{name}"] for name in self.columns}
        there = {name: value.to(self._device) for name, value in part.items()}
        self._objective.pool.load_state_dict(tensors_under(there, "pool."))
        self.carry.load_state_dict(tensors_under(there, "carry."))
        torch.set_rng_state(part["random.cpu"])
        if "random.cuda" in part:
            torch.cuda.set_rng_state(part["random.cuda"], self._device)
        return begun


def _of_all(number: int, device: torch.device) -> list[int]:
    """The number of each process."""
    return gather(torch.tensor([number], device=device)).tolist() if PartialState().num_processes > 1 else [number]


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that the model draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states if device.type != "cuda" else {**states, "cuda": torch.cuda.get_rng_state(device)}


def _filling(dataset: ChunkDataset, walk: SegmentBatches, size: int) -> int:
    """How many of the first batches together hold `size` targets; all of them if they hold fewer."""
    held = 0
    for number, chunks in enumerate(walk):
        if held >= size:
            return number
        held += int(dataset.without_observations(torch.tensor(chunks))["has_target"].sum())
    return len(walk)


def _described(folder: Path) -> list[Any]:
    """Which weights and settings a run has, without reading them all."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".safetensors", ".json"))
    return [[file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
