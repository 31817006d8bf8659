"""Folders of checkpoints, which are there whole or not at all, and which of them a run goes on from."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_ptr.errors import InputError, first_line
from hf_ptr.hub.repos import checkpoint_folder
from hf_ptr.training.distributed import Ranks
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_state import require_resumable
from hf_ptr.utils.atomic_files import is_out_of_space

logger = logging.getLogger(__name__)

STAGING_FOLDER = ".incomplete"
# Within it: the checkpoint whose name another takes.
REPLACED = "before"


def place_to_go_on_from(asked: str | bool | None, args: PTRConfig) -> str | None:
    """
    The folder of the checkpoint that a run goes on from; None for one that begins.

    Args:
        asked: as of [`Trainer.train`]: `True` for the newest whole one of the run, a folder, or a Hub id.
        args: of the run.

    Raises:
        InputError: when there is none, it cannot be pulled, or it cannot be gone on from, see [`require_resumable`].
    """
    if not asked:
        return None
    if asked is True:
        restore_replaced(str(args.output_dir))
        asked = last_complete_checkpoint(str(args.output_dir))
        if asked is None:
            raise InputError(f"{args.output_dir} holds no complete checkpoint; leave resume_from_checkpoint out")
    folder = str(checkpoint_folder(asked))
    require_resumable(folder, args)
    return folder


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
