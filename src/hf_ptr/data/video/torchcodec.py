"""Optional decoding of videos by torchcodec instead of PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ptr.data.video.decoding import OpenedFile, VideoClip
from hf_ptr.errors import InputError, first_line


@dataclass(frozen=True)
class TorchcodecClip(VideoClip):
    """A [`VideoClip`] decoded by torchcodec."""

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
        """Open the video; its frames are scaled to `size` (height, width)."""
        return TorchcodecVideo(self.path, fps, size)


class TorchcodecVideo:
    """
    An open video file with torchcodec's decoder.

    Args:
        path: the video.
        fps: frames per second of the dataset.
        size: `(height, width)` to which frames are scaled; None keeps their size.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int] | None) -> None:
        self._path, self._fps, self._size = path, fps, size
        try:
            # One thread, as with PyAV: the DataLoader workers already decode in parallel.
            self._decoder = load_torchcodec().VideoDecoder(str(path), seek_mode="approximate", num_ffmpeg_threads=1)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a video: {first_line(error)}") from error
        self._begin = float(self._decoder.metadata.begin_stream_seconds or 0.0)

    def frame_at(self, seconds: float) -> np.ndarray | None:
        """The frame within half a frame's duration of `seconds` from the start; None if there is none."""
        wanted, half = self._begin + seconds, 0.5 / self._fps
        try:
            # Ask for the middle of the frame's duration; at its start, rounding would decide between two frames.
            frame = self._decoder.get_frame_played_at(wanted + half)
        except IndexError:
            return None
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self._path} is damaged at {seconds:.3f} seconds: {first_line(error)}") from error
        if abs(frame.pts_seconds - wanted) > half:
            return None
        image = frame.data.permute(1, 2, 0).numpy()
        if self._size is None or self._size == image.shape[:2]:
            return np.ascontiguousarray(image)
        return np.array(Image.fromarray(image).resize(self._size[::-1], Image.Resampling.BOX))

    def release(self) -> None:
        """Does nothing: the decoder keeps its position for the next read."""

    def close(self) -> None:
        """Close the file."""
        del self._decoder


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
