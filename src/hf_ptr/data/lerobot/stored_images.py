"""Images stored in the table files (`dtype: image`), decoded on demand."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ptr.data.lerobot.columns import ColumnFile, episode_runs, open_columns
from hf_ptr.data.lerobot.paths import within
from hf_ptr.errors import InputError, first_line

# The formats that LeRobot and `datasets` write. Pillow supports dozens more, some of which run external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class StoredImageClip:
    """
    The location of an episode's images in a table file.

    Attributes:
        path: the table file.
        camera: the image column.
        start: the episode's first row in the file.
        frames: number of rows of the episode.
        root: the dataset's folder; image files named in the table have paths relative to it.
    """

    path: Path
    camera: str
    start: int
    frames: int
    root: Path

    def position(self, frame: int, fps: float) -> int:
        """The row of a frame in the file; `fps` is not used."""
        return self.start + frame

    def open(self, size: tuple[int, int] | None) -> StoredImageFile:
        """Open the file; its images are scaled to `size` (height, width)."""
        return StoredImageFile(self, size)


class StoredImageClips(Mapping[int, StoredImageClip]):
    """
    The clips of a camera by episode id; a file is opened when one of its episodes is first accessed.

    Args:
        root: the dataset's folder.
        camera: the image feature.
        tables: number of frames and data file relative to `root`, by episode id, in the order of the rows.
    """

    def __init__(self, root: Path, camera: str, tables: Mapping[int, tuple[int, str]]) -> None:
        self._root, self._camera, self._tables = root, camera, tables
        self._starts: dict[str, dict[int, int]] = {}

    def __getitem__(self, episode: int) -> StoredImageClip:
        length, name = self._tables[episode]
        if name not in self._starts:
            self._starts[name] = self._starts_in(name)
        if episode not in self._starts[name]:
            raise InputError(f"{self._root / name} has no rows of episode {episode}")
        return StoredImageClip(self._root / name, self._camera, self._starts[name][episode], length, self._root)

    def _starts_in(self, name: str) -> dict[int, int]:
        """The first row of each episode in a file; without `episode_index`, by the lengths of its episodes."""
        with open_columns(self._root / name) as file:
            if "episode_index" in file.names:
                runs = episode_runs(file.integers("episode_index"))
                return {each: rows[0].start for each, rows in runs.items()}
        lengths = {each: length for each, (length, table) in self._tables.items() if table == name}
        return dict(zip(lengths, itertools.accumulate(lengths.values(), initial=0), strict=False))

    def __contains__(self, episode: object) -> bool:
        return episode in self._tables

    def __iter__(self) -> Iterator[int]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


class StoredImageFile:
    """
    An open table file from which images are read one row group at a time.

    Args:
        clip: any clip in the file.
        size: `(height, width)` to which images are scaled; None keeps their size.
    """

    def __init__(self, clip: StoredImageClip, size: tuple[int, int] | None) -> None:
        self._clip, self._size = clip, size
        self._opened = open_columns(clip.path)
        self._file: ColumnFile = self._opened.__enter__()
        # The last row group read, and the number of its first row.
        self._rows: Any = ()
        self._first = 0

    def frame_at(self, position: int) -> np.ndarray | None:
        """The image in a row, `(height, width, 3)` uint8 RGB; None if the row does not exist."""
        if not 0 <= position < self._file.rows:
            return None
        if not self._first <= position < self._first + len(self._rows):
            self._first, self._rows = self._file.row_group_of(position, self._clip.camera)
        return self._decoded(self._rows[position - self._first].as_py(), position)

    def release(self) -> None:
        """Release the row group, so that none is held between two batches."""
        self._rows, self._first = (), 0

    def close(self) -> None:
        """Close the file."""
        self._opened.__exit__(None, None, None)

    def _decoded(self, cell: Any, row: int) -> np.ndarray:
        where = f"{self._clip.path}: image {self._clip.camera!r} in row {row}"
        encoded = encoded_image(cell, self._clip.root)
        if encoded is None:
            raise InputError(f"{where} is missing")
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as stored:
                if stored.mode.startswith(("I", "F")):
                    raise InputError(
                        f"{where} has pixels of more than 8 bits ({stored.mode}), such as depth; leave the camera out"
                    )
                image = stored.convert("RGB")
            if self._size is not None and self._size != (image.height, image.width):
                image = image.resize(self._size[::-1], Image.Resampling.BOX)
            return np.array(image)
        # The exception for a damaged image depends on the decoder of its format.
        except Exception as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where} is damaged: {first_line(error)}") from error


def encoded_image(cell: Any, root: Path) -> bytes | None:
    """
    The encoded bytes of a cell of an image column: stored in the cell, or in the file that it names; None if neither.

    Raises:
        InputError: the file is missing, or is outside the dataset's folder.
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
        raise InputError(f"{root}: image {cell['path']} cannot be read: {first_line(error)}") from error


def png(image: np.ndarray) -> bytes:
    """An image `(height, width, 3)` uint8 as PNG, which is lossless."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=3)
    return out.getvalue()
