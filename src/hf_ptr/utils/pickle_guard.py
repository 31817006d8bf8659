"""Refusal of pickled weights: opening a pickle can run arbitrary code."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hf_ptr.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Files that `Trainer` writes next to a model. They are not part of the model and are never opened.
OF_TRAINER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state")
# Files of DeepSpeed, which opens them only to resume its own run.
OF_DEEPSPEED = ("mp_rank_", "zero_pp_rank_", "bf16_zero_pp_rank_")
NOT_WEIGHTS = (*OF_TRAINER, *OF_DEEPSPEED)


def pickles(names: Iterable[str]) -> list[str]:
    """The file names that are pickles, sorted."""
    return sorted(name for name in names if PurePosixPath(name).suffix.lower() in PICKLES)


def refuse_pickles(names: Iterable[str], source: object) -> None:
    """
    Refuses a model that holds pickled weights.

    Args:
        names: file names of the model, relative to its folder.
        source: name of the model in the message.

    Raises:
        InputError: with the name of the first pickle.
    """
    for name in pickles(names):
        if not PurePosixPath(name).name.startswith(NOT_WEIGHTS):
            raise InputError(
                f"{source} holds {name}, a pickle, which can run arbitrary code when opened; save the weights as "
                "safetensors and delete it"
            )


def refuse_pickles_in(folder: str | os.PathLike) -> None:
    """[`refuse_pickles`] for a folder and its direct subfolders. A path that is not a folder passes."""
    root = Path(folder)
    if root.is_dir():
        refuse_pickles((str(path.relative_to(root)) for path in (*root.glob("*"), *root.glob("*/*"))), root)
