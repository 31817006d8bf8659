"""Reading a dataset with an error that names every episode to leave out, and not only the first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import require_usable, validate_dataset
from hf_ptr.errors import InputError


def read_usable(
    path: str | Path,
    episodes: Sequence[int] | None = None,
    *,
    skip: Collection[int] = (),
    features: Sequence[str] | None = None,
    spill_dir: Path | None = None,
) -> EpisodeTable:
    """
    [`read_dataset`], which stops at the first problem. If it does, the tables are validated as a whole.

    Raises:
        InputError: as [`read_dataset`]; its `skip` contains all episodes whose omission makes the dataset readable.
    """
    try:
        return read_dataset(path, episodes, skip=skip, features=features, spill_dir=spill_dir)
    except InputError:
        found = validate_dataset(path, episodes=episodes, skip=skip, features=features or (), cameras=(), decode=False)
        require_usable(found, skip)
        raise
