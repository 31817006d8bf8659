"""Concatenation of episodes, or parts of them, into one video by copying packets, without decoding."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np

from hf_ptr.data.lerobot.files import NumberedFiles, VideoFiles, video_template
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.data.video.frame_index import DECODE_ERRORS, FrameIndex, position_of
from hf_ptr.data.video.spans import span_of
from hf_ptr.errors import InputError, first_line

TIME_BASE = Fraction(1, 90_000)
# Seconds of a file at most: LeRobot compares times in single precision, which resolves its tolerance of 0.1 ms up to
# 1024 seconds.
LONGEST = 1000.0
# Size limit of a file that holds one part, MB.
SINGLE_FILE = float("inf")


class RemuxedFiles(NumberedFiles):
    """
    One camera's mp4 files, concatenated from parts of videos.

    All parts in a file have the same encoding. A new file is started when the encoding changes or the file would
    exceed its size limit or 1000 seconds. A part begins at a key frame, so frames that no row shows may precede it.

    Args:
        key: the camera.
        fps: frames per second of the dataset.
        limit_mb: size limit of a file, in MB.
        reader: decodes the frames of parts that cannot be copied and are encoded again; None refuses such parts.
        own_times: whether the video of a whole episode without one frame for each row is copied, with the times of its
            frames; otherwise, it cannot be copied.

    Attributes:
        unshown: number of frames that no row shows and that had to be copied with others, by the number of the file.
        encoded: number of frames encoded again so far.
    """

    def __init__(
        self, key: str, fps: float, limit_mb: float, reader: FrameReader | None = None, own_times: bool = True
    ) -> None:
        super().__init__(video_template(key), limit_mb)
        self.key = key
        self.fps = fps
        self.unshown: Counter[int] = Counter()
        self.encoded = 0
        self._reader = reader
        self._own_times = own_times
        self._container: Any = None
        self._stream: Any = None
        self._encoding: tuple[object, ...] = ()
        self._bytes = 0
        # The last decoding time stamp in the stream's time base; the next one must be larger.
        self._last = 0

    def add(
        self, root: Path, clip: VideoClip, rows: range, seconds: np.ndarray | None = None, *, moved: float = 0.0
    ) -> dict[str, Any]:
        """
        Append rows of an episode.

        Args:
            root: folder of the dataset being written.
            clip: the episode's frames.
            rows: the rows, in steps of 1.
            seconds: `(rows,)`, times of the rows from 0, increasing; `row / fps` by default.
            moved: seconds by which the time stamps of the rows are less than in the source, by which frames that keep
                their own times are found later.

        Returns:
            The columns of `meta/episodes`: file, and start and end in it (seconds).

        Raises:
            InputError: the video is damaged, it is not certain which of its frames belong to the rows, or they cannot
                be copied and no reader is given.
        """
        video = clip.path
        try:
            with copied_rows(clip, rows, self.fps, self._own_times) as found:
                if isinstance(found, Copied):
                    return self._copy(root, found, len(rows), video.stat().st_size, seconds, moved)
        except (*DECODE_ERRORS, IndexError) as error:
            if isinstance(error, InputError) or getattr(error, "filename", None) not in (None, str(video)):
                raise
            raise InputError(f"{video} cannot be copied: {first_line(error)}") from error
        if self._reader is None:
            raise InputError(f"{video} {found}; re-encode it")
        return self._encode(root, self._reader, clip.episode, rows, seconds)

    def _copy(
        self, root: Path, found: Copied, length: int, size: int, seconds: np.ndarray | None, moved: float
    ) -> dict[str, Any]:
        on_time = found.on_time
        times = self._times(found, length, seconds) if on_time else None
        stream = found.stream
        if not found.whole:
            size = sum(packet.size for packet, _ in found.packets)
        self._file_for(
            root, stream, size, len(found.packets) if times is None else float(times[-1]) * self.fps, not on_time
        )
        packets = self._timed(found.packets, stream.time_base, times)
        if packets[0].dts <= self._last and self.frames:
            self._begin(root, stream)
            packets = self._timed(found.packets, stream.time_base, times)
        for packet in packets:
            self._bytes += packet.size
            packet.stream = self._stream
            self._last = packet.dts
            self._container.mux(packet)
        chunk, number = self.location
        start = self.frames + found.before + (0.0 if on_time else moved * self.fps)
        end = length if seconds is None else float(seconds[-1]) * self.fps + 1
        # The next part begins a whole number of frame durations later.
        self.frames += len(packets) if times is None else math.ceil(round(float(times[-1]) * self.fps, 3)) + 1
        if not found.whole:
            self.unshown[self._number] += len(packets) - length
        if not on_time:
            # Frames at their own times fill no whole number of frame durations, so the next part gets a new file.
            self._encoding = ()
        return {
            f"videos/{self.key}/chunk_index": chunk,
            f"videos/{self.key}/file_index": number,
            f"videos/{self.key}/from_timestamp": start / self.fps,
            f"videos/{self.key}/to_timestamp": (start + end) / self.fps,
        }

    def _encode(
        self, root: Path, reader: FrameReader, episode: int, rows: range, seconds: np.ndarray | None
    ) -> dict[str, Any]:
        """Append rows that cannot be copied, from a video of their decoded frames."""
        images = (reader.read([episode], [row])[0] for row in rows)
        first = next(images)
        with TemporaryDirectory(dir=root) as folder:
            files = VideoFiles(self.key, (first.shape[0], first.shape[1], 3), self.fps, SINGLE_FILE)
            try:
                files.begin_episode(Path(folder), len(rows))
                for image in itertools.chain([first], images):
                    files.add(image)
            finally:
                files.close()
            clip = VideoClip(files.path(Path(folder), 0), 0.0, len(rows))
            row = self.add(root, clip, range(len(rows)), seconds)
        self.encoded += len(rows)
        return row

    def _times(self, found: Copied, length: int, seconds: np.ndarray | None) -> np.ndarray:
        """When the frames of a part are shown, from its first frame, `(packets,)` seconds in order of presentation."""
        times = np.arange(len(found.packets)) / self.fps
        if seconds is not None:
            rows = slice(found.before, found.before + length)
            times[rows.stop :] += seconds[-1] - (length - 1) / self.fps
            times[rows] = found.before / self.fps + seconds
        return times

    def _timed(self, found: Sequence[tuple[Any, int]], base: Any, times: np.ndarray | None) -> list[Any]:
        """The packets with their time stamps in the file that is being written, in order of decoding."""
        unit = self._stream.time_base
        frame = Fraction(1 / self.fps).limit_denominator(10**6) / unit
        if times is None:
            first = min(packet.pts for packet, _ in found)
            for packet, _ in found:
                packet.pts = round((packet.pts - first) * base / unit)
                packet.dts = packet.pts if packet.dts is None else round((packet.dts - first) * base / unit)
        else:
            # Decoding precedes presentation by as many frames as any packet is stored ahead of its turn.
            delay = max(number - rank for number, (_, rank) in enumerate(found))
            start = self.frames * frame
            shown = [round(start + Fraction(time).limit_denominator(10**9) / unit) for time in times.tolist()]
            early = [round(start - ahead * frame) for ahead in range(delay, 0, -1)]
            for (packet, rank), decoded in zip(found, [*early, *shown], strict=False):
                packet.pts, packet.dts = shown[rank], decoded
        for packet, _ in found:
            packet.time_base = unit
        return [packet for packet, _ in found]

    def _file_for(self, root: Path, stream: Any, size: int, frames: float, alone: bool) -> None:
        context = stream.codec_context
        encoding = (context.codec.id, context.width, context.height, context.pix_fmt, context.extradata)
        full = self._bytes + size > self._limit or self.frames + frames > LONGEST * self.fps
        outgrown = self.frames > 0 and (alone or full)
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


@dataclass(frozen=True)
class Copied:
    """
    Packets that hold rows of an episode.

    Attributes:
        stream: the open stream that they are from.
        packets: in order of decoding, each with the rank of its frame among those of all the packets.
        before: number of frames that precede that of the first row.
        on_time: whether successive rows have successive frames, which then get the times of the rows.
        whole: whether these are all packets of the file.
    """

    stream: Any
    packets: Sequence[tuple[Any, int]]
    before: int
    on_time: bool
    whole: bool


@contextmanager
def copied_rows(clip: VideoClip, rows: range, fps: float, own_times: bool = True) -> Iterator[Copied | str]:
    """
    The packets that hold rows of an episode, while their video is open.

    A video of this episode alone is copied as it is, with frames that no row shows.

    Args:
        clip: the episode's frames.
        rows: the rows, in steps of 1.
        fps: frames per second of the table.
        own_times: as for [`RemuxedFiles`].

    Yields:
        The packets, or why the rows must be encoded again.

    Raises:
        InputError: it is not certain which frames belong to the rows.
        av.error.FFmpegError, OSError: the video cannot be read.
    """
    frames = [clip.position(row, fps) for row in rows]
    in_order = frames == list(range(frames[0], frames[0] + len(frames)))
    index = clip.file.index
    # With one frame for each row, frames get the times of their rows, whatever the rate of the camera was.
    on_time = in_order and frames[0] == 0
    alone = len(clip.file.episodes) == 1 and clip.start == 0 and rows == range(clip.frames)
    if alone and (on_time or (own_times and not in_order)):
        with av.open(str(clip.path)) as container:
            stream = container.streams.video[0]
            packets = _all_packets(container, stream, index)
            unsupported = _unsupported(stream)
            if packets is None or unsupported:
                yield unsupported or "has frames that are not shown (an edit list, or a cut)"
            else:
                yield Copied(stream, packets, 0, on_time, True)
        return
    if not in_order:
        yield "does not have one frame for each row"
        return
    with span_of(clip.path, index, frames[0], frames[-1] + 1) as span:
        unsupported = "" if span is None else _unsupported(span.stream)
        if span is None or unsupported:
            yield unsupported or "has no key frame from which these frames can be copied"
            return
        ranked = [(packet, position - span.first) for packet, position in span.packets]
        yield Copied(span.stream, ranked, frames[0] - span.first, True, False)


def _unsupported(stream: Any) -> str:
    """Why MP4 files cannot hold a stream, or ""."""
    codec = stream.codec_context.codec.canonical_name
    return "" if codec in _mp4_codecs() else f"is encoded as {codec}, which MP4 files cannot hold"


@cache
def _mp4_codecs() -> frozenset[str]:
    with av.open(BytesIO(), "w", format="mp4") as container:
        return frozenset(container.supported_codecs)


def _all_packets(container: Any, stream: Any, index: FrameIndex) -> list[tuple[Any, int]] | None:
    """The packets of a video in order of decoding, each with the position of its frame; None if some are not shown."""
    places = position_of(index.labels)
    # The last packet only marks the end of the stream.
    packets = [packet for packet in container.demux(stream) if packet.size]
    labels = [packet.dts if packet.pts is None else packet.pts for packet in packets]
    if sorted(labels) != sorted(index.labels.tolist()):
        return None
    return [(packet, places[label]) for packet, label in zip(packets, labels, strict=True)]
