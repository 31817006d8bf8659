"""Memory allocation: freed memory is returned to the system at once."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
# Bytes.
LARGE = 1 << 20


def return_freed_memory() -> None:
    """
    Makes glibc allocate each block of at least 1 MB with mmap, so that freeing it returns its pages to the system.

    By default glibc raises this threshold up to 32 MB once larger blocks are freed, and keeps smaller freed blocks.
    PyTorch's aligned tensors rarely fit into them, so a process whose passes free all their memory still grows by
    hundreds of megabytes. The setting costs a few percent of time for repeated page faults, and applies to the whole
    process, so commands opt in. It does nothing under other C libraries.
    """
    if sys.platform == "linux" and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)):
        set_option(M_MMAP_THRESHOLD, LARGE)
