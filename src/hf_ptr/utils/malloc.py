"""Memory that is freed goes back to the system at once."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
# Bytes.
LARGE = 1 << 20


def return_freed_memory() -> None:
    """
    From now on glibc gives every large block pages of its own, and the system has them back when it is freed.

    Left alone it raises what counts as large to 32 MB as soon as blocks of that size are freed, and keeps those below.
    It finds little of that to be of use for PyTorch's next, aligned tensors: passes that each free all they took let
    the process grow by hundreds of megabytes. The price is some percent of time for pages asked for again and again,
    so a process decides it for itself; other C libraries have no such setting and are left alone.
    """
    if sys.platform == "linux" and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)):
        set_option(M_MMAP_THRESHOLD, LARGE)
