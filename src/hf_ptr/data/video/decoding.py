"""Random access to single frames of videos: decoding on demand, with a cache of the last frames."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from hf_ptr.data.video.frame_index import read_frame_index
from hf_ptr.data.video.opened_video import OpenVideo
from hf_ptr.data.video.placement import VideoFile
from hf_ptr.errors import InputError, first_line

CACHE_BYTES = 512 * 1024**2
# Maximum number of open files in each process.
OPEN_FILES = 32
# Files opened by the parent process, see `FrameReader.read`.
_INHERITED: list[object] = []


class OpenedFile(Protocol):
    """An open file from which images are read."""

    def frame_at(self, position: int) -> np.ndarray | None:
        """The image at a position returned by `Clip.position`, `(height, width, 3)` uint8 RGB; None if absent."""
        ...

    def release(self) -> None:
        """Release the buffers that are only useful for neighbouring images."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Clip(Protocol):
    """The location of an episode's images: `frames` images in the file `path`."""

    @property
    def path(self) -> Path: ...

    @property
    def frames(self) -> int: ...

    def position(self, frame: int, fps: float) -> int:
        """The position of a frame in the file, for `OpenedFile.frame_at`; `fps` is the rate of the table.

        The file must exist, so a file that is downloaded on demand must have been opened.
        """
        ...

    def open(self, size: tuple[int, int] | None) -> OpenedFile:
        """Open the file; its images are scaled to `size` (height, width)."""
        ...


@dataclass(frozen=True)
class VideoClip:
    """
    The location of an episode's frames in a video file.

    Attributes:
        path: the video file.
        start: seconds from the start of the file to the episode's first frame.
        frames: number of frames; frames of another episode may follow.
        episode: id of the episode in `file`.
        file: all episodes in the file; by default this one alone.
    """

    path: Path
    start: float
    frames: int
    episode: int = 0
    file: VideoFile = field(default=None, compare=False, repr=False)  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        if self.file is None:
            object.__setattr__(self, "file", VideoFile(self.path, {self.episode: (self.start, self.frames)}))

    def position(self, frame: int, fps: float) -> int:
        """The position of a frame in the file's index."""
        return self.file.frame_of(self.episode, frame, fps)

    def open(self, size: tuple[int, int] | None) -> OpenedFile:
        """Open the video; its frames are scaled to `size` (height, width)."""
        return OpenVideo(self.path, self.file.index, size)


@dataclass(frozen=True)
class VideoHeader:
    """A video file: number of frames (counted), frames per second that it states, height and width in pixels."""

    frames: int
    fps: float
    height: int
    width: int


def video_header(path: Path) -> VideoHeader:
    """
    Read the size and rate of a video, and count its frames, without decoding it.

    Raises:
        InputError: the file is missing or damaged, or contains no video.
    """
    index = read_frame_index(path)
    return VideoHeader(len(index), index.rate, index.height, index.width)


class FrameReader:
    """
    Reads the frames of one camera by episode id and frame number.

    [`VideoFile`] describes which frame of a video belongs to a row. Every process opens the files itself, so a reader
    works in the workers of a `DataLoader`.

    ```python
    clips = read_dataset("demos").videos["observation.images.top"]
    FrameReader("observation.images.top", clips, fps=30).read([0, 0], [10, 11])  # (2, height, width, 3)
    ```

    Args:
        camera: name of the camera, for messages.
        clips: location of the frames by episode id.
        fps: frames per second of the recorded table.
        size: `(height, width)` to which frames are scaled during conversion; None keeps their size.
        cache_bytes: limit on the decoded frames kept in memory; the least recently used are dropped first.

    Attributes:
        decoded: number of frames decoded so far, in this process.
        sharers: number of processes that share `cache_bytes`.
    """

    def __init__(
        self,
        camera: str,
        clips: Mapping[int, Clip],
        fps: float,
        size: tuple[int, int] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ):
        self.camera = camera
        self.clips = clips
        self.fps = fps
        self.size = size
        self.cache_bytes = cache_bytes
        self.sharers = 1
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._frames: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._files: OrderedDict[Path, OpenedFile] = OrderedDict()
        self.decoded = 0

    def __getstate__(self) -> dict[str, object]:
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_frames", "_files", "_cached_bytes")
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def read(self, episodes: Sequence[int], frames: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """
        Read N frames, `(N, height, width, 3)` uint8 RGB, in the given order.

        Args:
            episodes: N episode ids.
            frames: N frame numbers within these episodes.
            out: array for the result; a new one by default.

        Raises:
            InputError: an episode has no video, a frame number is out of range, a file is missing or damaged, or it is
                not certain which of its frames belong to the rows.
        """
        if os.getpid() != self._process:
            # In a fork, closing the parent's files would wait for decoder threads that do not exist; keep them open.
            _INHERITED.append(self._files)
            self._reset()
        wanted = list(zip(map(int, episodes), map(int, frames), strict=True))
        found = {}
        missing: dict[Path, list[tuple[int, int]]] = defaultdict(list)
        clips: dict[Path, Clip] = {}
        for key in dict.fromkeys(wanted):
            if key in self._frames:
                self._frames.move_to_end(key)
                found[key] = self._frames[key]
                continue
            if key[0] not in self.clips:
                raise InputError(f"episode {key[0]} has no video of {self.camera!r}", skip=[key[0]])
            clip = self.clips[key[0]]
            if not 0 <= key[1] < clip.frames:
                raise InputError(f"episode {key[0]} has {clip.frames} frames; frame {key[1]} does not exist")
            clips[clip.path] = clip
            missing[clip.path].append(key)
        for path, requests in missing.items():
            episode = requests[0][0]
            try:
                file = self._open(clips[path])
                places = []
                for episode, frame in requests:
                    places.append((self.clips[episode].position(frame, self.fps), (episode, frame)))
                for position, key in sorted(places):
                    episode = key[0]
                    image = file.frame_at(position)
                    if image is None:
                        raise InputError(f"{path} has no frame {key[1]} of episode {episode}")
                    self.decoded += 1
                    found[key] = self._keep(key, image)
            except (InputError, OSError) as error:
                raise InputError(
                    f"camera {self.camera!r}, episode {episode}: {first_line(error)}; repair the file or leave the "
                    "episode out",
                    skip=[episode],
                ) from error
            file.release()
        if out is None:
            return np.stack([found[key] for key in wanted])
        for row, key in enumerate(wanted):
            out[row] = found[key]
        return out

    def _open(self, clip: Clip) -> OpenedFile:
        if clip.path in self._files:
            self._files.move_to_end(clip.path)
        else:
            self._files[clip.path] = clip.open(self.size)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        return self._files[clip.path]

    def _keep(self, key: tuple[int, int], image: np.ndarray) -> np.ndarray:
        self._frames[key] = image
        self._cached_bytes += image.nbytes
        while self._cached_bytes > self.cache_bytes // self.sharers and len(self._frames) > 1:
            self._cached_bytes -= self._frames.popitem(last=False)[1].nbytes
        return image
