"""Columns of a parquet file that may hold anything, as numpy arrays or as one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_ptr.errors import InputError


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def count_rows(path: Path, columns: Sequence[str]) -> int:
    """Rows of a parquet file, read from its footer alone.

    Raises:
        InputError: the file is damaged, or lacks or repeats one of the columns.
    """
    try:
        with pq.ParquetFile(path) as file:
            present, rows = file.schema_arrow.names, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from error
    for column in columns:
        if present.count(column) != 1:
            raise InputError(f"{path} {'lacks' if column not in present else 'repeats'} the column {column!r}")
    return rows


def read_numbers(path: Path, widths: Mapping[str, int], integers: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Numeric columns of a parquet file, each in its own number type.

    Args:
        path: the file.
        widths: columns to read and the number of values of a row, `(rows, width)` each.
        integers: further columns, single integers, `(rows,)` int64 each.

    Raises:
        InputError: the file is damaged, or a column is missing, has another width or type, or misses a value.
    """
    names = [*widths, *integers]
    count_rows(path, names)
    table = read_table(path, names)
    for name in integers:
        if not pa.types.is_integer(table.schema.field(name).type):
            raise InputError(f"{path}: column {name!r} is {table.schema.field(name).type}, not an integer")
    numbers = {name: _numbers(table.column(name), width, path, name) for name, width in widths.items()}
    for name in integers:
        numbers[name] = _numbers(table.column(name), 1, path, name)[:, 0].astype(np.int64)
    return numbers


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file's table.

    Raises:
        InputError: the file is damaged.
    """
    # ParquetFile and not `read_table`, which would take a folder name with '=' in it for a partition.
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from error


def _numbers(column: pa.ChunkedArray, width: int, path: Path, name: str) -> np.ndarray:
    """A scalar or list column as `(rows, width)`."""
    where = f"{path}: column {name!r}"
    rows = len(column)
    if column.null_count:
        raise InputError(f"{where} has a missing value in row {pc.is_null(column).index(True).as_py()}")
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        sizes = pc.list_value_length(values)
        row = pc.index(pc.not_equal(sizes, width), True).as_py()
        if row >= 0:
            raise InputError(f"{where} has {sizes[row]} values in row {row}, its feature {width}")
        values = values.flatten()
        kind = values.type
    elif width != 1:
        raise InputError(f"{where} holds {kind}, its feature {width} numbers")
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{where} holds {kind}, not numbers")
    if values.null_count:
        raise InputError(f"{where} has a missing value in row {pc.is_null(values).index(True).as_py() // width}")
    return values.to_numpy(zero_copy_only=False).reshape(rows, width)
