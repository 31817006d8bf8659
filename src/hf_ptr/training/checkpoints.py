"""Checkpoints: what no part of the model holds, and folders that are there whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_ptr.data.columns import first_line
from hf_ptr.errors import InputError
from hf_ptr.files import is_out_of_space
from hf_ptr.training.config import PTRConfig
from hf_ptr.training.model import tensors_under
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.ranks import Ranks

logger = logging.getLogger(__name__)

STATE_FILE = "ptr_state.safetensors"
STAGING_FOLDER = ".incomplete"
# Within it: the checkpoint whose name another takes.
REPLACED = "before"


def state_file(rank: int) -> str:
    """Each rank has its own segments, and so its own belief tokens."""
    return STATE_FILE if rank == 0 else f"ptr_state_{rank}.safetensors"


def save_state(file: Path, objective: PTRObjective, args: PTRConfig, parts: dict[str, torch.Tensor]) -> None:
    """
    Writes queue and controller, and what else a resumed run needs.

    Args:
        file: to write.
        objective: whose they are.
        args: the settings, for how the data was shared out.
        parts: the rest by name.
    """
    state = {f"pool.{name}": value for name, value in objective.pool.state_dict().items()}
    state |= {f"controller.{name}": value for name, value in objective.controller.state_dict().items()}
    state |= parts
    # A checkpoint's tensors may be views of one storage; safetensors wants each its own.
    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, file, _topology(args))


def load_objective_state(
    objective: PTRObjective,
    folder: str | os.PathLike,
    name: str = STATE_FILE,
    device: torch.device | str = "cpu",
    with_queue: bool = True,
) -> dict[str, torch.Tensor]:
    """
    Restores controller, and queue unless told not to, from a run's or checkpoint's folder; returns all that is there.

    Raises:
        InputError: when the file is missing or damaged.
    """
    file = Path(folder) / name
    try:
        # By way of the host: safetensors does not know the device `cpu:0` that a rank on CPU has.
        state = {key: tensor.to(device) for key, tensor in load_file(file).items()}
        if with_queue:
            objective.pool.load_state_dict(tensors_under(state, "pool."))
        objective.controller.load_state_dict(tensors_under(state, "controller."))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); start a new run") from error
    return state


def _topology(args: PTRConfig) -> dict[str, str]:
    return {
        "processes": str(args.world_size),
        "per_device_train_batch_size": str(args.per_device_train_batch_size),
        "gradient_accumulation_steps": str(args.gradient_accumulation_steps),
    }


def require_same_topology(checkpoint: str | os.PathLike, args: PTRConfig) -> None:
    """
    Checks that the data is shared out as when the checkpoint was made: which chunks come next, each rank's belief
    tokens and random numbers depend on it.

    Raises:
        InputError: naming what has changed.
    """
    file = Path(checkpoint) / STATE_FILE
    try:
        with safe_open(file, framework="pt") as opened:
            before = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); start a new run") from error
    now = _topology(args)
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise InputError(
            f"{checkpoint} was made with {'; '.join(changed)}: the data would come in another order; launch the run "
            "as before, or start a new one with policy set to that folder and another output_dir"
        )


# ---- folders


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint that was written to its end: Trainer writes its state file last. None if there is none."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [folder for folder in folders if _is_complete(folder)]
    newest = max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _is_complete(folder: Path) -> bool:
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return folder.name.rpartition("-")[2].isdigit()


def clear_unfinished(output_dir: str | os.PathLike, ranks: Ranks) -> None:
    """Removes what a run that was killed while it saved has left half written."""
    if ranks.first:
        restore_replaced(output_dir)
        shutil.rmtree(Path(output_dir) / STAGING_FOLDER, ignore_errors=True)
    ranks.wait()


def restore_replaced(output_dir: str | os.PathLike) -> None:
    """Gives a checkpoint its name back that was just to be replaced by another of its step when the run was killed."""
    for before in (Path(output_dir) / STAGING_FOLDER / REPLACED).glob("*"):
        folder = Path(output_dir) / before.name
        try:
            os.rename(before, folder)
        except OSError:
            # The other is there, or another process was quicker.
            if not folder.is_dir():
                raise


@contextmanager
def staged(folder: Path, ranks: Ranks) -> Iterator[Path]:
    """
    The place beside `folder` where all ranks write a checkpoint; once they all have, it takes its name. Killed at any
    moment, a run leaves the checkpoints before it as they were.

    Raises:
        InputError: when there is no space left.
    """
    clear_unfinished(folder.parent, ranks)
    staging = folder.parent / STAGING_FOLDER
    failure: Exception | None = None
    try:
        yield staging / folder.name
    except Exception as error:
        # Now: the others may be waiting inside a collective, and then this process with them.
        failure = error
        traceback = not is_out_of_space(error)
        told = (folder, ranks.index, first_line(error))
        logger.error("%s could not be saved by process %d: %s", *told, exc_info=traceback)
    failed = ranks.largest(int(failure is not None))
    if not failed and ranks.first:
        if folder.exists():
            (staging / REPLACED).mkdir()
            os.replace(folder, staging / REPLACED / folder.name)
        os.replace(staging / folder.name, folder)
    if ranks.first:
        shutil.rmtree(staging, ignore_errors=True)
    if not failed:
        return
    if failure is None:
        raise RuntimeError(f"another process could not save {folder}; see its message")
    if not is_out_of_space(failure):
        raise failure
    before = last_complete_checkpoint(folder.parent)
    kept = "there is no earlier checkpoint" if before is None else f"{before} is whole"
    raise InputError(
        f"no space left to save {folder} ({first_line(failure)}); {kept}: free some and start the command again"
    ) from failure
