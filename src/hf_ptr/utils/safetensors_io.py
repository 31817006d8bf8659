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
    The header's own entries of a safetensors file, and its tensors, on the host.

    Raises:
        OSError, SafetensorError: it is missing or damaged.
    """
    with safe_open(file, framework="pt") as opened:
        # What is opened is no mapping: it has keys, but cannot be walked through.
        return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


class PartCache:
    """
    Tensors under the names of parts, each a safetensors file that is written whole or not at all.

    Args:
        folder: where they are kept, made when there is something to keep; None keeps nothing.
        made_of: everything that the parts depend on. What another computation left in the folder is not taken up.
    """

    def __init__(self, folder: Path | None, made_of: Mapping[str, Any]):
        self.folder = folder
        self._key = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()

    def load(self, name: str) -> dict[str, Tensor] | None:
        """A part that was finished before; None for one that was not, or is damaged."""
        if self.folder is None or not (file := self._file(name)).is_file():
            return None
        try:
            header, part = read_tensors(file)
        except (OSError, SafetensorError):
            return None
        return part if header.get("key") == self._key else None

    def save(self, name: str, part: Mapping[str, Tensor]) -> None:
        """Keeps a part."""
        if self.folder is not None:
            with atomic_write(self._file(name)) as partial:
                save_file({key: value.contiguous() for key, value in part.items()}, partial, {"key": self._key})

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"
