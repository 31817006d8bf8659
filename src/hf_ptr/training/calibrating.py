"""`scoring: calibrated` in a training run: before its first step, weights are fitted on the chunks it trains on."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.weights import SCORES_FILE, read_weights, write_scores
from hf_ptr.scoring.fitting import fit_scores
from hf_ptr.training.config import PTRConfig


def calibrated_chunks(
    chunks: ChunkDataset, args: PTRConfig, accelerator: Accelerator, *, resume: bool = False
) -> ChunkDataset:
    """
    The chunks with the weight `1 + α (w - 1)`, where `w` is the calibrated weight (`hf_ptr.scoring.calibration`).

    The first process fits, writes the scores with the weights into the run's folder, and tells the others. A run that
    goes on reads that file instead.

    Args:
        chunks: what the run trains on.
        args: its settings.
        accelerator: of all processes.
        resume: whether the run goes on from a checkpoint.

    Raises:
        InputError: as [`fit_scores`], and as [`read_weights`] for the file of a run that goes on.
    """
    file = Path(str(args.output_dir)) / SCORES_FILE
    weight = torch.ones(len(chunks), dtype=torch.float64)
    if resume and file.exists():
        weight = torch.from_numpy(read_weights(file, chunks.table))
    elif accelerator.is_main_process:
        scores = fit_scores(
            chunks, w_min=args.w_min, w_max=args.w_max, seed=args.seed, progress=not bool(args.disable_tqdm)
        )
        scores["weight"] = 1.0 + args.alpha * (scores["weight"] - 1.0)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_scores(scores, file)
        weight = torch.from_numpy(scores["weight"].to_numpy(copy=True))
    if accelerator.num_processes > 1:
        weight = broadcast(weight.float().to(accelerator.device)).cpu()
    return chunks.weighted(weight.numpy())
