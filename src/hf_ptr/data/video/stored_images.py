"""Pictures that lie in the table files themselves (`dtype: image`), read when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ptr.data.lerobot.columns import ColumnFile, episode_runs, open_columns
from hf_ptr.data.lerobot.paths import within
from hf_ptr.errors import InputError, first_line

# What LeRobot and `datasets` store; Pillow knows dozens more, some of which run other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class StoredImageClip:
    """
    Where the pictures of an episode lie.

    Attributes:
        path: the table's file.
        camera: its column.
        start: the episode's first row in the file.
        frames: how many rows it has.
        root: the dataset's folder, to which the paths of pictures are relative that are not in the table itself.
    """

    path: Path
    camera: str
    start: int
    frames: int
    root: Path

    def place(self, frame: int, fps: float) -> float:
        """The row of a frame in the file."""
        return self.start + frame

    def open(self, fps: float, size: tuple[int, int] | None) -> StoredImageFile:
        """The file, from which pictures come in `size`; at whatever rate they were taken."""
        return StoredImageFile(self, size)


class StoredImageClips(Mapping[int, StoredImageClip]):
    """
    The clips of a camera by episode id; an episode's file is opened when it is asked for.

    Args:
        root: the dataset's folder.
        camera: the feature.
        tables: by episode id, its frames and its data file, relative to the folder.
    """

    def __init__(self, root: Path, camera: str, tables: Mapping[int, tuple[int, str]]) -> None:
        self._root, self._camera, self._tables = root, camera, tables
        self._starts: dict[str, dict[int, int]] = {}

    def __getitem__(self, episode: int) -> StoredImageClip:
        length, name = self._tables[episode]
        if name not in self._starts:
            with open_columns(self._root / name) as file:
                runs = episode_runs(file.integers("episode_index"))
            self._starts[name] = {each: rows[0].start for each, rows in runs.items()}
        if episode not in self._starts[name]:
            raise InputError(f"{self._root / name} has no rows of episode {episode}")
        return StoredImageClip(self._root / name, self._camera, self._starts[name][episode], length, self._root)

    def __contains__(self, episode: object) -> bool:
        return episode in self._tables

    def __iter__(self) -> Iterator[int]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


class StoredImageFile:
    """
    A table's file that pictures are read from, a row group at a time, of which none is kept between two batches.

    Args:
        clip: one of the file's.
        size: `(height, width)` that pictures are scaled to; None leaves them as they are.
    """

    def __init__(self, clip: StoredImageClip, size: tuple[int, int] | None) -> None:
        self._clip, self._size = clip, size
        self._opened = open_columns(clip.path)
        self._file: ColumnFile = self._opened.__enter__()
        # The row group that was read last, and its first row.
        self._rows: Any = ()
        self._first = 0

    def frame_at(self, place: float) -> np.ndarray | None:
        """The picture in a row, `(height, width, 3)` uint8 RGB; None when there is no such row."""
        row = round(place)
        if not 0 <= row < self._file.rows:
            return None
        if not self._first <= row < self._first + len(self._rows):
            self._first, self._rows = self._file.row_group_of(row, self._clip.camera)
        return self._decoded(self._rows[row - self._first].as_py(), row)

    def rest(self) -> None:
        """Lets go of the row group."""
        self._rows, self._first = (), 0

    def close(self) -> None:
        """Frees the file."""
        self._opened.__exit__(None, None, None)

    def _decoded(self, cell: Any, row: int) -> np.ndarray:
        where = f"{self._clip.path}: the picture {self._clip.camera!r} in row {row}"
        encoded = encoded_image(cell, self._clip.root)
        if encoded is None:
            raise InputError(f"{where} is missing")
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
                shown = picture.convert("RGB")
            if self._size is not None and self._size != (shown.height, shown.width):
                shown = shown.resize(self._size[::-1], Image.Resampling.BOX)
            return np.array(shown)
        # What a damaged picture raises is up to the decoder of its format.
        except Exception as error:
            raise InputError(f"{where} is damaged: {first_line(error)}") from error


def encoded_image(cell: Any, root: Path) -> bytes | None:
    """
    A cell of an image column as encoded bytes: its own, or those of the file that it names; None without either.

    Raises:
        InputError: the file is missing, or does not lie in the dataset's folder.
    """
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, dict):
        return None
    if isinstance(cell.get("bytes"), bytes):
        return cell["bytes"]
    if not isinstance(cell.get("path"), str):
        return None
    try:
        return (root / within(root, cell["path"])).read_bytes()
    except OSError as error:
        raise InputError(f"{root}: the picture {cell['path']} cannot be read: {first_line(error)}") from error


def png(picture: np.ndarray) -> bytes:
    """A picture `(height, width, 3)` uint8 as PNG, which loses nothing."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=3)
    return out.getvalue()
