"""`scoring: calibrated` in a training run: before its first step, weights are fitted on the chunks it trains on."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.weights import SCORES_FILE, read_weights, write_scores
from hf_ptr.errors import InputError
from hf_ptr.files import replacing
from hf_ptr.scoring.fitting import fit_scores
from hf_ptr.training.config import PTRConfig
from hf_ptr.training.ranks import Ranks

# What the weights depend on, beside the data.
FITTED_WITH = ("alpha", "w_min", "w_max", "seed")


def calibrated_chunks(
    chunks: ChunkDataset,
    args: PTRConfig,
    accelerator: Accelerator,
    ranks: Ranks,
    *,
    checkpoint: str | Path | None = None,
) -> ChunkDataset:
    """
    The chunks with the weight `1 + α (w - 1)`, where `w` is the calibrated weight (`hf_ptr.scoring.calibration`).

    The first process fits, and writes the scores with the weights into the run's folder; the others wait, however long
    it takes. Every checkpoint has a copy, which a run that goes on from there reads instead.

    Args:
        chunks: what the run trains on.
        args: its settings.
        accelerator, ranks: of all processes.
        checkpoint: that the run goes on from, if it does.

    Raises:
        InputError: as [`fit_scores`], in all processes; and where the weights of the checkpoint are missing, damaged,
            of other data, or made with other settings.
    """
    file = Path(str(args.output_dir)) / SCORES_FILE
    if checkpoint is not None:
        saved = Path(checkpoint) / SCORES_FILE
        _require_same_settings(saved, args)
        weight = torch.from_numpy(read_weights(saved, chunks.table))
        if ranks.first:
            copy_scores(saved.parent, file.parent)
    else:
        weight = torch.ones(len(chunks), dtype=torch.float64)
        fitted = ranks.from_first(partial(_fit, chunks, args, file))
        weight = weight if fitted is None else fitted
    if ranks.count > 1:
        weight = broadcast(weight.float().to(accelerator.device)).cpu()
    return chunks.weighted(weight.numpy())


def copy_scores(source: Path, folder: Path) -> None:
    """Puts the scores that a run was weighed by into another folder of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SCORES_FILE) as partial_file:
        shutil.copyfile(source / SCORES_FILE, partial_file)


def _fit(chunks: ChunkDataset, args: PTRConfig, file: Path) -> torch.Tensor:
    scores = fit_scores(
        chunks, w_min=args.w_min, w_max=args.w_max, seed=args.seed, progress=not bool(args.disable_tqdm)
    )
    scores["weight"] = 1.0 + args.alpha * (scores["weight"] - 1.0)
    scores.attrs = _settings(args)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_scores(scores, file)
    return torch.from_numpy(scores["weight"].to_numpy(copy=True))


def _settings(args: PTRConfig) -> dict[str, Any]:
    return {name: getattr(args, name) for name in FITTED_WITH}


def _require_same_settings(file: Path, args: PTRConfig) -> None:
    if not file.is_file():
        raise InputError(f"{file.parent} has no {SCORES_FILE}: its run had no scoring calibrated; start a new one")
    try:
        fitted = pd.read_parquet(file, columns=["index"]).attrs
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} is damaged ({error}); start a new run") from error
    changed = [
        f"{name} {fitted.get(name, 'unknown')}, now {value}"
        for name, value in _settings(args).items()
        if fitted.get(name) != value
    ]
    if changed:
        raise InputError(
            f"the weights in {file} were made with {'; '.join(changed)}: go on with the settings that the run began "
            "with, or start a new one with another output_dir"
        )
