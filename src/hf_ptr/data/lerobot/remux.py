"""Concatenation of videos of single episodes into one file by copying packets, without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from hf_ptr.data.lerobot.files import NumberedFiles, video_template
from hf_ptr.data.video.decoding import VideoClip
from hf_ptr.data.video.frame_index import DECODE_ERRORS, FrameIndex, position_of
from hf_ptr.errors import InputError, first_line

TIME_BASE = Fraction(1, 90_000)


class RemuxedFiles(NumberedFiles):
    """
    One camera's mp4 files, concatenated from the videos of its episodes.

    All episodes in a file have the same encoding. A new file is started when the encoding changes or the file would
    exceed its size limit.

    Args:
        key: the camera.
        fps: frames per second of the dataset.
        limit_mb: size limit of a file, in MB.

    Attributes:
        on_time: whether the frames of the last episode got the times `row / fps`, and not those they had.
    """

    def __init__(self, key: str, fps: float, limit_mb: float) -> None:
        super().__init__(video_template(key), limit_mb)
        self.key = key
        self.fps = fps
        self.info: dict[str, Any] = {}
        self.on_time = False
        self._container: Any = None
        self._stream: Any = None
        self._encoding: tuple[object, ...] = ()
        self._bytes = 0
        # The last decoding time stamp in the stream's time base; the next one must be larger.
        self._last = 0

    def add(self, root: Path, clip: VideoClip) -> dict[str, Any]:
        """
        Append an episode's video.

        Args:
            root: folder of the dataset being written.
            clip: the episode's frames in a separate video.

        Returns:
            The episode's columns of `meta/episodes`: file, and start and end in it (seconds).

        Raises:
            InputError: the video is damaged, or it is not certain which of its frames belong to the rows.
        """
        video, length = clip.path, clip.frames
        frames = [clip.position(row, self.fps) for row in range(length)]
        # With one frame for each row, frames get the times `row / fps`, whatever the rate of the camera was.
        self.on_time = on_time = frames == list(range(length))
        try:
            with av.open(str(video)) as source:
                stream = source.streams.video[0]
                found = _packets(source, stream, clip.file.index, video)
                self._file_for(root, stream, video.stat().st_size, alone=not on_time)
                packets = self._timed(found, stream.time_base, on_time)
                if packets[0].dts <= self._last and self.frames:
                    self._begin(root, stream)
                    packets = self._timed(found, stream.time_base, on_time)
                for packet in packets:
                    self._bytes += packet.size
                    packet.stream = self._stream
                    self._last = packet.dts
                    self._container.mux(packet)
        except (*DECODE_ERRORS, IndexError) as error:
            if isinstance(error, InputError) or getattr(error, "filename", None) not in (None, str(video)):
                raise
            raise InputError(f"{video} cannot be copied: {first_line(error)}") from error
        chunk, number = self.location
        start = self.frames
        self.frames += len(packets)
        if not on_time:
            # Frames at their own times fill no whole number of frame durations, so the next episode gets a new file.
            self._encoding = ()
        return {
            f"videos/{self.key}/chunk_index": chunk,
            f"videos/{self.key}/file_index": number,
            f"videos/{self.key}/from_timestamp": start / self.fps,
            f"videos/{self.key}/to_timestamp": (start + length) / self.fps,
        }

    def _timed(self, found: Sequence[tuple[Any, int]], base: Any, on_time: bool) -> list[Any]:
        """The packets with their time stamps in the file that is being written, in order of decoding."""
        unit = self._stream.time_base
        # Decoding precedes presentation by as many frames as any packet is stored ahead of its turn.
        delay = max(number - rank for number, (_, rank) in enumerate(found))
        frame = Fraction(1 / self.fps).limit_denominator(10**6) / unit
        first = min(packet.pts for packet, _ in found)
        for number, (packet, rank) in enumerate(found):
            if on_time:
                packet.pts = round((self.frames + rank) * frame)
                packet.dts = round((self.frames + number - delay) * frame)
            else:
                packet.pts = round((packet.pts - first) * base / unit)
                packet.dts = packet.pts if packet.dts is None else round((packet.dts - first) * base / unit)
            packet.time_base = unit
        return [packet for packet, _ in found]

    def _file_for(self, root: Path, stream: Any, size: int, alone: bool) -> None:
        context = stream.codec_context
        encoding = (context.codec.id, context.width, context.height, context.pix_fmt, context.extradata)
        outgrown = self.frames > 0 and (alone or self._bytes + size > self._limit)
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
        # Fine enough for the frame rates of cameras.
        self._stream.time_base = TIME_BASE
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


def _packets(source: Any, stream: Any, index: FrameIndex, video: Path) -> list[tuple[Any, int]]:
    """The packets of a video in order of decoding, each with the position of its frame in the index."""
    places = position_of(index.labels)
    # The last packet only marks the end of the stream.
    packets = [packet for packet in source.demux(stream) if packet.size]
    labels = [packet.dts if packet.pts is None else packet.pts for packet in packets]
    if sorted(labels) != sorted(index.labels.tolist()):
        raise InputError(f"{video} has frames that are not shown (an edit list, or a cut); re-encode it")
    return [(packet, places[label]) for packet, label in zip(packets, labels, strict=True)]
