"""Optional decoding of videos by torchcodec instead of PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ptr.data.video.decoding import OpenedFile, VideoClip
from hf_ptr.data.video.frame_index import FrameIndex
from hf_ptr.data.video.opened_video import OpenVideo
from hf_ptr.errors import InputError, first_line


@dataclass(frozen=True)
class TorchcodecClip(VideoClip):
    """A [`VideoClip`] decoded by torchcodec."""

    def open(self, size: tuple[int, int] | None) -> OpenedFile:
        """Open the video; its frames are scaled to `size` (height, width)."""
        return TorchcodecVideo(self.path, self.file.index, size)


class TorchcodecVideo:
    """
    An open video file with torchcodec's decoder.

    Args:
        path: the video.
        index: its frames.
        size: `(height, width)` to which frames are scaled; None keeps their size.
    """

    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int] | None) -> None:
        self._path, self._index, self._size = path, index, size
        try:
            # One thread, as with PyAV: the DataLoader workers already decode in parallel.
            self._decoder = load_torchcodec().VideoDecoder(str(path), seek_mode="approximate", num_ffmpeg_threads=1)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a video: {first_line(error)}") from error
        # Opened for the first frame that torchcodec misses.
        self._exact: OpenVideo | None = None

    def frame_at(self, position: int) -> np.ndarray | None:
        """
        The frame at a position of the index; None if there is no such position.

        Raises:
            InputError: the frame cannot be decoded.
        """
        if not 0 <= position < len(self._index):
            return None
        image = self._decoded(position)
        if image is None:
            if self._exact is None:
                self._exact = OpenVideo(self._path, self._index, None)
            image = self._exact.frame_at(position)
            assert image is not None
        if self._size is None or self._size == image.shape[:2]:
            return np.ascontiguousarray(image)
        return np.array(Image.fromarray(image).resize(self._size[::-1], Image.Resampling.BOX))

    def _decoded(self, position: int) -> np.ndarray | None:
        """The frame at a position; None if torchcodec gives another one, as after a seek into an open GOP."""
        times = self._index.seconds
        length = float(times[position + 1] - times[position]) if position + 1 < len(times) else 1 / self._index.rate
        wanted = self._index.start + float(times[position])
        try:
            # Ask for the middle of the frame's duration; at its start, rounding would decide between two frames.
            frame = self._decoder.get_frame_played_at(wanted + 0.5 * length)
        except (IndexError, RuntimeError, ValueError):
            return None
        if abs(frame.pts_seconds - wanted) > 0.25 * length:
            return None
        image: np.ndarray = frame.data.permute(1, 2, 0).numpy()
        return image

    def release(self) -> None:
        """Does nothing: the decoder keeps its position for the next read."""

    def close(self) -> None:
        """Close the file."""
        del self._decoder
        if self._exact is not None:
            self._exact.close()


def load_torchcodec() -> Any:
    """The module `torchcodec.decoders`.

    Raises:
        InputError: torchcodec is not installed, or does not match torch or FFmpeg.
    """
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"video_decoder torchcodec cannot be loaded ({first_line(error)}); install the torchcodec for this torch "
            "and FFmpeg's shared libraries, or remove video_decoder"
        ) from error
    return decoders
