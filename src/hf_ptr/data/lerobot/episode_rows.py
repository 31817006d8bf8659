"""The rows of single episodes, as stored, from the tables of a dataset v3.0 or v2.x, with index columns completed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_ptr.data.lerobot.columns import ColumnFile, open_columns, rows_of_episode
from hf_ptr.data.lerobot.index_columns import IndexColumns
from hf_ptr.data.lerobot.metadata import Metadata, warn
from hf_ptr.data.lerobot.stored_images import encoded_image
from hf_ptr.errors import InputError, first_line


@dataclass(frozen=True)
class _Opened:
    """
    A data file in memory.

    Attributes:
        name: its path in the dataset.
        file: its columns, for parsing and messages.
        table: its content.
        rows: the rows of the listed episodes by id.
        frame_index, task_index: `(rows,)` int64, stored or derived.
        timestamp: `(rows,)`, stored; None if it has none.
    """

    name: str
    file: ColumnFile
    table: pa.Table
    rows: Mapping[int, slice]
    frame_index: np.ndarray
    task_index: np.ndarray
    timestamp: np.ndarray | None


@dataclass(frozen=True)
class Rows:
    """
    The rows of an episode.

    Attributes:
        file: their data file, for parsing and messages.
        table: the rows, as stored.
        timestamp: `(length,)`, seconds; the nominal times `frame / fps` if the file has none.
        frame_index, task_index: `(length,)` int64.
    """

    file: ColumnFile
    table: pa.Table
    timestamp: np.ndarray
    frame_index: np.ndarray
    task_index: np.ndarray


class EpisodeRows:
    """
    Reads the rows of episodes. The last file stays in memory, since adjacent episodes share one.

    Args:
        root: the dataset's folder.
        metadata: its metadata.
        positions: positions in the metadata of the episodes that will be read.
    """

    def __init__(self, root: Path, metadata: Metadata, positions: np.ndarray) -> None:
        self._root, self._metadata, self._positions = root, metadata, positions
        self.index = IndexColumns(root, metadata, warn)
        self._opened: _Opened | None = None

    def read(self, position: int) -> Rows:
        """
        The rows of the episode at a position of the metadata.

        Raises:
            InputError: they cannot be read, or the metadata disagree.
        """
        opened = self._open(self._metadata.files[position])
        here = opened.rows[int(self._metadata.episode_index[position])]
        length = here.stop - here.start
        nominal = (np.arange(length) / float(self._metadata.info["fps"])).astype(np.float32)
        return Rows(
            opened.file,
            opened.table.slice(here.start, length),
            nominal if opened.timestamp is None else opened.timestamp[here],
            opened.frame_index[here],
            opened.task_index[here],
        )

    def frame_ids(self) -> np.ndarray:
        """The number of each frame of all episodes to read, `(F,)` int64; derived if it is missing or repeated."""
        parts, whole = [], True
        for name in dict.fromkeys(self._metadata.files[position] for position in self._positions.tolist()):
            with open_columns(self._root / name) as file:
                found = self.index.index(file)
                whole = whole and found is not None
                if found is not None:
                    runs = self.index.runs(file, name)
                    parts += [found[run] for episode in self._episodes_in(name) for run in runs.get(episode, [])]
        return self.index.frame_ids(np.concatenate(parts) if whole else None, self._positions)

    def _episodes_in(self, name: str) -> list[int]:
        metadata = self._metadata
        return [
            int(metadata.episode_index[position])
            for position in self._positions.tolist()
            if metadata.files[position] == name
        ]

    def _open(self, name: str) -> _Opened:
        if self._opened is not None and self._opened.name == name:
            return self._opened
        self._opened = None
        path = self._root / name
        lengths = dict(zip(self._metadata.episode_index.tolist(), self._metadata.lengths.tolist(), strict=True))
        with open_columns(path) as file:
            runs = self.index.runs(file, name)
            frame_index = self.index.frame_index(file, runs)
            rows = {
                episode: rows_of_episode(runs, frame_index, episode, lengths[episode], path)
                for episode in dict.fromkeys(self._episodes_in(name))
            }
            task_index = self.index.task_index(file, rows)
            times = file.numbers("timestamp", 1)[:, 0] if self.index.timestamp(file) else None
        try:
            with pq.ParquetFile(path) as stored:
                table = stored.read()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged: {first_line(error)}") from error
        self._opened = _Opened(name, file, table, rows, frame_index, task_index, times)
        return self._opened


def with_index(rows: pa.Table, column: str, values: np.ndarray, *, keep: bool) -> pa.Table:
    """
    The rows with an index column of single numbers.

    Args:
        rows: the rows.
        column: name of the column.
        values: `(rows,)`.
        keep: whether a stored column of the right type that has these values keeps its bits.
    """
    kind = pa.float32() if column == "timestamp" else pa.int64()
    if column not in rows.schema.names:
        return rows.append_column(column, pa.array(values).cast(kind))
    stored = rows.schema.field(column).type
    if column == "timestamp" and pa.types.is_floating(stored):
        kind = stored
        if keep:
            return rows
    elif keep and pa.types.is_integer(stored) and np.array_equal(rows[column].to_numpy(), values):
        return rows
    return rows.set_column(rows.schema.get_field_index(column), column, pa.array(values).cast(kind))


def with_embedded_images(rows: pa.Table, camera: str, root: Path) -> pa.Table:
    """The rows with images embedded that were stored in separate files, which v3.0 does not support."""
    column = rows[camera]
    kind = column.type
    if (
        not pa.types.is_struct(kind)
        or kind.get_field_index("bytes") < 0
        or not pc.struct_field(column, "bytes").null_count
    ):
        return rows
    cells = [None if cell is None else {**cell, "bytes": encoded_image(cell, root)} for cell in column.to_pylist()]
    return rows.set_column(rows.schema.get_field_index(camera), rows.schema.field(camera), pa.array(cells, kind))
