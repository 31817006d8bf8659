"""The paper's score of a dataset: score and weight of every chunk, by the scorer of a trained run."""

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

from hf_ptr import functional as F
from hf_ptr._version import __version__
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.data.score_file import SCORES_FILE, score_frame
from hf_ptr.errors import InputError
from hf_ptr.hub.datasets import pull_videos
from hf_ptr.policies import VLAProcessor, require_fits
from hf_ptr.ptr import BeliefCarry
from hf_ptr.runs.build import chunks_for
from hf_ptr.training.checkpointing import load_state
from hf_ptr.training.dataloaders import ChunkCollator
from hf_ptr.training.identification import Identification
from hf_ptr.training.micro_batches import candidates_of, model_inputs, recall_belief
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTRModel
from hf_ptr.utils.progress import progress_bar
from hf_ptr.utils.safetensors_io import PartCache, tensors_under

CHUNKS_PER_BATCH = 256
# Seconds between two saves of the progress.
SAVE_EVERY = 30.0


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
    Score (PTR Eq. (14)) and weight (Eq. (21)) of every chunk of a dataset, by the scorer of a finished run.

    The negatives come from the dataset itself, as in training: the other chunks of a batch, and the queue. The first
    batches are computed twice, so that the queue is full when they are scored. The scores are in-sample if the run
    trained on these chunks. Under `accelerate launch` the processes share the chunks and each other's negatives; each
    returns all scores.

    Args:
        run: folder of a PTR run.
        table: the episodes.
        seed: random seed for the order of the segments, the draws and the policy's noise.
        device: device of the model; by default this process's device.
        keep: a folder for the progress, from which the same call resumes after an interruption; several processes
            resume where all have saved the same number of batches. The caller removes it once the scores are written.

    Returns:
        One row per frame, in the order of the dataset, with the `BASE_COLUMNS` of `hf_ptr.data.score_file`.

    Raises:
        InputError: the run has no scorer, or does not know the dataset's instructions.
    """
    folder = Path(run)
    model = PTRModel.from_pretrained(folder).eval()
    if model.scorer is None:
        raise InputError(
            f"{folder} has no scorer: it was trained with alpha 0, or with calibrated weights, which are in its "
            f"{SCORES_FILE}; pass a run with scoring paper, or use --method calibrated"
        )
    args = PTRConfig.from_run(folder)
    ranks = PartialState()
    device = torch.device(ranks.device if device is None else device)
    several = ranks.num_processes > 1
    identification = Identification(args, gather if several else None)
    load_state(folder, {"controller": identification.controller})
    config = model.adapter.config
    require_fits(config, table, str(folder))
    pull_videos(table, config.observation_features)
    dataset = chunks_for(
        config, table, segment_chunks=model.config.segment_chunks, target_offset=model.config.target_offset
    )
    collator = ChunkCollator(VLAProcessor.from_pretrained(folder), dataset.tasks)
    model.to(device)
    walk = SegmentBatches(
        dataset, CHUNKS_PER_BATCH, seed=seed, rank=ranks.process_index, ranks=ranks.num_processes, whole=True
    )
    cache_key = {"data": data_digest(table), "run": _file_stamps(folder), "seed": seed, "device": device.type}
    parts = PartCache(keep, cache_key | {"version": __version__, "ranks": ranks.num_processes})
    so_far = _ScoringProgress(len(table.frame_id), identification, device, parts, f"rank-{ranks.process_index}")
    order = np.argsort(table.frame_id)
    # The caller's random state stays as it is.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        # Processes may need different numbers of batches, but must gather the same.
        filling = max(_gather_numbers(_batches_to_fill(dataset, walk, args.queue_size), device))
        begun = so_far.restore()
        with progress_bar(ranks.is_local_main_process) as progress:
            bar = progress.add_task("scoring", total=filling + len(walk), completed=begun)
            batches = itertools.chain(itertools.islice(walk, filling), walk)
            for number, chunks in enumerate(itertools.islice(batches, begun, None), begun):
                batch = {
                    name: value.to(device) if isinstance(value, Tensor) else value
                    for name, value in collator(dataset.__getitems__(chunks)).items()
                }
                if args.belief_tokens:
                    # A policy that was never given the tokens of a predecessor cannot read them.
                    recall_belief([batch], so_far.carry, float(args.belief_dropout == 1.0))
                output = model(**model_inputs(batch))
                if output.belief_tokens is not None:
                    so_far.carry.remember(batch["index"], output.belief_tokens)
                (negatives,) = identification.draw_negatives([candidates_of(model.adapter, batch, output)], step=0)
                logits, _ = identification.logits(output, negatives)
                if number >= filling:
                    score, valid = F.ptr_score(logits), batch["has_target"]
                    weight = identification.weight(score, valid, None, step=args.time_constants.nce_warmup_steps)
                    found = (batch["index"], torch.where(valid, score, 0.0), weight, valid)
                    index, *values = (gather(value).cpu() if several else value.cpu() for value in found)
                    so_far.put(order[np.searchsorted(table.frame_id, index.numpy(), sorter=order)], values)
                progress.update(bar, completed=number + 1)
                so_far.save(number + 1)
    columns = {name: values.numpy() for name, values in so_far.columns.items()}
    return score_frame(table, **columns, scorer=_digest(folder / "scorer" / "model.safetensors"))


class _ScoringProgress:
    """The scores so far and everything that decides the next ones, saved every `SAVE_EVERY` seconds."""

    def __init__(self, frames: int, identification: Identification, device: torch.device, parts: PartCache, name: str):
        self.columns = {
            "score": torch.zeros(frames),
            "weight": torch.ones(frames),
            "valid": torch.zeros(frames, dtype=torch.bool),
        }
        self.carry = BeliefCarry()
        self._identification, self._device, self._parts, self._name = identification, device, parts, name
        self._saved = time.monotonic()

    def put(self, rows: np.ndarray, values: Sequence[Tensor]) -> None:
        """Stores a batch: rows of the table, and the values of each column."""
        for column, found in zip(self.columns.values(), values, strict=True):
            column[torch.from_numpy(rows)] = found.to(column.dtype)

    def save(self, batches: int) -> None:
        """Saves the progress after this number of batches; all processes save at once, when the first one is due."""
        if (
            self._parts.folder is None
            or not _gather_numbers(int(time.monotonic() - self._saved >= SAVE_EVERY), self._device)[0]
        ):
            return
        part = {f"column.{name}": values for name, values in self.columns.items()}
        part |= {f"pool.{name}": value for name, value in self._identification.pool.state_dict().items()}
        part |= {f"carry.{name}": value for name, value in self.carry.state_dict().items()}
        part |= {f"random.{name}": state for name, state in _random_states(self._device).items()}
        self._parts.save(self._name, {**part, "batches": torch.tensor(batches)})
        self._saved = time.monotonic()

    def restore(self) -> int:
        """Restores saved progress, if all processes have the same, and returns the number of batches done."""
        part = self._parts.load(self._name)
        begun = 0 if part is None else int(part["batches"])
        alike = set(_gather_numbers(begun, self._device)) == {begun}
        if part is None or not alike:
            return 0
        self.columns = {name: part[f"column.{name}"] for name in self.columns}
        there = {name: value.to(self._device) for name, value in part.items()}
        self._identification.pool.load_state_dict(tensors_under(there, "pool."))
        self.carry.load_state_dict(tensors_under(there, "carry."))
        torch.set_rng_state(part["random.cpu"])
        if "random.cuda" in part:
            torch.cuda.set_rng_state(part["random.cuda"], self._device)
        return begun


def _gather_numbers(number: int, device: torch.device) -> list[int]:
    """The numbers of all processes."""
    return gather(torch.tensor([number], device=device)).tolist() if PartialState().num_processes > 1 else [number]


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that the model draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states if device.type != "cuda" else {**states, "cuda": torch.cuda.get_rng_state(device)}


def _batches_to_fill(dataset: ChunkDataset, walk: SegmentBatches, size: int) -> int:
    """Number of batches that together hold `size` targets; all of them if they hold fewer."""
    held = 0
    for number, chunks in enumerate(walk):
        if held >= size:
            return number
        held += int(dataset.without_observations(torch.tensor(chunks))["has_target"].sum())
    return len(walk)


def _file_stamps(folder: Path) -> list[Any]:
    """Identifies the weights and settings of a run by size and time of its files, without reading them."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".safetensors", ".json"))
    return [[file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
