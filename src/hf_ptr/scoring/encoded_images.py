"""The vectors of encoded images, kept by content: the same images are decoded and encoded once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import Tensor

import hf_ptr
from hf_ptr._version import __version__
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.utils.code_digest import code_digest
from hf_ptr.utils.safetensors_io import PartCache

# Bytes that are kept, of the vectors used last: EfficientNet-Lite0 has 640 an image.
LARGEST = 4 * 1024**3
VECTORS = "vectors"
# Vectors depend on the code that finds, decodes and encodes images; paths in the package.
CODE = ("data/video", "data/lerobot/stored_images.py", "scoring/frame_encoder.py", "vision")


class EncodedImages:
    """
    The vectors of one camera by episode, in the cache of the Hugging Face libraries.

    A file is used for the same frames of a file of the same path, size and time, and the same encoder. A cache that
    cannot be read or written is an empty one.

    Args:
        table: the episodes.
        camera: the camera.
        encoder: digest of the encoder.
    """

    def __init__(self, table: EpisodeTable, camera: str, encoder: str):
        self._table, self._clips, self._encoder = table, table.videos[camera], encoder

    def load(self, position: int) -> Tensor | None:
        """The vectors of the episode at a position of the table, `(length, width)` float16; None if there are none."""
        parts = self._parts(position)
        found = None if parts is None else parts.load(VECTORS)
        if parts is None or found is None or parts.folder is None:
            return None
        with contextlib.suppress(OSError):
            # Those that were used last are kept.
            os.utime(parts.folder / f"{VECTORS}.safetensors")
        return found[VECTORS]

    def save(self, position: int, vectors: Tensor) -> None:
        """Keeps the vectors of an episode, `(length, width)`."""
        with contextlib.suppress(OSError, SafetensorError, InputError):
            if parts := self._parts(position):
                parts.save(VECTORS, {VECTORS: vectors})

    def _parts(self, position: int) -> PartCache | None:
        """The cache of an episode; None if it is not in a file, whose change could be noticed."""
        table = self._table
        clip = self._clips[int(table.episode_index[position])]
        rows = slice(int(table.starts[position]), int(table.starts[position] + table.lengths[position]))
        try:
            file = clip.path.stat()
            # Which frames of the file these are follows from time stamps and from the other episodes in it.
            frames = [clip.position(frame, table.video_fps) for frame in table.video_frame[rows].tolist()]
        except (InputError, OSError):
            return None
        key = {
            "path": str(clip.path.absolute()),
            "size": file.st_size,
            "time": file.st_mtime_ns,
            "frames": hashlib.sha256(np.array(frames, dtype=np.int64).data).hexdigest(),
            "encoder": self._encoder,
            "versions": [__version__, torch.__version__],
            "code": _code(),
        }
        name = hashlib.sha256(repr(key).encode()).hexdigest()
        return PartCache(_folder() / name[:2] / name[2:32], key)


def remove_oldest(largest: int = LARGEST) -> None:
    """Removes the vectors that were not used for longest, until those left have at most `largest` bytes."""
    with contextlib.suppress(OSError):
        files = [(file, file.stat()) for file in _folder().rglob("*.safetensors")]
        total = sum(each.st_size for _, each in files)
        for file, each in sorted(files, key=lambda found: found[1].st_mtime_ns):
            if total <= largest:
                break
            file.unlink(missing_ok=True)
            file.parent.rmdir()
            total -= each.st_size


def _folder() -> Path:
    return Path(constants.HF_HOME) / "hf-ptr" / "encoded-images"


@cache
def _code() -> list[str]:
    return [code_digest(Path(hf_ptr.__path__[0]) / name) for name in CODE]
