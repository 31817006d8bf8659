"""Columns of a parquet file that may hold anything, as numpy arrays or as one line that says what is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_ptr.data.memmap import BLOCK_ROWS
from hf_ptr.errors import InputError, first_line


class RowError(InputError):
    """
    One row of a column is wrong.

    Attributes:
        row: which.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


class ColumnFile:
    """An open parquet file whose columns are read one at a time, so that no more than one is held twice.

    Args:
        path: the file.
        file: the same, open.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path = path
        self._file = file
        self.names: list[str] = file.schema_arrow.names
        self.rows: int = file.metadata.num_rows
        self.metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}

    def require(self, names: Sequence[str]) -> None:
        """Check that columns are there, once each.

        Raises:
            InputError: the first that is not.
        """
        for name in names:
            if self.names.count(name) != 1:
                raise InputError(f"{self.path} {'repeats' if name in self.names else 'lacks'} the column {name!r}")

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as it is stored.

        Raises:
            InputError: it is not there, or the file is damaged.
        """
        self.require([name])
        with _damage(self.path):
            # Of one column, threads of its row groups would only wait for each other.
            column = self._file.read(columns=[name], use_threads=False).column(name)
        # A page whose header is damaged may be read without complaint, and hold fewer rows.
        if len(column) != self.rows:
            raise InputError(f"{self.path} is damaged: column {name!r} has {len(column)} rows of {self.rows}")
        return column

    def blocks(self, name: str) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """A column in parts of some ten thousand rows, each with the number of its first row.

        Raises:
            InputError: as `column`.
        """
        self.require([name])
        ends = np.cumsum([self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)])
        # What arrow needs beside the rows that are read at a time is several times their size.
        first = group = 0
        while group < len(ends):
            last = max(group + 1, int(np.searchsorted(ends, first + BLOCK_ROWS, side="right")))
            with _damage(self.path):
                part = self._file.read_row_groups(range(group, last), columns=[name], use_threads=False).column(name)
            if len(part) != ends[last - 1] - first:
                raise InputError(f"{self.path} is damaged: column {name!r} lacks rows from row {first} on")
            yield first, part
            first, group = int(ends[last - 1]), last

    def row_group_of(self, row: int, name: str) -> tuple[int, pa.ChunkedArray]:
        """
        The number of the first row, and the part of a column, of the row group in which a row lies.

        Raises:
            InputError: as `column`.
        """
        self.require([name])
        ends = np.cumsum([self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)])
        group = int(np.searchsorted(ends, row, side="right"))
        with _damage(self.path):
            part = self._file.read_row_group(group, columns=[name], use_threads=False).column(name)
        rows = self._file.metadata.row_group(group).num_rows
        if len(part) != rows:
            raise InputError(f"{self.path} is damaged: column {name!r} has {len(part)} rows of {rows} about row {row}")
        return int(ends[group]) - rows, part

    def integers(self, name: str) -> np.ndarray:
        """A column of single integers, `(rows,)` int64.

        Raises:
            InputError: it is not there, holds something else, or misses a value.
        """
        column = self.column(name)
        if not pa.types.is_integer(column.type):
            raise InputError(f"{self.path}: column {name!r} is {column.type}, not an integer")
        return self.parse(column, name, 1)[:, 0].astype(np.int64, copy=False)

    def texts(self, name: str) -> list[object]:
        """A column of texts; what is none of them, as it is stored.

        Raises:
            InputError: it is not there, or a text is damaged.
        """
        column = self.column(name)
        with _damage(self.path):
            return column.to_pylist()

    def numbers(self, name: str, width: int) -> np.ndarray:
        """A column of numbers, single (`width` 1) or in lists of `width`: `(rows, width)` in their own type.

        Raises:
            InputError: it is not there, has another width or type, or misses a value.
        """
        return self.parse(self.column(name), name, width)

    def parse(
        self, column: pa.ChunkedArray, name: str, width: int, row_numbers: np.ndarray | None = None
    ) -> np.ndarray:
        """A column, or a part of one, as `numbers` gives it; `row_numbers (rows,)` are for messages."""
        where = f"{self.path}: column {name!r}"

        def number_of(row: int) -> int:
            return row if row_numbers is None else int(row_numbers[row])

        if column.null_count:
            row = number_of(pc.is_null(column).index(True).as_py())
            raise RowError(f"{where} has a missing value in row {row}", row)
        values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        kind = values.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            sizes = _as_numpy(pc.list_value_length(values))
            wrong = np.flatnonzero(sizes != width)
            if len(wrong):
                row = number_of(int(wrong[0]))
                raise RowError(f"{where} has {sizes[wrong[0]]} values in row {row}, its feature {width}", row)
            values = values.flatten()
            kind = values.type
        elif width != 1:
            raise InputError(f"{where} holds {kind}, its feature {width} numbers")
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise InputError(f"{where} holds {kind}, not numbers")
        if values.null_count:
            row = number_of(pc.is_null(values).index(True).as_py() // width)
            raise RowError(f"{where} has a missing value in row {row}", row)
        return _as_numpy(values).reshape(len(column), width)


def _as_numpy(values: pa.Array) -> np.ndarray:
    """Numbers without gaps, not copied; arrow's own way there, as its comparison with a number, loads pandas."""
    kind = values.type
    if not len(values):
        return np.empty(0, dtype=kind.to_pandas_dtype())
    if pa.types.is_boolean(kind):
        return np.from_dlpack(values.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(values)


@contextmanager
def open_columns(path: Path) -> Iterator[ColumnFile]:
    """Open a parquet file.

    Raises:
        InputError: the file is damaged.
    """
    # ParquetFile and not `read_table`, which would take a folder name with '=' in it for a partition.
    with _damage(path):
        file = pq.ParquetFile(path)
        opened = ColumnFile(path, file)
    with file:
        yield opened


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from error


def episode_runs(episode_index: np.ndarray) -> dict[int, list[slice]]:
    """The runs of adjacent rows of each episode in a file's column `episode_index (rows,)`."""
    edges = np.flatnonzero(np.diff(episode_index)) + 1
    runs: dict[int, list[slice]] = {}
    for start, stop in itertools.pairwise([0, *edges.tolist(), len(episode_index)]):
        if start < stop:
            runs.setdefault(int(episode_index[start]), []).append(slice(start, stop))
    return runs


def rows_of_episode(
    runs: Mapping[int, Sequence[slice]], frame_index: np.ndarray, episode: int, length: int, path: Path
) -> slice:
    """
    The rows of an episode in its file.

    Args:
        runs: as `episode_runs` gives them.
        frame_index: that column of the file, `(rows,)`.
        episode, length: its id, and its frames as the metadata say.
        path: of the file.

    Raises:
        InputError: they are not as many, not adjacent or not in order.
    """
    found = runs.get(episode, [])
    if len(found) > 1:
        raise InputError(f"{path}: the rows of episode {episode} are not adjacent; write the dataset anew")
    rows = found[0] if found else slice(0, 0)
    if rows.stop - rows.start != length:
        raise InputError(f"{path}: episode {episode} has {rows.stop - rows.start} rows, its metadata say {length}")
    wrong = frame_index[rows] != np.arange(length)
    if wrong.any():
        raise InputError(
            f"{path}: episode {episode} is out of order: its row {wrong.argmax()} has another frame_index"
        )
    return rows
