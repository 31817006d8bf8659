"""Videos decoded by torchcodec instead of PyAV, where one asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.videos import CameraClips
from hf_ptr.data.video.decoding import Clip, OpenedFile, VideoClip
from hf_ptr.data.video.stored_images import StoredImageClips
from hf_ptr.errors import InputError, first_line, nearest

DECODERS = ("pyav", "torchcodec")


def decoded_by(table: EpisodeTable, decoder: str) -> EpisodeTable:
    """
    The table with videos that a decoder of choice decodes.

    Not the one that happens to be installed: scaled pictures differ by rounding from decoder to decoder, and a run
    would depend on it.

    Args:
        table: the episodes.
        decoder: `"pyav"` or `"torchcodec"`.

    Raises:
        InputError: an unknown decoder (the nearest is suggested), or torchcodec is not installed or cannot be loaded.
    """
    if decoder not in DECODERS:
        raise InputError(f"no video decoder {decoder!r}.{nearest(decoder, DECODERS)} There are: {', '.join(DECODERS)}")
    if decoder == "pyav":
        return table
    _torchcodec()
    return dataclasses.replace(table, videos=CameraClips(list(table.videos), partial(_decoded, table.videos)))


@dataclass(frozen=True)
class TorchcodecClip(VideoClip):
    """A [`VideoClip`] that torchcodec decodes."""

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
        """The video, whose frames come in `size`."""
        return TorchcodecVideo(self.path, fps, size)


def _decoded(videos: Mapping[str, Mapping[int, Clip]], camera: str) -> Mapping[int, Clip]:
    clips = videos[camera]
    if isinstance(clips, StoredImageClips):
        return clips
    return {episode: TorchcodecClip(clip.path, clip.place(0, 1.0), clip.frames) for episode, clip in clips.items()}


class TorchcodecVideo:
    """
    A file being decoded.

    Args:
        path: the video.
        fps: frames per second of the dataset.
        size: `(height, width)` that frames are scaled to; None leaves them as they are.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int] | None) -> None:
        self._path, self._fps, self._size = path, fps, size
        try:
            # One thread, as for PyAV: workers decode side by side.
            self._decoder = _torchcodec().VideoDecoder(str(path), seek_mode="approximate", num_ffmpeg_threads=1)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a video: {first_line(error)}") from error
        self._begin = float(self._decoder.metadata.begin_stream_seconds or 0.0)

    def frame_at(self, seconds: float) -> np.ndarray | None:
        """The frame within half a frame's time of `seconds` from the beginning; None when there is none."""
        wanted, half = self._begin + seconds, 0.5 / self._fps
        try:
            # Which is shown in the middle of its time: at its very beginning rounding would decide.
            frame = self._decoder.get_frame_played_at(wanted + half)
        except IndexError:
            return None
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self._path} is damaged at {seconds:.3f} seconds: {first_line(error)}") from error
        if abs(frame.pts_seconds - wanted) > half:
            return None
        picture = frame.data.permute(1, 2, 0).numpy()
        if self._size is None or self._size == picture.shape[:2]:
            return np.ascontiguousarray(picture)
        return np.array(Image.fromarray(picture).resize(self._size[::-1], Image.Resampling.BOX))

    def rest(self) -> None:
        """Nothing: the decoder stands where it can go on."""

    def close(self) -> None:
        """Frees the file."""
        del self._decoder


def _torchcodec() -> Any:
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"video_decoder torchcodec cannot be loaded ({first_line(error)}); install a torchcodec for this torch "
            "and FFmpeg's shared libraries, or leave video_decoder out"
        ) from error
    return decoders
