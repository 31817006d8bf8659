"""Pickled weights, which can run any code when they are opened, are refused wherever models come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hf_ptr.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What Trainer leaves beside a model. It is no part of the model, and is read as plain tensors or not at all.
OF_TRAINER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state")
# The same of its engines, which read it when a run of theirs goes on, and never otherwise: FSDP2, DeepSpeed.
OF_ENGINES = ("optimizer.bin", "pytorch_model_fsdp.bin", "mp_rank_", "zero_pp_rank_", "bf16_zero_pp_rank_")
NOT_WEIGHTS = (*OF_TRAINER, *OF_ENGINES)


def refuse_pickles(names: Iterable[str], place: object) -> None:
    """
    Refuses a model that holds pickled weights.

    Args:
        names: of its files, relative to it.
        place: what the message calls it.

    Raises:
        InputError: naming the first pickle.
    """
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() in PICKLES and not path.name.startswith(NOT_WEIGHTS):
            raise InputError(
                f"{place} holds {name}, a pickle, which can run any code when it is opened; save the weights as "
                "safetensors, and delete it"
            )


def refuse_pickles_in(folder: str | os.PathLike) -> None:
    """As [`refuse_pickles`], for a folder and the folders of its parts; anything that is no folder passes."""
    root = Path(folder)
    if root.is_dir():
        refuse_pickles((str(path.relative_to(root)) for path in (*root.glob("*"), *root.glob("*/*"))), root)
