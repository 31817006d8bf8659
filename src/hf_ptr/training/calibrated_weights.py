"""
`scoring: calibrated` in a training run: weights fitted on the chunks that it trains on, before it starts.

Each source of a mixture is fitted alone, with its own scorers and scale: robots have different vectors, and what is
usual for one robot is not evidence about another.
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

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.data.score_file import SCORES_FILE, read_weights
from hf_ptr.detection.findings_file import FindingsFiles
from hf_ptr.equations import mixed_weight
from hf_ptr.errors import InputError
from hf_ptr.training.detected_scores import detected_scores, write_detected_scores
from hf_ptr.training.distributed import ProcessGroup
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.utils.atomic_files import atomic_write

# Settings that the weights depend on, besides the data.
FITTED_WITH = ("alpha", "w_min", "w_max", "seed", "score_settings", "harm")
# Names of the score files of a run, of one dataset or of the sources of a mixture.
SCORE_FILES = "scores*.parquet"
# Weights fitted on another machine differ by rounding.
WEIGHT_TOLERANCE = 1e-3


def calibrated_chunks(chunks: Chunks, args: PTRConfig, checkpoint: str | Path | None = None) -> Chunks:
    """
    The chunks with the weight `1 + α (w - 1)`, where `w` is the calibrated weight (`hf_ptr.scoring.calibration`),
    lowered where a chunk covers a fault (`hf_ptr.detection`).

    The main process fits and writes the scores with the weights and the findings into the folder of the run, those of
    each source of a mixture under its name; the others wait, however long it takes. Every checkpoint has a copy.

    Args:
        chunks: chunks to train on.
        args: settings of the run.
        checkpoint: checkpoint that the run resumes from; its score files are used. None for a new run.

    Raises:
        InputError: as for [`fit_scores`], in all processes; and where the score files of the checkpoint are missing,
            damaged, of other data, or made with other settings.
    """
    group = ProcessGroup(args.process_index, args.world_size)
    parts, folder = parts_to_fit(chunks), Path(str(args.output_dir))
    if checkpoint is not None:
        weight = _weights_of_checkpoint(Path(checkpoint), parts, args)
        if group.is_main_process:
            copy_scores(chunks, Path(checkpoint), folder)
    else:
        fitted = group.run_on_main(partial(_fit_all, parts, args, folder))
        weight = torch.ones(len(chunks), dtype=torch.float64) if fitted is None else fitted
    return chunks.with_weights(group.broadcast(weight.float()).numpy())


def parts_to_fit(chunks: Chunks) -> dict[str, ChunkDataset]:
    """The datasets that are fitted alone, by the name of their score file; together they are `chunks`, in order."""
    if isinstance(chunks, ChunkDataset):
        return {SCORES_FILE: chunks}
    stem, end = SCORES_FILE.split(".")
    parts = {}
    for number, (name, part) in enumerate(zip(chunks.source_names, chunks.parts, strict=True)):
        # A source's name may contain characters that a file name should not, or equal the name given to such a source.
        safe = name if re.fullmatch(r"(?!source-\d+$|.*\.findings$)[\w.-]+", name) else f"source-{number}"
        parts[f"{stem}-{safe}.{end}"] = part
    return parts


def require_same_weights(checkpoint: str | Path, chunks: Chunks, args: PTRConfig) -> None:
    """
    Checks that the weights of a run are those of the checkpoint that it resumes from.

    Raises:
        InputError: the weights were made with other settings, are missing or damaged, or differ.
    """
    saved = _weights_of_checkpoint(Path(checkpoint), parts_to_fit(chunks), args).float()
    if chunks.weights is not None and not torch.allclose(saved, chunks.weights, rtol=0.0, atol=WEIGHT_TOLERANCE):
        raise InputError(
            f"the calibrated weights of {checkpoint} differ from those of train_dataset: pass train_dataset with the "
            "weights in its score file (read_weights), or start a new run with another output_dir"
        )


def _weights_of_checkpoint(checkpoint: Path, parts: dict[str, ChunkDataset], args: PTRConfig) -> torch.Tensor:
    for name in parts:
        _require_same_settings(checkpoint / name, args)
    return torch.from_numpy(np.concatenate([read_weights(checkpoint / name, of.table) for name, of in parts.items()]))


def copy_scores(chunks: Chunks, source: Path, folder: Path) -> None:
    """
    Copies the score files of a run, with their findings, into another folder of it, a checkpoint; no file if the
    weights were given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in parts_to_fit(chunks):
        for file in (*FindingsFiles.beside(source / name).all(), source / name):
            if file.is_file():
                with atomic_write(folder / file.name) as partial_file:
                    shutil.copyfile(file, partial_file)


def _fit_all(parts: dict[str, ChunkDataset], args: PTRConfig, folder: Path) -> torch.Tensor:
    weights = [_weights(chunks, args, folder / name) for name, chunks in parts.items()]
    for name in parts:
        shutil.rmtree(_cache_folder(folder / name), ignore_errors=True)
    return torch.cat(weights)


def _cache_folder(file: Path) -> Path:
    """Folder of the finished parts of a fit, from which a killed run resumes."""
    return file.with_name(f".{file.stem}.parts")


def _weights(chunks: ChunkDataset, args: PTRConfig, file: Path) -> torch.Tensor:
    fitted, found = detected_scores(
        chunks,
        args.score_config(),
        harm=args.harm,
        cameras=chunks.cameras,
        keep=_cache_folder(file),
        progress=not bool(args.disable_tqdm),
    )
    scores = fitted.frame()
    scores["weight"] = mixed_weight(scores["weight"], args.alpha)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_detected_scores(scores, found, chunks, file, **_settings(args))
    return torch.from_numpy(scores["weight"].to_numpy(copy=True))


def _settings(args: PTRConfig) -> dict[str, Any]:
    return {name: getattr(args, name) for name in FITTED_WITH}


def _require_same_settings(file: Path, args: PTRConfig) -> None:
    if not file.is_file():
        raise InputError(f"{file.parent} has no {file.name}: its run did not use scoring calibrated; start a new run")
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
            f"the weights in {file} were made with {'; '.join(changed)}: resume with the settings that the run "
            "started with, or start a new run with another output_dir"
        )
