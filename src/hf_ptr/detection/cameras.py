"""The images of a camera, reduced while they are decoded to what the camera checks read."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import DataWarning, InputError, first_line, nearest
from hf_ptr.utils.printable import printable
from hf_ptr.utils.process_pool import available_cores
from hf_ptr.utils.progress import progress_bar

# Height and width of the thumbnails.
SIZE = 32
# Rows of an image that are read, about; detail is measured along them at full resolution.
ROWS = 48
# Bands of detail, an octave each, the finest first.
BANDS = 6
# The detail of every so manyth image is measured, and stands for the next ones: sharpness changes slowly.
DETAIL_EVERY = 2
# Images that are decoded at once.
BATCH = 4
# Episodes that a warning names.
MOST_NAMED = 8
# Threads that decode; the decoders release the interpreter.
MOST_THREADS = 2


@dataclass(frozen=True, eq=False)
class Track:
    """
    The images of one camera in an episode of T frames.

    Attributes:
        thumbnails: `(T, SIZE, SIZE)` uint8, grey.
        detail: `(T, BANDS)` float32, mean square of the detail along the rows in each octave, the finest first, in
            grey levels; the finest is of two to four pixels. Two images share theirs.
        change: `(T,)` float32, mean absolute difference to the image before, grey levels; 0 for the first.
    """

    thumbnails: np.ndarray
    detail: np.ndarray
    change: np.ndarray

    def __len__(self) -> int:
        return len(self.thumbnails)

    def rows(self, rows: np.ndarray) -> Track:
        """The images of the given rows, for planted faults; the changes are estimated from the thumbnails."""
        taken = Track(self.thumbnails[rows], self.detail[rows], self.change[rows].copy())
        seams = np.flatnonzero(np.diff(rows) != 1) + 1
        step = taken.thumbnails[seams].astype(np.float32) - taken.thumbnails[seams - 1]
        taken.change[seams] = np.abs(step).mean(axis=(1, 2))
        return taken

    def mixed(self, other: Track, chosen: np.ndarray) -> Track:
        """These images, and those of another track of the same length in the frames that are `chosen`, `(T,)` bool."""
        both = Track(
            np.concatenate([self.thumbnails, other.thumbnails]),
            np.concatenate([self.detail, other.detail]),
            np.concatenate([self.change, other.change]),
        )
        return both.rows(np.arange(len(self)) + len(self) * chosen)


def blur_loss(sigma: float) -> np.ndarray:
    """
    What a Gaussian blur leaves of the detail of an ordinary image, `(BANDS,)`, as factors of its mean square.

    Args:
        sigma: standard deviation of the blur, pixels.
    """
    frequency = np.linspace(1e-3, np.pi, 4000)
    # Power of ordinary images along a line falls with the square of the frequency.
    power = frequency**-2.0
    left = []
    passed = np.ones_like(frequency)
    for band in range(BANDS):
        # The second difference of means of 2^band pixels.
        half = 2.0**band * frequency / 2
        response = passed * np.sin(half) ** 4 * power
        left.append((response * np.exp(-((sigma * frequency) ** 2))).sum() / response.sum())
        passed = passed * np.cos(half) ** 2
    return np.array(left)


class _Reducer:
    """Reduces images of one size to thumbnails and detail."""

    def __init__(self, height: int, width: int) -> None:
        self._stride = max(1, height // ROWS)
        self._down, self._across = _means(len(range(0, height, self._stride))), _means(width).T.copy()
        self._last: np.ndarray | None = None

    def reduce(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The thumbnails, the detail in each octave and the change of n consecutive images `(n, height, width, 3)`."""
        # Green is most of the grey, and is read without a conversion.
        grey = images[:, :: self._stride, :, 1].astype(np.float32)
        before = np.concatenate([grey[:1] if self._last is None else self._last, grey[:-1]])
        change = np.abs(grey - before).mean(axis=(1, 2))
        self._last = grey[-1:]
        thumbnails = np.clip(np.rint(self._down @ grey @ self._across), 0, 255).astype(np.uint8)
        count, grey = len(grey), grey[::DETAIL_EVERY]
        detail = np.zeros((len(grey), BANDS), dtype=np.float32)
        for band in range(BANDS):
            if grey.shape[2] < 3:
                # A narrow image has fewer octaves.
                detail[:, band:] = detail[:, max(band - 1, 0), None]
                break
            # The second difference, and not the first, keeps the slopes of coarser structures out of the band.
            bend = (grey[..., 1:-1] - 0.5 * (grey[..., :-2] + grey[..., 2:])).reshape(len(grey), -1)
            detail[:, band] = np.einsum("np,np->n", bend, bend) / bend.shape[1]
            even = grey.shape[2] // 2 * 2
            grey = 0.5 * (grey[..., 0:even:2] + grey[..., 1:even:2])
        return thumbnails, detail.repeat(DETAIL_EVERY, axis=0)[:count], change


