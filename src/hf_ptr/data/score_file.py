"""Score files: one parquet row for each frame that starts a chunk, with its score and its training weight.

[`COLUMNS`] is the schema. `hf-ptr score` and training with `scoring: calibrated` write such files; training, the
report and other programs read them. `index` and `weight` suffice to train with: they are the columns that LeRobot's
proposed `static` sample weighting reads. Settings that produced the file lie in the parquet metadata, and come back
as the `attrs` of the data frame.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.columns import ColumnFile, open_columns
from hf_ptr.errors import DataWarning, InputError, first_line
from hf_ptr.utils.atomic_files import atomic_write
from hf_ptr.utils.frame_rates import same_rate

# File name in a run's folder, and in its repository on the Hub.
SCORES_FILE = "scores.parquet"
# The elements of a transition that the calibrated score identifies, each with a column `score_ELEMENT`.
ELEMENTS = ("next_observation", "action", "instruction")
ELEMENT_PREFIX = "score_"


@dataclass(frozen=True)
class Column:
    """
    One column of a score file.

    Attributes:
        name: name in the file.
        kind: type of the values.
        written: `always`, or by which command only; a reader must not need the others.
        meaning: description for users.
    """

    name: str
    kind: Literal["integer", "number", "boolean", "text"]
    written: Literal["always", "calibrated", "known faults"]
    meaning: str


COLUMNS = (
    Column("index", "integer", "always", "global frame index, the frame's id in the dataset"),
    Column("episode_index", "integer", "always", "episode of the frame"),
    Column("frame_index", "integer", "always", "frames from the start of the episode"),
    Column("task_index", "integer", "always", "instruction, an index into the dataset's tasks"),
    Column("source", "text", "always", "name of the dataset"),
    Column(
        "score",
        "number",
        "always",
        "calibrated: least of the checks, 0 like an episode with a planted fault, 1 like a good one; paper: PTR "
        "Eq. (14), nats above chance",
    ),
    Column("weight", "number", "always", "weight of the chunk in training, finite and at least 0"),
    Column("valid", "boolean", "always", "whether the episode has an observation `target_offset` frames later"),
    Column("scorer", "text", "always", "hash of the heads and their configuration, or of the run's scorer"),
    *(
        Column(f"{ELEMENT_PREFIX}{element}", "number", "calibrated", f"score of the checks of {what}; NaN without any")
        for element, what in zip(ELEMENTS, ("the next observation", "the action", "the instruction"), strict=True)
    ),
    Column("failed_element", "text", "calibrated", "element whose checks fail, or empty"),
    Column("failed_check", "text", "calibrated", "check that fails, or empty; for example `action/shift`"),
    Column(
        "estimated_lag",
        "integer",
        "calibrated",
        "frames by which the episode's actions fit best when taken later (negative: earlier); 0 without evidence",
    ),
    Column("fault", "text", "known faults", "known faults of the episode, joined by `+`, or empty"),
)
# Columns of every score file that hf-ptr writes, and those without which `read_scores` refuses one.
BASE_COLUMNS = tuple(column.name for column in COLUMNS if column.written == "always")
REQUIRED = ("index", "episode_index", "score", "weight", "valid")


def score_file_keys(table: EpisodeTable, episodes: slice = slice(None)) -> dict[str, Any]:
    """
    The columns that identify the frame of each row, as copies.

    Args:
        table: F frames.
        episodes: positions of the episodes; all by default.

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


def score_frame(table: EpisodeTable, episodes: slice = slice(None), /, **columns: Any) -> pd.DataFrame:
    """
    The rows of a score file for some episodes, columns in the order of [`COLUMNS`].

    Args:
        table: F frames.
        episodes: positions of the episodes; all by default.
        columns: the other columns, each `(F,)` or one value for all rows.

    Raises:
        KeyError: a column is not in the schema.
    """
    values = {**score_file_keys(table, episodes), **columns}
    frame = {column.name: values.pop(column.name) for column in COLUMNS if column.name in values}
    if values:
        raise KeyError(f"columns {sorted(values)} are not in the schema of score files")
    rows = pd.DataFrame(frame)
    rows.attrs["fps"] = float(table.fps)
    return rows


