"""Arrays in memory-mapped temporary files, for datasets that are larger than memory."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hf_ptr.errors import InputError

# Rows of a block.
BLOCK_ROWS = 16_384
# Bytes written at a time.
_BLOCK_BYTES = 1 << 20


def memory_mapped_array(shape: tuple[int, ...], dtype: np.dtype | type, folder: Path) -> np.ndarray:
    """
    A new array of zeros in an unnamed temporary file, which is removed together with the array.

    Args:
        shape, dtype: shape and type of the array.
        folder: folder of the file.

    Raises:
        InputError: the folder is not writable, or the disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Writing zeros detects a full disk here; with a sparse file, a later access would kill the process.
            for first in range(0, size, _BLOCK_BYTES):
                file.write(bytes(min(_BLOCK_BYTES, size - first)))
            file.flush()
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        room = f"{size / 1e6:.0f} MB" if size > 1e6 else f"{size} bytes"
        raise InputError(f"{folder} cannot hold a temporary file of {room}: {error}") from error


def release_pages(array: np.ndarray) -> None:
    """Release the pages of a memory-mapped array until it is read again; other arrays are not affected."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def row_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate over an array in blocks of about ten thousand rows, releasing the pages of each block afterwards."""
    for first in range(0, len(array), BLOCK_ROWS):
        yield array[first : first + BLOCK_ROWS]
        release_pages(array)
