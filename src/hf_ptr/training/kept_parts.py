"""Parts of finished scorings in the cache of the Hugging Face libraries, from which the same data is scored again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from huggingface_hub import constants

# Bytes of one scoring, and number of scorings, that are kept.
LARGEST, MOST = 256 * 1024**2, 8


def recall_parts(dataset: str, folder: Path) -> None:
    """
    Copies the parts of the last scoring of a dataset into a folder, unless the folder exists: then a scoring was
    interrupted.

    Args:
        dataset: path or repo id of the dataset.
        folder: the folder of the parts. Parts of other data, settings or code in it are not used.
    """
    kept = _place(dataset)
    # A copy that was interrupted must not look like an interrupted scoring.
    copy = folder.with_name(f"{folder.name}.copy")
    # A cache that cannot be read is an empty one.
    with contextlib.suppress(OSError):
        if kept.is_dir() and not folder.exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(kept, copy)
            copy.rename(folder)
            # The scorings that were used last are kept.
            os.utime(kept)
    shutil.rmtree(copy, ignore_errors=True)


def keep_parts(dataset: str, folder: Path) -> None:
    """
    Moves the parts of a finished scoring into the cache; those that are too large, or cannot be moved, are removed.

    Args:
        dataset, folder: as for `recall_parts`.
    """
    kept = _place(dataset)
    with contextlib.suppress(OSError):
        if folder.is_dir() and sum(file.stat().st_size for file in folder.rglob("*")) <= LARGEST:
            kept.parent.mkdir(parents=True, exist_ok=True)
            # The old ones go when the new ones are there. Two scorings at once: the last one is kept.
            moved = kept.with_name(f"{kept.name}.{os.getpid()}")
            shutil.move(folder, moved)
            shutil.rmtree(kept, ignore_errors=True)
            moved.rename(kept)
            os.utime(kept)
            oldest_last = sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for other in oldest_last[MOST:]:
                shutil.rmtree(other, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _place(dataset: str) -> Path:
    return Path(constants.HF_HOME) / "hf-ptr" / "scorings" / hashlib.sha256(dataset.encode()).hexdigest()[:16]
