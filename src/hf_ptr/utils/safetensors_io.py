"""Safetensors files: tensors with the metadata of their header, and a cache of finished parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_ptr.utils.atomic_files import atomic_write


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """
    The metadata and the tensors of a safetensors file, on the CPU.

    Raises:
        OSError, SafetensorError: the file is missing or damaged.
    """
    with safe_open(file, framework="pt") as opened:
        # safe_open returns no mapping: it has keys() but cannot be iterated.
        return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


class PartCache:
    """
    Finished parts of a long computation, kept on disk so that an interrupted computation resumes.

    Each part is a dictionary of tensors in one safetensors file, which is written atomically.

    Args:
        folder: folder of the files, created on the first `save`; None disables the cache.
        made_of: all inputs of the computation. Parts that were computed from other inputs are ignored.
    """

    def __init__(self, folder: Path | None, made_of: Mapping[str, Any]):
        self.folder = folder
        self._key = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()

    def load(self, name: str) -> dict[str, Tensor] | None:
        """A finished part; None if it is missing, damaged, or computed from other inputs."""
        if self.folder is None or not (file := self._file(name)).is_file():
            return None
        try:
            header, part = read_tensors(file)
        except (OSError, SafetensorError):
            return None
        return part if header.get("key") == self._key else None

    def save(self, name: str, part: Mapping[str, Tensor]) -> None:
        """Stores a part."""
        if self.folder is not None:
            with atomic_write(self._file(name)) as partial:
                save_file({key: value.contiguous() for key, value in part.items()}, partial, {"key": self._key})

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def tensors_under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
