"""Arrays that lie in a file: the operating system holds what is in use of them, and no dataset is too large."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hf_ptr.errors import InputError

# Rows that are gone through at a time.
BLOCK_ROWS = 16_384
# Bytes that are written at a time.
_BLOCK_BYTES = 1 << 20


def memory_mapped_array(shape: tuple[int, ...], dtype: np.dtype | type, folder: Path) -> np.ndarray:
    """
    A new array of zeros in an unnamed file, which is gone with it.

    Args:
        shape, dtype: of the array.
        folder: on the disk that has room for it.

    Raises:
        InputError: it cannot be written there, or there is no room.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Written and not only made as long, which would end the process where the disk is found to be full.
            for first in range(0, size, _BLOCK_BYTES):
                file.write(bytes(min(_BLOCK_BYTES, size - first)))
            file.flush()
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        room = f"{size / 1e6:.0f} MB" if size > 1e6 else f"{size} bytes"
        raise InputError(f"{folder} cannot take the {room} that lie there while they are used: {error}") from error


def release_pages(array: np.ndarray) -> None:
    """Takes an array that lies in a file out of memory until it is read again; leaves others as they are."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def row_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an array, some ten thousand at a time, of which no more need be in memory."""
    for first in range(0, len(array), BLOCK_ROWS):
        yield array[first : first + BLOCK_ROWS]
        release_pages(array)
