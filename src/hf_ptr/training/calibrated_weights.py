"""
`scoring: calibrated` in a training run: before its first step, weights are fitted on the chunks it trains on.

Of a mixture each source is fitted alone, with scorers and a scale of its own: robots have different vectors, and what
is usual for one is not held against another.
"""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.data.score_file import SCORES_FILE, read_weights, write_scores
from hf_ptr.errors import InputError
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.training.distributed import Ranks
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.utils.atomic_files import atomic_write

# What the weights depend on, beside the data.
FITTED_WITH = ("alpha", "w_min", "w_max", "seed", "score_settings")


def calibrated_chunks(
    chunks: Chunks,
    args: PTRConfig,
    accelerator: Accelerator,
    ranks: Ranks,
    *,
    checkpoint: str | Path | None = None,
) -> Chunks:
    """
    The chunks with the weight `1 + α (w - 1)`, where `w` is the calibrated weight (`hf_ptr.scoring.calibration`).

    The first process fits, and writes the scores with the weights into the run's folder, of a mixture a file a source;
    the others wait, however long it takes. Every checkpoint has a copy, which a run that goes on from there reads
    instead.

    Args:
        chunks: what the run trains on.
        args: its settings.
        accelerator, ranks: of all processes.
        checkpoint: that the run goes on from, if it does.

    Raises:
        InputError: as [`fit_scores`], in all processes; and where the weights of the checkpoint are missing, damaged,
            of other data, or made with other settings.
    """
    parts, folder = parts_to_fit(chunks), Path(str(args.output_dir))
    if checkpoint is not None:
        saved = Path(checkpoint)
        for name in parts:
            _require_same_settings(saved / name, args)
        weight = torch.from_numpy(np.concatenate([read_weights(saved / name, of.table) for name, of in parts.items()]))
        if ranks.first:
            copy_scores(chunks, saved, folder)
    else:
        weight = torch.ones(len(chunks), dtype=torch.float64)
        fitted = ranks.from_first(partial(_fit_all, parts, args, folder))
        weight = weight if fitted is None else fitted
    if ranks.count > 1:
        weight = broadcast(weight.float().to(accelerator.device)).cpu()
    return chunks.with_weights(weight.numpy())


def parts_to_fit(chunks: Chunks) -> dict[str, ChunkDataset]:
    """What is fitted alone, by the name of its score file; together they are `chunks`, in their order."""
    if isinstance(chunks, ChunkDataset):
        return {SCORES_FILE: chunks}
    stem, end = SCORES_FILE.split(".")
    parts = {}
    for number, (name, part) in enumerate(zip(chunks.source_names, chunks.parts, strict=True)):
        # A name may hold what no file's name should, or be that of such a source.
        safe = name if re.fullmatch(r"(?!source-\d+$)[\w.-]+", name) else f"source-{number}"
        parts[f"{stem}-{safe}.{end}"] = part
    return parts


def copy_scores(chunks: Chunks, source: Path, folder: Path) -> None:
    """Puts the scores that a run was weighed by into another folder of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in parts_to_fit(chunks):
        with atomic_write(folder / name) as partial_file:
            shutil.copyfile(source / name, partial_file)


def _fit_all(parts: dict[str, ChunkDataset], args: PTRConfig, folder: Path) -> torch.Tensor:
    weight = torch.cat([_fit(chunks, args, folder / name) for name, chunks in parts.items()])
    for name in parts:
        shutil.rmtree(_parts_folder(folder / name), ignore_errors=True)
    return weight


def _parts_folder(file: Path) -> Path:
    """Where what is fitted of a source is kept, so that a killed run need not fit it or those before it again."""
    return file.with_name(f".{file.stem}.parts")


def _fit(chunks: ChunkDataset, args: PTRConfig, file: Path) -> torch.Tensor:
    fitted = fit_scores(
        chunks,
        args.score_config(),
        keep=_parts_folder(file),
        progress=not bool(args.disable_tqdm),
    )
    scores = fitted.frame()
    scores["weight"] = 1.0 + args.alpha * (scores["weight"] - 1.0)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_scores(scores, file, **_settings(args))
    return torch.from_numpy(scores["weight"].to_numpy(copy=True))


def _settings(args: PTRConfig) -> dict[str, Any]:
    return {name: getattr(args, name) for name in FITTED_WITH}


def _require_same_settings(file: Path, args: PTRConfig) -> None:
    if not file.is_file():
        raise InputError(f"{file.parent} has no {file.name}: its run had no scoring calibrated; start a new one")
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
