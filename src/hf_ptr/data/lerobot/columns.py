"""Reading columns of untrusted parquet files as numpy arrays, with one-line errors for damaged content."""

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
from hf_ptr.utils.git_lfs import refuse_pointer


class RowError(InputError):
    """
    A single row of a column is invalid.

    Attributes:
        row: the row's number in the file.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


class ColumnFile:
    """An open parquet file whose columns are read one at a time, to limit memory.

    Args:
        path: path of the file, for messages.
        file: the open file.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path = path
        self._file = file
        self.names: list[str] = file.schema_arrow.names
        self.rows: int = file.metadata.num_rows
        self.metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}

    def require(self, names: Sequence[str]) -> None:
        """Check that each column occurs exactly once.

        Raises:
            InputError: a column is missing or repeated.
        """
        for name in names:
            if self.names.count(name) != 1:
                raise InputError(f"{self.path} {'repeats' if name in self.names else 'lacks'} the column {name!r}")

    def column(self, name: str) -> pa.ChunkedArray:
        """A column in its stored type.

        Raises:
            InputError: the column is missing, or the file is damaged.
        """
        self.require([name])
        with _damage(self.path):
            # For a single column, threads per row group would only wait for each other.
            column = self._file.read(columns=[name], use_threads=False).column(name)
        # A page with a damaged header may be read without an error and yield fewer rows.
        if len(column) != self.rows:
            raise InputError(f"{self.path} is damaged: column {name!r} has {len(column)} rows of {self.rows}")
        return column

    def blocks(self, name: str) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """Iterate over a column in parts of about ten thousand rows, each with the number of its first row.

        Raises:
            InputError: as `column`.
        """
        self.require([name])
        ends = np.cumsum([self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)])
        # Reading in parts, because arrow needs several times the memory of the rows read at once.
        first = group = 0
        while group < len(ends):
            last = max(group + 1, int(np.searchsorted(ends, first + BLOCK_ROWS, side="right")))
            with _damage(self.path):
                part = self._file.read_row_groups(range(group, last), columns=[name], use_threads=False).column(name)
            if len(part) != ends[last - 1] - first:
                raise InputError(f"{self.path} is damaged: column {name!r} lacks rows from row {first} onward")
            yield first, part
            first, group = int(ends[last - 1]), last

    def row_group_of(self, row: int, name: str) -> tuple[int, pa.ChunkedArray]:
        """
        The row group that contains a row: the number of its first row, and its part of a column.

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
            raise InputError(
                f"{self.path} is damaged: column {name!r} has {len(part)} rows of {rows} around row {row}"
            )
        return int(ends[group]) - rows, part

    def integers(self, name: str) -> np.ndarray:
        """A column of single integers, `(rows,)` int64. Lists of one, and floats that are integers, are accepted.

        Raises:
            InputError: the column is missing, has another type, or has a missing value.
        """
        column = self.column(name)
        try:
            values = self.parse(column, name, 1)[:, 0]
        except RowError:
            raise
        except InputError:
            raise InputError(f"{self.path}: column {name!r} has type {column.type}, expected integers") from None
        if values.dtype.kind == "f":
            exact = np.abs(values) < 2.0**53
            exact &= values == np.trunc(np.where(exact, values, 0))
            if not exact.all():
                row = int(exact.argmin())
                raise RowError(f"{self.path}: column {name!r} is {values[row]} in row {row}, expected integers", row)
        return values.astype(np.int64, copy=False)

    def texts(self, name: str) -> list[object]:
        """A column of texts; cells of another type are returned unchanged.

        Raises:
            InputError: the column is missing, or a text is damaged.
        """
        column = self.column(name)
        with _damage(self.path):
            return column.to_pylist()

    def numbers(self, name: str, width: int) -> np.ndarray:
        """A column of scalars (`width` 1), or of lists, nested or not, of `width` numbers in all: `(rows, width)`.

        The stored type of the numbers is kept.

        Raises:
            InputError: the column is missing, has another width or type, or has a missing value.
        """
        return self.parse(self.column(name), name, width)

    def parse(
        self, column: pa.ChunkedArray, name: str, width: int, row_numbers: np.ndarray | None = None
    ) -> np.ndarray:
        """Convert a column, or a part of one, as in `numbers`; `row_numbers (rows,)` are used in messages."""
        where = f"{self.path}: column {name!r}"

        def number_of(row: int) -> int:
            return row if row_numbers is None else int(row_numbers[row])

        if column.null_count:
            row = number_of(pc.is_null(column).index(True).as_py())
            raise RowError(f"{where} has a missing value in row {row}", row)
        # `datasets` stores arrays of several dimensions in types of its own, which are nested lists.
        chunks = [_stored(chunk) for chunk in column.chunks]
        values = pa.concat_arrays(chunks) if chunks else pa.array([], column.type)
        kind, each = values.type, 1
        while _is_list(kind) and each <= width:
            if values.null_count:
                row = number_of(pc.is_null(values).index(True).as_py() // each)
                raise RowError(f"{where} has a missing value in row {row}", row)
            sizes = _as_numpy(pc.list_value_length(values))
            # The innermost lists complete the width; those around them only have to be of one size.
            expected = width // each if not _is_list(kind.value_type) else max(1, int(sizes[0])) if len(sizes) else 1
            wrong = np.flatnonzero(sizes != expected)
            if len(wrong):
                row = number_of(int(wrong[0]) // each)
                raise RowError(f"{where} has {sizes[wrong[0]]} values in row {row}, expected {expected}", row)
            values, each = values.flatten(), each * expected
            kind = values.type
        if len(column) and each != width:
            count = f"lists of {width} numbers" if width != 1 else "single numbers"
            raise InputError(f"{where} has type {column.type}, expected {count}")
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise InputError(f"{where} has type {kind}, expected numbers")
        if values.null_count:
            row = number_of(pc.is_null(values).index(True).as_py() // width)
            raise RowError(f"{where} has a missing value in row {row}", row)
        return _as_numpy(values).reshape(len(column), width)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _stored(values: pa.Array) -> pa.Array:
    return values.storage if isinstance(values, pa.ExtensionArray) else values


def _as_numpy(values: pa.Array) -> np.ndarray:
    """Numbers without missing values as a numpy view. Not `Array.to_numpy`, which loads pandas."""
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
    # Not `read_table`, which parses a folder name that contains '=' as a partition.
    with _damage(path):
        file = pq.ParquetFile(path)
        opened = ColumnFile(path, file)
    with file:
        yield opened


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse_pointer(path)
        raise InputError(f"{path} is damaged: {first_line(error)}") from error


def episode_runs(episode_index: np.ndarray) -> dict[int, list[slice]]:
    """The runs of adjacent rows of each episode, from a file's column `episode_index (rows,)`."""
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
        runs: the result of `episode_runs`.
        frame_index: the file's column `frame_index`, `(rows,)`.
        episode, length: id and number of frames of the episode, from the metadata.
        path: path of the file, for messages.

    Raises:
        InputError: the number of rows differs, or the rows are not adjacent or not in order.
    """
    found = runs.get(episode, [])
    if len(found) > 1:
        raise InputError(f"{path}: the rows of episode {episode} are not adjacent; rewrite the dataset")
    rows = found[0] if found else slice(0, 0)
    if rows.stop - rows.start != length:
        raise InputError(f"{path}: episode {episode} has {rows.stop - rows.start} rows, its metadata list {length}")
    wrong = frame_index[rows] != np.arange(length)
    if wrong.any():
        raise InputError(
            f"{path}: episode {episode} is out of order: frame_index is wrong in its row {wrong.argmax()}"
        )
    return rows
