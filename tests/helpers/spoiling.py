"""Functions that damage a dataset's folder, each in one way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Spoil = Callable[[Path], None]


def edit_info(**changes: Any) -> Spoil:
    def edit(root: Path) -> None:
        info = json.loads((root / "meta/info.json").read_text())
        info.update(changes)
        (root / "meta/info.json").write_text(json.dumps({k: v for k, v in info.items() if v is not ...}))

    return edit


def edit_feature(name: str, **changes: Any) -> Spoil:
    def edit(root: Path) -> None:
        info = json.loads((root / "meta/info.json").read_text())
        info["features"].setdefault(name, {}).update(changes)
        (root / "meta/info.json").write_text(json.dumps(info))

    return edit


def edit_rows(file: str, column: str, change: Callable[[list[Any]], Any]) -> Spoil:
    """Change a parquet column in place, or drop it when `change` returns None."""

    def edit(root: Path) -> None:
        table = pq.ParquetFile(root / file).read()
        position = table.column_names.index(column)
        values = table[column].to_pylist()
        changed = change(values)
        kind = table.schema.field(column).type
        if changed is None:
            table = table.remove_column(position)
        else:
            typed = pa.array(changed, kind) if isinstance(changed, list) else changed
            table = table.set_column(position, column, typed)
        pq.write_table(table, root / file)

    return edit


def set_row(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def cut_rows(file: str, count: int) -> Spoil:
    def edit(root: Path) -> None:
        pq.write_table(pq.ParquetFile(root / file).read().slice(0, count), root / file)

    return edit


def remove(name: str) -> Spoil:
    def edit(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def link(name: str) -> Spoil:
    """Move a file or folder next to the dataset and replace it by a link."""

    def edit(root: Path) -> None:
        path, outside = root / name, root.parent / "outside"
        path.rename(outside)
        path.symlink_to(outside)

    return edit


def write(name: str, content: str | bytes) -> Spoil:
    def edit(root: Path) -> None:
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def damage(name: str, keep: int) -> Spoil:
    def edit(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:keep])

    return edit
