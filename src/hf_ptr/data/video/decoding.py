"""Single frames of videos, decoded when they are asked for, and the last ones kept."""

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
# Files that stay open, in each process.
OPEN_FILES = 32
# A wanted frame that is so few frames on is reached by decoding on, a farther one by a seek to its key frame.
NEAR = 8
# PyAV gives its errors the built-in bases that fit, the end of a file among them.
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)
_INHERITED: list[object] = []


class OpenedFile(Protocol):
    """A file that pictures are read from."""

    def frame_at(self, place: float) -> np.ndarray | None:
        """The picture at a place that a clip gave, `(height, width, 3)` uint8 RGB; None when there is none."""
        ...

    def rest(self) -> None:
        """Lets go of what only neighbouring pictures need."""
        ...

    def close(self) -> None:
        """Frees the file."""
        ...


class Clip(Protocol):
    """Where the pictures of an episode lie, `frames` of them in the file `path`."""

    @property
    def path(self) -> Path: ...

    @property
    def frames(self) -> int: ...

    def place(self, frame: int, fps: float) -> float:
        """Where in the file a frame is, in what the opened file counts."""
        ...

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
        """The file, from which pictures come in `size`."""
        ...


@dataclass(frozen=True)
class VideoClip:
    """
    Where the frames of an episode lie.

    Attributes:
        path: the video's file.
        start: seconds from the file's beginning to the episode's first frame.
        frames: how many there are; behind them another episode may follow.
    """

    path: Path
    start: float
    frames: int

    def place(self, frame: int, fps: float) -> float:
        """Seconds from the file's beginning to a frame."""
        return self.start + frame / fps

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
        """The video, whose frames come in `size`."""
        return _OpenVideo(self.path, fps, size)


@dataclass(frozen=True)
class VideoHeader:
    """What a video's file says of itself: frames in it, frames per second, and pixels."""

    frames: int
    fps: float
    height: int
    width: int


def video_header(path: Path) -> VideoHeader:
    """
    The header of a video, without decoding it.

    Raises:
        InputError: the file is missing or damaged, or holds no video.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            if not rate or stream.time_base is None:
                raise InputError(f"{path} has no frame rate; encode the video anew")
            # Not every container counts its frames.
            frames = stream.frames or round(float((stream.duration or 0) * stream.time_base * rate))
            return VideoHeader(frames, float(rate), stream.height, stream.width)
    except (*DECODE_ERRORS, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a video: {first_line(error)}") from error


class FrameReader:
    """
    Frames of one camera by episode and frame number.

    Those of a video are found by their time stamps, each within half a frame of where it should be. Every process
    opens the files for itself, so a reader can be used in the workers of a `DataLoader`.

    Args:
        camera: its name, for messages.
        clips: by episode id.
        fps: frames per second of the dataset.
        size: `(height, width)` that frames are scaled to while they are converted; None leaves them as they are.
        cache_bytes: decoded frames kept, the least recently used out first.

    Attributes:
        decoded: how many frames were decoded so far, in this process.
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
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._frames: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._held = 0
        self._files: OrderedDict[Path, OpenedFile] = OrderedDict()
        self.decoded = 0

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_frames", "_files", "_held")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, episodes: Sequence[int], frames: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """
        The frames of some episodes, `(N, height, width, 3)` uint8 RGB, in the order asked for.

        Args:
            episodes: N episode ids.
            frames: N frame numbers within them.
            out: where to put them; a new array by default.

        Raises:
            InputError: an episode without a video, a frame that it does not have, a file that is missing or damaged,
                or one that ends before the frame.
        """
        if os.getpid() != self._process:
            # To close in a fork what the parent opened would wait for decoder threads that the fork does not have.
            _INHERITED.append(self._files)
            self._forget()
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
                raise InputError(f"episode {key[0]} has {clip.frames} frames, and no frame {key[1]}")
            clips[clip.path] = clip
            missing[clip.path].append((clip.place(key[1], self.fps), key))
        for path, places in missing.items():
            file = self._open(clips[path])
            for place, key in sorted(places):
                picture = file.frame_at(place)
                if picture is None:
                    raise InputError(
                        f"{path} has no frame {key[1]} of episode {key[0]}; the video is shorter than its table"
                    )
                self.decoded += 1
                found[key] = self._keep(key, picture)
            file.rest()
        if out is None:
            return np.stack([found[key] for key in wanted])
        for place, key in enumerate(wanted):
            out[place] = found[key]
        return out

    def _open(self, clip: Clip) -> OpenedFile:
        if clip.path in self._files:
            self._files.move_to_end(clip.path)
        else:
            self._files[clip.path] = clip.open(self.fps, self.size)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        return self._files[clip.path]

    def _keep(self, key: tuple[int, int], picture: np.ndarray) -> np.ndarray:
        self._frames[key] = picture
        self._held += picture.nbytes
        while self._held > self.cache_bytes and len(self._frames) > 1:
            self._held -= self._frames.popitem(last=False)[1].nbytes
        return picture


class _OpenVideo:
    """A file being decoded, and where in it the decoder stands."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int] | None):
        self.path, self.size = path, size
        try:
            self.container = av.open(str(path))
            self.stream = self.container.streams.video[0]
        except (*DECODE_ERRORS, IndexError) as error:
            raise InputError(f"{path} cannot be read as a video: {error}") from error
        # Frames are decoded one at a time and on demand; threads of the decoder would read ahead for nothing.
        self.stream.thread_type = "NONE"
        if self.stream.time_base is None:
            raise InputError(f"{path} has no time base; encode the video anew")
        self.step = 1.0 / (fps * float(self.stream.time_base))
        self.first = self.stream.start_time or 0
        self._decoder = self.container.decode(self.stream)
        self._at: float | None = None

    def frame_at(self, seconds: float) -> np.ndarray | None:
        """The frame within half a frame's time of `seconds` from the beginning; None when there is none."""
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
                    return self._picture(frame)
        except DECODE_ERRORS as error:
            raise InputError(f"{self.path} is damaged at {seconds:.3f} seconds: {error}") from error
        self._at = None
        return None

    def _seek(self, wanted: float) -> None:
        try:
            self.container.seek(max(0, round(wanted)), stream=self.stream, backward=True)
        except DECODE_ERRORS as error:
            raise InputError(f"{self.path} cannot be searched: {error}") from error
        self._decoder = self.container.decode(self.stream)

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        height, width = self.size or (frame.height, frame.width)
        return frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")

    def rest(self) -> None:
        """Nothing: the decoder holds one frame, and stands where it can go on."""

    def close(self) -> None:
        """Frees the file."""
        self.container.close()
