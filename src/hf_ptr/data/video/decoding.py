"""Random access to single frames of videos: decoding on demand, with a cache of the last frames."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from hf_ptr.errors import InputError, first_line

CACHE_BYTES = 512 * 1024**2
# Maximum number of open files in each process.
OPEN_FILES = 32
# A frame at most this many frames ahead is reached by decoding forward, a farther one by seeking to its key frame.
NEAR = 8
# PyAV derives its errors from matching built-in exceptions too, such as EOFError for the end of a file.
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)
# Files opened by the parent process, see `FrameReader.read`.
_INHERITED: list[object] = []


class OpenedFile(Protocol):
    """An open file from which images are read."""

    def frame_at(self, position: float) -> np.ndarray | None:
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

    def position(self, frame: int, fps: float) -> float:
        """The position of a frame in the file, in the unit of `OpenedFile.frame_at`."""
        ...

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
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
    """

    path: Path
    start: float
    frames: int

    def position(self, frame: int, fps: float) -> float:
        """Seconds from the start of the file to a frame."""
        return self.start + frame / fps

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
        """Open the video; its frames are scaled to `size` (height, width)."""
        return _OpenVideo(self.path, fps, size)


@dataclass(frozen=True)
class VideoHeader:
    """The header of a video file: number of frames, frames per second, height and width in pixels."""

    frames: int
    fps: float
    height: int
    width: int


def video_header(path: Path) -> VideoHeader:
    """
    Read the header of a video without decoding it.

    Raises:
        InputError: the file is missing or damaged, or contains no video.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            if not rate or stream.time_base is None:
                raise InputError(f"{path} has no frame rate; re-encode the video")
            # Not every container stores the number of frames.
            frames = stream.frames or round(float((stream.duration or 0) * stream.time_base * rate))
            return VideoHeader(frames, float(rate), stream.height, stream.width)
    except (*DECODE_ERRORS, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a video: {first_line(error)}") from error


class FrameReader:
    """
    Reads the frames of one camera by episode id and frame number.

    Frames of a video are found by time stamp, with a tolerance of half a frame. Every process opens the files itself,
    so a reader works in the workers of a `DataLoader`.

    ```python
    clips = read_dataset("demos").videos["observation.images.top"]
    FrameReader("observation.images.top", clips, fps=30).read([0, 0], [10, 11])  # (2, height, width, 3)
    ```

    Args:
        camera: name of the camera, for messages.
        clips: location of the frames by episode id.
        fps: frames per second of the videos.
        size: `(height, width)` to which frames are scaled during conversion; None keeps their size.
        cache_bytes: limit on the decoded frames kept in memory; the least recently used are dropped first.

    Attributes:
        decoded: number of frames decoded so far, in this process.
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
            InputError: an episode has no video, a frame number is out of range, or a file is missing, damaged or too
                short.
        """
        if os.getpid() != self._process:
            # In a fork, closing the parent's files would wait for decoder threads that do not exist; keep them open.
            _INHERITED.append(self._files)
            self._reset()
        wanted = list(zip(map(int, episodes), map(int, frames), strict=True))
        found = {}
        missing: dict[Path, list[tuple[float, tuple[int, int]]]] = defaultdict(list)
        clips: dict[Path, Clip] = {}
        for key in dict.fromkeys(wanted):
            if key in self._frames:
                self._frames.move_to_end(key)
                found[key] = self._frames[key]
                continue
            if key[0] not in self.clips:
                raise InputError(f"episode {key[0]} has no video of {self.camera!r}")
            clip = self.clips[key[0]]
            if not 0 <= key[1] < clip.frames:
                raise InputError(f"episode {key[0]} has {clip.frames} frames; frame {key[1]} does not exist")
            clips[clip.path] = clip
            missing[clip.path].append((clip.position(key[1], self.fps), key))
        for path, requests in missing.items():
            file = self._open(clips[path])
            for position, key in sorted(requests):
                image = file.frame_at(position)
                if image is None:
                    raise InputError(
                        f"{path} has no frame {key[1]} of episode {key[0]}; the video is shorter than its table"
                    )
                self.decoded += 1
                found[key] = self._keep(key, image)
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
            self._files[clip.path] = clip.open(self.fps, self.size)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        return self._files[clip.path]

    def _keep(self, key: tuple[int, int], image: np.ndarray) -> np.ndarray:
        self._frames[key] = image
        self._cached_bytes += image.nbytes
        while self._cached_bytes > self.cache_bytes and len(self._frames) > 1:
            self._cached_bytes -= self._frames.popitem(last=False)[1].nbytes
        return image


class _OpenVideo:
    """An open video file with the state of its decoder."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int] | None):
        self.path, self.size = path, size
        try:
            self.container = av.open(str(path))
            self.stream = self.container.streams.video[0]
        except (*DECODE_ERRORS, IndexError) as error:
            raise InputError(f"{path} cannot be read as a video: {error}") from error
        # Frames are decoded one at a time and on demand; decoder threads would read ahead unnecessarily.
        self.stream.thread_type = "NONE"
        if self.stream.time_base is None:
            raise InputError(f"{path} has no time base; re-encode the video")
        self.step = 1.0 / (fps * float(self.stream.time_base))
        self.first = self.stream.start_time or 0
        self._decoder = self.container.decode(self.stream)
        self._at: float | None = None

    def frame_at(self, seconds: float) -> np.ndarray | None:
        """The frame within half a frame's duration of `seconds` from the start; None if there is none."""
        assert self.stream.time_base is not None
        wanted = self.first + seconds / float(self.stream.time_base)
        if self._at is None or not 0.5 * self.step < wanted - self._at <= NEAR * self.step:
            self._seek(wanted)
        try:
            for frame in self._decoder:
                if frame.pts is None:
                    continue
                self._at = float(frame.pts)
                if self._at > wanted + 0.5 * self.step:
                    return None
                if self._at >= wanted - 0.5 * self.step:
                    return self._converted(frame)
        except DECODE_ERRORS as error:
            raise InputError(f"{self.path} is damaged at {seconds:.3f} seconds: {error}") from error
        self._at = None
        return None

    def _seek(self, wanted: float) -> None:
        try:
            self.container.seek(max(0, round(wanted)), stream=self.stream, backward=True)
        except DECODE_ERRORS as error:
            raise InputError(f"seeking in {self.path} failed: {error}") from error
        self._decoder = self.container.decode(self.stream)

    def _converted(self, frame: av.VideoFrame) -> np.ndarray:
        height, width = self.size or (frame.height, frame.width)
        return frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")

    def release(self) -> None:
        """Does nothing: the decoder holds one frame and keeps its position for the next read."""

    def close(self) -> None:
        """Close the file."""
        self.container.close()