def read_tracks(table: EpisodeTable, cameras: Sequence[str] | None = None) -> list[dict[str, Track]]:
    """
    Decode the images of every episode once.

    Episodes whose images are missing or damaged get a [`DataWarning`], and no track of this camera.

    Args:
        table: the episodes.
        cameras: names of the cameras; all by default.

    Returns:
        the tracks of each episode, by the printable name of the camera; a row's image is that of `table.video_frame`.

    Raises:
        InputError: the dataset has no such camera.
    """
    names = tuple(table.videos) if cameras is None else tuple(cameras)
    for name in names:
        if name not in table.videos:
            raise InputError(
                f"dataset {table.source!r} has no camera {name!r} (it has: {', '.join(table.videos) or 'none'})."
                f"{nearest(name, tuple(table.videos))}"
            )
    found: list[dict[str, Track]] = [{} for _ in range(table.num_episodes)]
    usable = [name for name in names if _can_open(table, name)]
    own = threading.local()

    def decode(job: tuple[str, int]) -> tuple[str, int, Track | str]:
        name, position = job
        readers = own.__dict__.setdefault("readers", {})
        if name not in readers:
            readers[name] = FrameReader(name, table.videos[name], table.video_fps, cache_bytes=0)
        try:
            return name, position, _track(table, readers[name], position)
        except (InputError, OSError) as error:
            return name, position, first_line(error)

    jobs = [(name, position) for name in usable for position in range(table.num_episodes)]
    failed: dict[str, list[tuple[int, str]]] = {}
    with progress_bar() as bar, ThreadPoolExecutor(min(MOST_THREADS, available_cores())) as pool:
        task = bar.add_task("Reading images", total=len(jobs))
        for name, position, track in pool.map(decode, jobs):
            if isinstance(track, Track):
                found[position][printable(name)] = track
            else:
                failed.setdefault(name, []).append((int(table.episode_index[position]), track))
            bar.advance(task)
    for name, episodes in failed.items():
        ids = ", ".join(str(episode) for episode, _ in episodes[:MOST_NAMED])
        ids += ", …" if len(episodes) > MOST_NAMED else ""
        _warn(
            f"the images of camera {name!r} cannot be checked for faults in {len(episodes)} of {table.num_episodes} "
            f"episodes ({ids}): {episodes[0][1]}"
        )
    return found


def _can_open(table: EpisodeTable, camera: str) -> bool:
    """Whether the locations of a camera's images can be read, with a warning if not."""
    try:
        len(table.videos[camera])
    except (InputError, OSError) as error:
        _warn(f"the images of camera {camera!r} cannot be checked for faults: {first_line(error)}")
        return False
    return True


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=3)


def _track(table: EpisodeTable, reader: FrameReader, position: int) -> Track:
    start, length = int(table.starts[position]), int(table.lengths[position])
    episode, frames = int(table.episode_index[position]), table.video_frame[start : start + length].tolist()
    thumbnails = np.empty((length, SIZE, SIZE), dtype=np.uint8)
    detail, change = np.empty((length, BANDS), dtype=np.float32), np.empty(length, dtype=np.float32)
    reducer: _Reducer | None = None
    for first in range(0, length, BATCH):
        batch = frames[first : first + BATCH]
        images = reader.read([episode] * len(batch), batch)
        if reducer is None:
            reducer = _Reducer(*images.shape[1:3])
        rows = slice(first, first + len(batch))
        thumbnails[rows], detail[rows], change[rows] = reducer.reduce(images)
    return Track(thumbnails, detail, change)


def _means(count: int) -> np.ndarray:
    """The matrix `(SIZE, count)` of the means over `SIZE` equal parts of `count` values."""
    edges = np.linspace(0, count, SIZE + 1)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(count)
    overlap = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    return (overlap / (high - low)).astype(np.float32)
