"""Reading a dataset with an error that names every episode to leave out, and not only the first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.metadata import require_dataset_folder
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import Validation, validate_dataset
from hf_ptr.errors import InputError


def require_usable(found: Validation, skip: Collection[int] = ()) -> None:
    """
    Check that a dataset can be used for training.

    Args:
        found: the result of `validate_dataset`.
        skip: ids of episodes that are left out already.

    Raises:
        InputError: it has errors; the message contains the first one and the episodes to skip.
    """
    if found.usable:
        return
    first, more = str(found.errors[0]).removeprefix("error: "), len(found.errors) - 1
    others = f" (and {more} more; hf-ptr validate {found.dataset} lists them)" if more else ""
    fix, left_out = "fix the dataset", set[int]()
    if found.skippable is not None:
        left_out = {*skip, *found.skippable}
        fix += f", or leave {'this episode' if len(left_out) == 1 else f'{len(left_out)} episodes'} out"
    raise InputError(f"{found.dataset} is not usable: {first}{others}; {fix}", skip=sorted(left_out))


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
        # A wrong path needs no repair of the dataset.
        require_dataset_folder(Path(path))
        found = validate_dataset(path, episodes=episodes, skip=skip, features=features or (), cameras=(), decode=False)
        require_usable(found, skip)
        raise
