"""What made a run: versions, the machine, and a hash of the very data that it trains on, beside its recipe."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ptr._version import __version__
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.files import write_json

ORIGIN_FILE = "origin.json"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "numpy")


def data_digest(table: EpisodeTable) -> str:
    """
    A hash of the episodes as they are trained on, faults included: ids, lengths, instructions and every vector. It
    does not depend on how the dataset's files are cut. Videos count with nothing but the places of their frames.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([table.tasks, table.fps, sorted(table.videos)]).encode())
    for array in (table.episode_index, table.lengths, table.task_index, table.frame_id):
        digest.update(np.ascontiguousarray(array).data)
    for name in sorted(table.columns):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(table.columns[name]).data)
    return digest.hexdigest()


def origin_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """
    `versions`, `machine` and `data` of a run, as `origin.json` holds them.

    Args:
        data: the [`ChunkDataset`]s by what they are for; one that is None is left out.
    """
    return {
        "versions": {
            "hf-ptr": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        },
        "data": {
            name: {
                "source": chunks.table.source,
                "episodes": chunks.table.num_episodes,
                "frames": chunks.table.num_frames,
                "digest": data_digest(chunks.table),
                "weights": None if chunks.weights is None else _digest(chunks.weights.numpy()),
            }
            for name, chunks in data.items()
            if chunks is not None
        },
    }


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def write_origin(folder: Path, origin: dict[str, Any]) -> None:
    """
    Writes `origin.json`, or checks that a run that goes on has the data that it began with.

    Raises:
        InputError: it has others.
    """
    file = folder / ORIGIN_FILE
    if file.is_file():
        try:
            began = json.loads(file.read_text(encoding="utf-8"))["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged; delete {folder}, or choose another output_dir") from error
        if began != origin["data"]:
            raise InputError(
                f"output_dir {folder} holds a run on other data ({file}): the dataset has changed since; choose "
                "another output_dir, or delete the folder to start again"
            )
        return
    write_json(origin, file)
