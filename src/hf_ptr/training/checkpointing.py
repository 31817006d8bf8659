"""Checkpoint folders that are complete or absent, their state files, and the choice of the one to resume from."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_ptr.errors import InputError, first_line
from hf_ptr.hub.repos import checkpoint_folder
from hf_ptr.training.distributed import ProcessGroup
from hf_ptr.training.training_state import SCHEDULER_FILE
from hf_ptr.utils.atomic_files import is_out_of_space
from hf_ptr.utils.pickle_guard import pickles
from hf_ptr.utils.safetensors_io import tensors_under

logger = logging.getLogger(__name__)

STAGING_FOLDER = ".incomplete"
# Inside it: the earlier checkpoint of the same name, until it is replaced by the new one.
REPLACED = "before"
STATE_STEM = "run_state"


class Stateful(Protocol):
    """A part of a trainer with tensors that a resumed run needs."""

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None: ...


# ---- choice of a checkpoint


def resolve_resume_checkpoint(asked: str | bool | None, args: TrainingArguments) -> str | None:
    """
    The folder of the checkpoint that a run resumes from; None for a new run.

    Args:
        asked: `resume_from_checkpoint` of [`Trainer.train`]: `True` for the newest complete checkpoint of the run, a
            folder, or a repo id.
        args: settings of the run.

    Raises:
        InputError: the checkpoint is missing, cannot be pulled, or cannot be resumed from; see
            [`require_resumable`].
    """
    if not asked:
        return None
    if asked is True:
        restore_replaced(str(args.output_dir))
        asked = last_complete_checkpoint(str(args.output_dir))
        if asked is None:
            raise InputError(f"{args.output_dir} has no complete checkpoint; leave resume_from_checkpoint out")
    folder = str(checkpoint_folder(asked))
    require_resumable(folder, args)
    return folder


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest complete checkpoint, or None. The state file of `Trainer` is written last."""
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


def require_resumable(checkpoint: str | os.PathLike, args: TrainingArguments) -> None:
    """
    Checks that a checkpoint contains everything that a resumed run needs, and no pickle; and that the data is divided
    as when it was saved, which decides the next chunks, each process's belief tokens and its random numbers.

    Raises:
        InputError: a part is missing, or a setting has changed; the message names it.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise InputError(f"resume_from_checkpoint {checkpoint} is neither a folder nor a repo id on the Hub")
    found = pickles(path.name for path in folder.iterdir())
    if found:
        raise InputError(
            f"{checkpoint} contains {found[0]}, a pickle, which hf-ptr neither writes nor opens; start a new run with "
            "policy set to that folder and another output_dir"
        )
    if not (folder / SCHEDULER_FILE).is_file():
        raise InputError(
            f"{checkpoint} has no {SCHEDULER_FILE}: it was saved with save_only_model, or is not a checkpoint; start "
            "a new run with policy set to that folder and another output_dir"
        )
    file = folder / state_file(0)
    try:
        with safe_open(file, framework="pt") as opened:
            before = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _damaged(file, error) from error
    now = _topology(args)
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise InputError(
            f"{checkpoint} was made with {'; '.join(changed)}: the data would come in another order; launch the run "
            "as before, or start a new one with policy set to that folder and another output_dir"
        )


# ---- complete or absent


def clear_unfinished(output_dir: str | os.PathLike, group: ProcessGroup) -> None:
    """Removes the half-written checkpoint of a run that was killed while saving."""
    if group.is_main_process:
        restore_replaced(output_dir)
        shutil.rmtree(Path(output_dir) / STAGING_FOLDER, ignore_errors=True)
    group.barrier()


def restore_replaced(output_dir: str | os.PathLike) -> None:
    """Puts back a checkpoint that was about to be replaced by another of the same step when the run was killed."""
    for before in (Path(output_dir) / STAGING_FOLDER / REPLACED).glob("*"):
        folder = Path(output_dir) / before.name
        try:
            os.rename(before, folder)
        except OSError:
            # The other one exists, or another process was faster.
            if not folder.is_dir():
                raise


@contextmanager
def staged(folder: Path, group: ProcessGroup) -> Iterator[Path]:
    """
    A temporary folder in which all processes write a checkpoint; it is renamed to `folder` when all have succeeded.
    A run killed at any moment leaves the earlier checkpoints as they were.

    Raises:
        InputError: no space is left.
    """
    clear_unfinished(folder.parent, group)
    staging = folder.parent / STAGING_FOLDER
    failure: Exception | None = None
    try:
        yield staging / folder.name
    except Exception as error:
        # Log now: the other processes may be inside a collective, and this process would wait with them.
        failure = error
        details = (folder, group.rank, first_line(error))
        logger.error("%s could not be saved by process %d: %s", *details, exc_info=not is_out_of_space(error))
    failed = group.all_reduce_max(int(failure is not None))
    if not failed and group.is_main_process:
        if folder.exists():
            (staging / REPLACED).mkdir()
            os.replace(folder, staging / REPLACED / folder.name)
        os.replace(staging / folder.name, folder)
    if group.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
    if not failed:
        return
    if failure is None:
        raise RuntimeError(f"another process could not save {folder}; see its message")
    if not is_out_of_space(failure):
        raise failure
    before = last_complete_checkpoint(folder.parent)
    kept = "there is no earlier checkpoint" if before is None else f"{before} is complete"
    raise InputError(
        f"no space left to save {folder} ({first_line(failure)}); {kept}: free some space and rerun the command"
    ) from failure


# ---- state files


def state_file(rank: int) -> str:
    """Name of the file with the state of one process."""
    return f"{STATE_STEM}.safetensors" if rank == 0 else f"{STATE_STEM}_{rank}.safetensors"


def save_state(folder: Path, parts: Mapping[str, Stateful], rank: int, args: TrainingArguments) -> None:
    """Writes the tensors of all parts of one process, and how the data is divided."""
    # Tensors may be views of one storage; safetensors requires a storage for each.
    tensors = {
        f"{name}.{key}": value.detach().clone().contiguous()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    save_file(tensors, folder / state_file(rank), _topology(args))


def load_state(
    folder: str | os.PathLike, parts: Mapping[str, Stateful], rank: int = 0, device: torch.device | str = "cpu"
) -> None:
    """
    Restores parts saved by [`save_state`]. The file may contain more.

    Raises:
        InputError: the file is missing or damaged, or does not fit a part.
    """
    file = Path(folder) / state_file(rank)
    try:
        # Through the host: safetensors does not know the device `cpu:0` of a process on the CPU.
        tensors = {key: tensor.to(device) for key, tensor in load_file(file).items()}
        for name, part in parts.items():
            part.load_state_dict(tensors_under(tensors, f"{name}."))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise _damaged(file, error) from error


def _topology(args: TrainingArguments) -> dict[str, str]:
    return {
        "processes": str(args.world_size),
        "per_device_train_batch_size": str(args.per_device_train_batch_size),
        "gradient_accumulation_steps": str(args.gradient_accumulation_steps),
    }


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(f"{file} is missing or damaged ({error}); start a new run")
