"""Pickled weights, which can run any code when they are opened, are refused wherever models come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hf_ptr.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What `Trainer` leaves beside a policy that others have trained. It is no part of the model, and is never opened.
OF_TRAINER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state")
# Of DeepSpeed, which opens it when a run of its own goes on, and never otherwise.
OF_DEEPSPEED = ("mp_rank_", "zero_pp_rank_", "bf16_zero_pp_rank_")
NOT_WEIGHTS = (*OF_TRAINER, *OF_DEEPSPEED)


def pickles(names: Iterable[str]) -> list[str]:
    """Of the names of files, those of pickles, in order."""
    return sorted(name for name in names if PurePosixPath(name).suffix.lower() in PICKLES)


def refuse_pickles(names: Iterable[str], place: object) -> None:
    """
    Refuses a model that holds pickled weights.

    Args:
        names: of its files, relative to it.
        place: what the message calls it.

    Raises:
        InputError: naming the first pickle.
    """
    for name in pickles(names):
        if not PurePosixPath(name).name.startswith(NOT_WEIGHTS):
            raise InputError(
                f"{place} holds {name}, a pickle, which can run any code when it is opened; save the weights as "
                "safetensors, and delete it"
            )


def refuse_pickles_in(folder: str | os.PathLike) -> None:
    """As [`refuse_pickles`], for a folder and the folders of its parts; anything that is no folder passes."""
    root = Path(folder)
    if root.is_dir():
        refuse_pickles((str(path.relative_to(root)) for path in (*root.glob("*"), *root.glob("*/*"))), root)