def write_scores(scores: pd.DataFrame | Iterable[pd.DataFrame], path: str | Path, **meta: Any) -> Path:
    """
    Writes a score file atomically: whole, or not at all.

    Args:
        scores: the rows, or consecutive parts of them, of which one is in memory at a time.
        path: the file.
        meta: JSON values that describe how the scores were made, added to the `attrs` of the rows.

    Returns:
        The file.
    """
    path = Path(path)
    parts = iter([scores] if isinstance(scores, pd.DataFrame) else scores)
    first = next(parts).copy(deep=False)
    first.attrs = {**first.attrs, **meta}
    schema = pa.Schema.from_pandas(first, preserve_index=False)
    # The key under which `DataFrame.to_parquet` stores `attrs`.
    schema = schema.with_metadata({**schema.metadata, b"PANDAS_ATTRS": json.dumps(first.attrs)})
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for part in itertools.chain([first], parts):
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False))
    pa.default_memory_pool().release_unused()
    return path


def read_scores(path: str | Path) -> pd.DataFrame:
    """
    A score file, checked and in the order of its episodes and frames.

    Args:
        path: the file.

    Returns:
        One row a frame with the columns of [`COLUMNS`] that the file has; `frame_index` is counted where it is
        missing. `attrs` is how the scores were made (`dataset`, `corruption`, …), empty where the file has nothing.

    Raises:
        InputError: the file is missing, damaged or empty, lacks a column, or has a weight that is negative or not
            finite, or no weight above 0.
    """
    path = Path(path)
    columns: dict[str, Any] = {}
    with _open(path) as file:
        for column in COLUMNS:
            name = column.name
            if name not in file.names and name not in REQUIRED:
                continue
            if column.kind == "integer":
                columns[name] = file.integers(name)
            elif column.kind == "text":
                columns[name] = _texts(file, name)
            elif column.written == "calibrated":
                columns[name] = _optional_numbers(file, name)
            else:
                values = file.numbers(name, 1)[:, 0]
                columns[name] = values.astype(bool if column.kind == "boolean" else np.float64)
        attrs = _attrs(file.metadata)
    scores = pd.DataFrame(columns, copy=False)
    if not len(scores):
        raise InputError(f"{path} has no rows; score a dataset with episodes")
    _require_weights(path, columns["index"], columns["weight"], "score the data again")
    if not columns["weight"].any():
        raise InputError(f"{path}: every weight is 0; score the data again")
    if "frame_index" not in scores:
        scores["frame_index"] = scores.groupby("episode_index").cumcount()
    # Nearly every file is in order, and sorting would hold it twice.
    episode, frame = np.diff(scores.episode_index), np.diff(scores.frame_index)
    if not ((episode > 0) | ((episode == 0) & (frame >= 0))).all():
        scores = scores.sort_values(["episode_index", "frame_index"], kind="stable", ignore_index=True)
    scores.attrs = attrs
    return scores


def read_weights(path: str | Path, table: EpisodeTable) -> np.ndarray:
    """
    The weight of every frame of a table as the start of a chunk.

    Args:
        path: a parquet with the columns `index` and `weight`; rows of other frames are ignored.
        table: the episodes to train on.

    Returns:
        `(F,)` float64, finite, at least 0, in the order of the table.

    Raises:
        InputError: the file is missing, damaged or of another dataset, a weight is negative, NaN or infinite, a frame
            occurs twice, a frame of the table has no weight, or all of its weights are 0.
    """
    path = Path(path)
    with _open(path) as file:
        index, weight, order = _sorted_weights(file)
        # Other datasets have the same frame ids; the episode of a frame and its position there distinguish them.
        given = {name: file.integers(name) for name in ("episode_index", "frame_index") if name in file.names}
        attrs = _attrs(file.metadata)
    row = np.minimum(np.searchsorted(index, table.frame_id), max(len(index) - 1, 0))
    missing = np.ones(len(table.frame_id), dtype=bool) if len(index) == 0 else index[row] != table.frame_id
    if missing.any():
        raise InputError(
            f"{path} has no weight for frame {table.frame_id[missing][0]} of {table.source!r}; score this dataset"
        )
    fps = attrs.get("fps")
    if isinstance(fps, int | float) and not same_rate(fps, table.fps):
        raise InputError(
            f"{path} was made at {fps:g} fps, and {table.source!r} has {table.fps:g} fps; score this dataset"
        )
    expected = score_file_keys(table)
    for name, column in given.items():
        differs = column[order][row] != expected[name]
        if differs.any():
            first = int(differs.argmax())
            raise InputError(
                f"{path} is of another dataset than {table.source!r}: frame {table.frame_id[first]} has {name} "
                f"{column[order][row[first]]} there and {expected[name][first]} here; score this dataset"
            )
    if not weight[row].any():
        raise InputError(f"{path}: every weight of {table.source!r} is 0; nothing would be learned")
    return weight[row]


