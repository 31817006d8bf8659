"""A hash of the very data that a run trains on: an interrupted run goes on with the same, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ptr.data.episodes import data_digest
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import write_json

DIGEST_FILE = "data.json"


def require_same_data(folder: Path, data: Mapping[str, Any]) -> None:
    """
    Writes `data.json`, or checks that a run that goes on has the data that it began with.

    Args:
        folder: of the run.
        data: datasets of chunks, or mixtures of them, by what they are for; one that is None is left out.

    Raises:
        InputError: the run began with others.
    """
    found = {
        name: [_describe(part) for part in getattr(dataset, "parts", [dataset])]
        for name, dataset in data.items()
        if dataset is not None
    }
    file = folder / DIGEST_FILE
    if not file.is_file():
        write_json(found, file)
        return
    try:
        began = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged; delete {folder}, or choose another output_dir") from error
    if began != found:
        raise InputError(
            f"output_dir {folder} holds a run on other data ({file}): the dataset has changed since; choose another "
            "output_dir, or delete the folder to start again"
        )


def _describe(chunks: Any) -> dict[str, Any]:
    table, weights = chunks.table, chunks.weights
    given = None if weights is None else hashlib.blake2b(weights.numpy().tobytes(), digest_size=16).hexdigest()
    return {"source": table.source, "episodes": table.num_episodes, "digest": data_digest(table), "weights": given}
