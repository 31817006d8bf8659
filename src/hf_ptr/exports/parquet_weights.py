"""Weights as LeRobot reads them from a parquet: `static` (proposed in its pull request 4222)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hf_ptr.utils.atomic_files import atomic_write


def static_weights(scores: pd.DataFrame) -> pd.DataFrame:
    """
    Weights for LeRobot's `static` sample weighting and for the plug-in `lerobot_policy_hf_ptr`.

    The mean is 1, so that `fallback_weight` 1, which frames without a row get, is a neutral weight.

    Args:
        scores: rows of a score file.

    Returns:
        `index` (global frame index, int64, rising) and `weight` (float64, mean 1).
    """
    weight = scores["weight"].to_numpy(np.float64)
    frame = pd.DataFrame({"index": scores["index"].to_numpy(np.int64), "weight": weight / weight.mean()})
    return frame.sort_values("index", kind="stable", ignore_index=True)


def write_parquet(frame: pd.DataFrame, path: Path, **made: Any) -> None:
    """
    Writes a table atomically.

    Args:
        frame: the table.
        path: the file.
        made: JSON values that describe how the table was made, for its metadata.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"hf_ptr": json.dumps(made).encode()})
    with atomic_write(path) as partial:
        pq.write_table(table, partial)
