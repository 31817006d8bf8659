"""The files of `meta/`: JSON, JSON Lines, and the tasks in every form that pandas writes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.lerobot.paths import within
from hf_ptr.errors import InputError, first_line
from hf_ptr.utils.git_lfs import refuse_pointer

TASKS_PARQUET, TASKS_JSONL = "meta/tasks.parquet", "meta/tasks.jsonl"
# In `meta/` of an edited dataset: where its episodes come from.
EDITS_FILE = "hf_ptr_edits.json"
# The column of the instruction where several hold text. pandas names an index without a name by its level.
_INSTRUCTION = ("task", "tasks", "__index_level_0__", "instruction", "language_instruction")


def read_json(path: Path) -> Any:
    """
    The content of a JSON file.

    Raises:
        InputError: the file cannot be read, or is not JSON.
    """
    return _json(_text(path), path)


def read_json_lines(root: Path, name: str, keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """
    The objects of a JSON Lines file, checked to have the given keys with the given types.

    Raises:
        InputError: the file is missing or damaged, or a key is missing, of another type or out of range.
    """
    path = root / within(root, name)
    if not path.is_file():
        raise InputError(f"{root} is not a LeRobotDataset v2.1: {name} is missing")
    records = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = _json(line, f"{path}, line {number}")
        for key, kind in keys.items():
            value = record.get(key) if isinstance(record, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"{path}, line {number}: {key!r} is missing or not of type {kind.__name__}")
            if isinstance(value, int) and not 0 <= value < 2**31:
                raise InputError(f"{path}, line {number}: {key!r} is {value}, out of range")
        records.append(record)
    return records


def read_tasks(root: Path, layout: str, note: Callable[[str], None]) -> tuple[np.ndarray, list[Any]]:
    """
    The task numbers `(T,)` int64 and their instructions, in the order of the file.

    A dataset that has the file of the other version instead is read as well.

    Args:
        root: the dataset's folder.
        layout: `"v3.0"` or `"v2.1"`.
        note: called with a warning where task numbers are derived.

    Raises:
        InputError: the file is missing or damaged, or holds no instructions.
    """
    names = (TASKS_PARQUET, TASKS_JSONL) if layout == "v3.0" else (TASKS_JSONL, TASKS_PARQUET)
    name = next((name for name in names if (root / within(root, name)).is_file()), None)
    if name is None:
        raise InputError(f"{root} is not a LeRobotDataset {layout}: {names[0]} is missing")
    if name == TASKS_PARQUET:
        return _tasks_of_parquet(root / name, note)
    records = read_json_lines(root, name, {"task_index": int, "task": str})
    numbers = np.array([record["task_index"] for record in records], dtype=np.int64)
    return numbers, [record["task"] for record in records]


def _tasks_of_parquet(path: Path, note: Callable[[str], None]) -> tuple[np.ndarray, list[Any]]:
    """Instructions and numbers by type: either may be a column, or the index of a pandas table under any name."""
    with open_columns(path) as file:
        file.require(list(dict.fromkeys(file.names)))
        cells = {name: file.texts(name) for name in file.names}
        texts = [name for name, values in cells.items() if values and any(isinstance(cell, str) for cell in values)]
        chosen = next((name for name in _INSTRUCTION if name in texts), texts[0] if len(texts) == 1 else None)
        if chosen is None:
            held = f"the text columns {', '.join(texts)}" if texts else "no text"
            raise InputError(f"{path} has {held}; it must have one column with the instructions, named 'task'")
        numbered = [name for name in file.names if name not in texts and _integers(cells[name])]
        column = next((name for name in ("task_index", "index", *numbered) if name in numbered), None)
        if column is None:
            # pandas stores an index 0, 1, 2, … by its range alone.
            note(f"{path} has no task_index; the tasks are numbered in the order of the file")
            return np.arange(file.rows), cells[chosen]
        return file.integers(column), cells[chosen]


def _integers(cells: list[Any]) -> bool:
    return all(isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell // 1 for cell in cells)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        refuse_pointer(path)
        # Editors and shells of Windows begin a file with a byte order mark.
        marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
        encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
        return content.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {first_line(error)}") from error


def _json(text: str, where: object) -> Any:
    try:
        # Every line of some JSON Lines files has a separate mark, left by joining files.
        return json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {first_line(error)}") from error
