"""Stored columns that depend on where an episode begins and ends, for parts of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

# Seconds by which the time of a note may be before that of its frame.
SAME_FRAME = 1e-3
DONE = "next.done"
# Fields of a note that distinguish what it states; among notes of equal ones, the last applies.
SUBJECT = ("role", "style", "camera")


def with_moved_notes(rows: pa.Table, stored: np.ndarray, first: int, times: np.ndarray) -> pa.Table:
    """
    The rows with the times of notes counted from the first row.

    Notes are columns of lists of structures with a `timestamp`, such as LeRobot's `language_persistent`. A note
    applies until the next one of its subject. The last ones before the first row get its time; other earlier ones, and
    those after the last row, are left out.

    Args:
        rows: the rows of the part.
        stored: `(length,)`, time stamps of the whole episode, seconds.
        first: position of the first row in the episode.
        times: `(rows,)`, new time stamps of the rows, seconds.
    """
    for place, field in enumerate(rows.schema):
        if not _has_notes(field.type):
            continue
        cells = rows.column(place).to_pylist()
        moved: list[Any] = []
        for number, cell in enumerate(cells):
            same = number > 0 and cell == cells[number - 1]
            moved.append(moved[-1] if same else cell and _moved(cell, stored, first, times))
        rows = rows.set_column(place, field, pa.array(moved, field.type))
    return rows


def with_done_at_end(rows: pa.Table, episode: pa.Table) -> pa.Table:
    """The rows with `next.done` set in the last one, if the last row of the episode has it set."""
    place = rows.schema.get_field_index(DONE)
    if place < 0 or not np.any(episode.column(DONE)[-1].as_py()):
        return rows
    column = rows.column(place)
    last = episode.column(DONE).slice(len(episode) - 1)
    return rows.set_column(
        place, rows.schema.field(place), pa.chunked_array([*column.slice(0, len(rows) - 1).chunks, *last.chunks])
    )


def _has_notes(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    place = kind.value_type.get_field_index("timestamp")
    return place >= 0 and pa.types.is_floating(kind.value_type.field(place).type)


def _moved(notes: Sequence[dict[str, Any]], stored: np.ndarray, first: int, times: np.ndarray) -> list[dict[str, Any]]:
    """The notes of the part, with the times of its rows."""
    since = np.array([note["timestamp"] for note in notes], dtype=np.float64)
    frames = np.searchsorted(stored.astype(np.float64), since + SAME_FRAME, side="right") - 1
    subjects = [tuple(note.get(name) for name in SUBJECT) for note in notes]
    latest: dict[tuple[Any, ...], float] = {}
    for subject, time, frame in zip(subjects, since.tolist(), frames.tolist(), strict=True):
        if frame <= first:
            latest[subject] = max(time, latest.get(subject, -np.inf))
    kept = []
    for note, subject, time, frame in zip(notes, subjects, since.tolist(), frames.tolist(), strict=True):
        if frame <= first and time == latest[subject]:
            kept.append({**note, "timestamp": float(times[0])})
        elif first < frame < first + len(times):
            kept.append({**note, "timestamp": float(times[frame - first])})
    return kept
