"""Files that git-lfs has not downloaded."""

from __future__ import annotations

from pathlib import Path

from hf_ptr.errors import InputError

_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """
    Check that a file is not the pointer which git stores in place of a large file. A missing file is not checked.

    Raises:
        InputError: it is a pointer.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(len(_POINTER))
    except OSError:
        return
    if begin == _POINTER:
        raise InputError(
            f"{path} is a Git LFS pointer and not the file itself; run git lfs install and git lfs pull in the dataset"
        )
