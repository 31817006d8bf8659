"""Score files: one row a frame that starts a chunk, with its score and how much it counts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import atomic_write

# What a score file is called in a run's folder, and in its repository on the Hub.
SCORES_FILE = "scores.parquet"


def score_file_keys(table: EpisodeTable, episodes: slice = slice(None)) -> dict[str, Any]:
    """
    The columns of a score file that say which frame a row is, copies.

    Args:
        table: F frames.
        episodes: positions of those whose frames are wanted, of all by default.

    Returns:
        Each `(F,)`, in the order of the table.
    """
    starts, lengths = table.starts[episodes], table.lengths[episodes]
    rows = slice(int(starts[0]), int(starts[-1] + lengths[-1]))
    return {
        "index": table.frame_id[rows].copy(),
        "episode_index": np.repeat(table.episode_index[episodes], lengths),
        "frame_index": np.arange(rows.start, rows.stop) - np.repeat(starts, lengths),
        "task_index": table.task_index[rows].copy(),
        "source": table.source,
    }


def write_scores(scores: pd.DataFrame | Iterable[pd.DataFrame], out: str | Path, **made: Any) -> Path:
    """
    Writes a score file as parquet, whole or not at all.

    Args:
        scores: the rows, or parts of them one below the other, of which one is held at a time.
        out: the file.
        made: what the file says made it, values that JSON has, beside the `attrs` of the rows.
    """
    out = Path(out)
    parts = iter([scores] if isinstance(scores, pd.DataFrame) else scores)
    first = next(parts).copy(deep=False)
    first.attrs = {**first.attrs, **made}
    schema = pa.Schema.from_pandas(first, preserve_index=False)
    # As `DataFrame.to_parquet` has it.
    schema = schema.with_metadata({**schema.metadata, b"PANDAS_ATTRS": json.dumps(first.attrs)})
    with atomic_write(out) as partial, pq.ParquetWriter(partial, schema) as writer:
        for part in itertools.chain([first], parts):
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False))
    pa.default_memory_pool().release_unused()
    return out


def read_weights(path: str | Path, table: EpisodeTable) -> np.ndarray:
    """
    The weight of every frame of a table as the start of a chunk, from a score file: a parquet with the columns
    `index` (the frame's id in the dataset) and `weight`. Rows of other frames are left aside.

    Args:
        path: of the score file.
        table: the episodes that will be trained on.

    Returns:
        `(F,)` float64, finite, at least 0, in the order of the table.

    Raises:
        InputError: the file is missing, damaged or of another dataset, a weight is negative, NaN or infinite, a frame
            stands twice, a frame of the table has none, or all of them are 0.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"score file {path} does not exist; write one with hf-ptr score")
    with open_columns(path) as file:
        index, weight = file.integers("index"), file.numbers("weight", 1)[:, 0].astype(np.float64)
        places = {name: file.integers(name) for name in ("episode_index", "frame_index") if name in file.names}
    wrong = ~(np.isfinite(weight) & (weight >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{path}: the weight of frame {index[row]} is {weight[row]}; it must be finite and at least 0"
        )
    order = np.argsort(index, kind="stable")
    index, weight = index[order], weight[order]
    twice = index[1:][index[1:] == index[:-1]]
    if len(twice):
        raise InputError(f"{path} has two weights for frame {twice[0]}; keep one")
    place = np.minimum(np.searchsorted(index, table.frame_id), max(len(index) - 1, 0))
    missing = np.ones(len(table.frame_id), dtype=bool) if len(index) == 0 else index[place] != table.frame_id
    if missing.any():
        raise InputError(
            f"{path} has no weight for frame {table.frame_id[missing][0]} of {table.source!r}; score this very dataset"
        )
    # Files of other datasets have the same frame ids; they are told by which episode a frame lies in, and where.
    of_table = score_file_keys(table)
    for name, column in places.items():
        differs = column[order][place] != of_table[name]
        if differs.any():
            row = int(differs.argmax())
            raise InputError(
                f"{path} is of another dataset than {table.source!r}: frame {table.frame_id[row]} has {name} "
                f"{column[order][place[row]]} there and {of_table[name][row]} here; score this very dataset"
            )
    if not weight[place].any():
        raise InputError(f"{path}: every weight of {table.source!r} is 0; nothing would be learned")
    return weight[place]
