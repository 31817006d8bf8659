"""Concatenation of videos of single episodes into one file by copying packets, without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from hf_ptr.data.lerobot.files import NumberedFiles, video_template
from hf_ptr.data.video.decoding import DECODE_ERRORS
from hf_ptr.errors import InputError, first_line


class RemuxedFiles(NumberedFiles):
    """
    One camera's mp4 files, concatenated from the videos of its episodes.

    All episodes in a file have the same encoding. A new file is started when the encoding changes or the file would
    exceed its size limit.

    Args:
        key: the camera.
        fps: frames per second of the dataset.
        limit_mb: size limit of a file, in MB.
    """

    def __init__(self, key: str, fps: float, limit_mb: float) -> None:
        super().__init__(video_template(key), limit_mb)
        self.key = key
        self.fps = fps
        self.info: dict[str, Any] = {}
        self._container: Any = None
        self._stream: Any = None
        self._encoding: tuple[object, ...] = ()
        self._bytes = 0
        # The last decoding time stamp in the stream's time base; the next one must be larger.
        self._last = 0

    def add(self, root: Path, video: Path, length: int) -> dict[str, Any]:
        """
        Append an episode's video.

        Args:
            root: folder of the dataset being written.
            video: the episode's video file.
            length: number of frames of the episode in the table.

        Returns:
            The episode's columns of `meta/episodes`: file, and start and end in it (seconds).

        Raises:
            InputError: the video is damaged.
        """
        try:
            with av.open(str(video)) as source:
                stream = source.streams.video[0]
                self._file_for(root, stream, video.stat().st_size, length)
                packets = list(_packets(source, stream, self.frames, self.fps, self._stream.time_base))
                if packets[0].dts <= self._last and self.frames:
                    self._begin(root, stream)
                    source.seek(0)
                    packets = list(_packets(source, stream, 0, self.fps, self._stream.time_base))
                for packet in packets:
                    self._bytes += packet.size
                    packet.stream = self._stream
                    self._last = packet.dts
                    self._container.mux(packet)
        except (*DECODE_ERRORS, IndexError) as error:
            if isinstance(error, InputError) or getattr(error, "filename", None) not in (None, str(video)):
                raise
            raise InputError(f"{video} cannot be copied: {first_line(error)}") from error
        chunk, file = self.location
        start = self.frames
        self.frames += len(packets)
        return {
            f"videos/{self.key}/chunk_index": chunk,
            f"videos/{self.key}/file_index": file,
            f"videos/{self.key}/from_timestamp": start / self.fps,
            f"videos/{self.key}/to_timestamp": (start + length) / self.fps,
        }

    def _file_for(self, root: Path, stream: Any, size: int, length: int) -> None:
        context = stream.codec_context
        encoding = (context.codec.id, context.width, context.height, context.pix_fmt, context.extradata)
        outgrown = self.frames > 0 and self._bytes + size > self._limit
        if self._container is not None and (outgrown or encoding != self._encoding):
            self._begin(root, stream)
        elif self._container is None:
            self._open(root, stream)
        self._encoding = encoding

    def _begin(self, root: Path, stream: Any) -> None:
        self.close()
        self._number += 1
        self._open(root, stream)

    def _open(self, root: Path, stream: Any) -> None:
        path = self.path(root, self._number)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream_from_template(stream, opaque=True)
        self._stream.time_base = stream.time_base
        self._container.start_encoding()
        self.frames = self._bytes = self._last = 0

    def close(self) -> None:
        """Finish the current file."""
        if self._container is not None:
            container, self._container = self._container, None
            container.close()

    def discard(self) -> None:
        """Close a file that is about to be removed, ignoring errors."""
        try:
            self.close()
        except (OSError, av.error.FFmpegError):
            return


def _packets(source: Any, stream: Any, before: int, fps: float, time_base: Any) -> Iterator[Any]:
    """The packets of a video, shifted to start after `before` frames, in units of `time_base`."""
    first = stream.start_time or 0
    shift = round(before / fps / float(time_base))
    ratio = stream.time_base / time_base
    for packet in source.demux(stream):
        # The last packet only marks the end of the stream.
        if packet.dts is None or packet.pts is None:
            continue
        packet.pts = round((packet.pts - first) * ratio) + shift
        packet.dts = round((packet.dts - first) * ratio) + shift
        packet.time_base = time_base
        yield packet
