"""Tensors on disk, with what the header of their file says."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """
    The header's own entries of a safetensors file, and its tensors, on the host.

    Raises:
        OSError, SafetensorError: it is missing or damaged.
    """
    with safe_open(file, framework="pt") as opened:
        # What is opened is no mapping: it has keys, but cannot be walked through.
        return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