def scored_dataset(path: Path) -> str | None:
    """The dataset of a score file as its command named it; None without a file, or one that does not say."""
    try:
        with _open(path) as file:
            name = _attrs(file.metadata).get("dataset")
    except InputError:
        return None
    return name if isinstance(name, str) else None


def warn_of_longer_chunks(path: Path, chunk_size: int) -> None:
    """Warns where weights are for shorter chunks than those of a policy, `chunk_size` actions."""
    with _open(path) as file:
        scored = _attrs(file.metadata).get("chunk_size")
    if isinstance(scored, int) and scored < chunk_size:
        warnings.warn(
            f"weights in {path} are for chunks of {scored} actions, the policy has {chunk_size}: frames up to "
            f"{chunk_size - scored} before a fault keep their weight; score again with --chunk-size {chunk_size}",
            DataWarning,
            stacklevel=2,
        )


def weight_lookup(path: str | Path) -> Callable[[Any], np.ndarray]:
    """
    A function from global frame indices to weights, for a training loop of one's own.

    Example:
        ```python
        weight_of = weight_lookup("scores.parquet")
        for batch in dataloader:
            weight = torch.from_numpy(weight_of(batch["index"]))
        ```

    Args:
        path: a parquet with the columns `index` and `weight`.

    Returns:
        Called with integers of any shape (a sequence, an array, a tensor on the CPU), the weights in that shape,
        float64. It raises `InputError` for a frame that the file does not have.

    Raises:
        InputError: the file is missing or damaged, a weight is negative, NaN or infinite, or a frame occurs twice.
    """
    path = Path(path)
    with _open(path) as file:
        index, weight, _ = _sorted_weights(file)

    def lookup(frames: Any) -> np.ndarray:
        wanted = np.asarray(frames)
        row = np.minimum(np.searchsorted(index, wanted), max(len(index) - 1, 0))
        missing = np.ones(wanted.shape, dtype=bool) if len(index) == 0 else index[row] != wanted
        if missing.any():
            raise InputError(f"{path} has no weight for frame {wanted[missing].flat[0]}; score this dataset")
        return weight[row]

    return lookup


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"score file {path} does not exist; write one with hf-ptr score")
    return open_columns(path)


def _sorted_weights(file: ColumnFile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The frame indices in rising order, their weights, and the rows that they come from."""
    index, weight = file.integers("index"), file.numbers("weight", 1)[:, 0].astype(np.float64)
    _require_weights(file.path, index, weight, "it must be finite and at least 0")
    order = np.argsort(index, kind="stable")
    index, weight = index[order], weight[order]
    twice = index[1:][index[1:] == index[:-1]]
    if len(twice):
        raise InputError(f"{file.path} has two weights for frame {twice[0]}; keep one")
    return index, weight, order


def _require_weights(path: Path, index: np.ndarray, weight: np.ndarray, fix: str) -> None:
    wrong = ~(np.isfinite(weight) & (weight >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: the weight of frame {index[row]} is {weight[row]}; {fix}")


def _optional_numbers(file: ColumnFile, name: str) -> np.ndarray:
    """A column of numbers that may be missing; an element without checks has none, which is not damage."""
    column = file.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"{file.path}: column {name!r} is {column.type}, not numbers")
    return column.to_numpy().astype(np.float64)


def _texts(file: ColumnFile, name: str) -> pd.Series:
    """A column of texts, "" where one is missing; not as a list, which holds a Python object for every row."""
    column = file.column(name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"{file.path}: column {name!r} is {column.type}, not text")
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.path} is damaged: {first_line(error)}") from error
    return column.fill_null("").to_pandas()


def _attrs(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The `attrs` that pandas stores; anything else under its key was not written by hf-ptr."""
    try:
        attrs = json.loads(metadata.get(b"PANDAS_ATTRS", b"{}"))
    except ValueError:
        return {}
    return attrs if isinstance(attrs, dict) else {}
