"""The frames of a video file, counted and timed without decoding: which exist, when they are shown, where to seek."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np

from hf_ptr.errors import InputError, first_line
from hf_ptr.utils.git_lfs import refuse_pointer

# PyAV derives its errors from matching built-in exceptions too, such as EOFError for the end of a file.
DECODE_ERRORS = (av.error.FFmpegError, OSError, ValueError)
# Codecs whose packets are stored in the order of presentation, so that the table of an MP4 file gives all times.
IN_ORDER_CODECS = ("av1", "libdav1d", "libaom-av1", "vp9", "mjpeg")
# Frames of the indices that are kept, of at most 20 bytes each.
KEPT_FRAMES = 4_000_000


@dataclass(frozen=True)
class FrameIndex:
    """
    The frames of a video, in the order in which they are shown. With `N` frames and `K` key frames:

    Attributes:
        labels: `(N,)` int64, the time stamp that the decoder gives to each frame, in units of the stream's time base.
        seconds: `(N,)` float64, when each frame is shown, from the first frame; increasing.
        start: seconds from the file's time zero to its first frame.
        keys: `(K,)` int64, the key frames as positions in `labels`, ascending.
        seek_times: `(K, 2)` int64, presentation and decoding time stamp of each key frame.
        height, width: size in pixels.
        rate: frames per second that the header states.
    """

    labels: np.ndarray
    seconds: np.ndarray
    start: float
    keys: np.ndarray
    seek_times: np.ndarray
    height: int
    width: int
    rate: float

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def rounded_times(self) -> np.ndarray:
        """`(N,)` float32, seconds from the file's time zero. Every episode in the file is compared with them."""
        return (self.start + self.seconds).astype(np.float32)

    @property
    def mean_rate(self) -> float:
        """Frames per second over the whole file; the rate of the header if there is a single frame."""
        return (len(self) - 1) / float(self.seconds[-1]) if len(self) > 1 and self.seconds[-1] > 0 else self.rate

    @property
    def usual_rate(self) -> float:
        """Frames per second of most of the file, without pauses; the rate of the header if there is a single frame."""
        step = float(np.median(np.diff(self.seconds))) if len(self) > 1 else 0.0
        return 1 / step if step > 0 else self.rate


class _KeptIndices(OrderedDict[tuple[str, int, int, int], FrameIndex]):
    """The last indices by path, size, time of change and inode of the file, the latest last."""

    frames = 0

    def keep(self, key: tuple[str, int, int, int], index: FrameIndex) -> FrameIndex:
        """Add an index, and drop the oldest ones beyond the limit."""
        self[key] = index
        self.frames += len(index)
        while self.frames > KEPT_FRAMES and len(self) > 1:
            self.frames -= len(self.popitem(last=False)[1])
        return index


_KEPT = _KeptIndices()


def read_frame_index(path: Path) -> FrameIndex:
    """
    Index the frames of a video. Only a file whose packets carry no usable time stamps is decoded.

    The last indices are kept, so that workers that are forked after a check need not read the files again.

    Neither the number of frames nor the rate is taken from the header: Matroska and WebM state no number, and an edit
    list, or pictures that refer to a part that was cut off, hide frames that an MP4 header counts.

    Raises:
        InputError: the file is missing or damaged, contains no video or no frame, or stores depth or 16-bit pixels.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read as a video: {_reason(error)}") from error
    key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
    return _KEPT.get(key) or _KEPT.keep(key, _read(path))


def _read(path: Path) -> FrameIndex:
    with opened(path) as (container, stream):
        context = stream.codec_context
        name = str(context.pix_fmt)
        if name.startswith(("gray", "ya")) and any(part.bits > 8 for part in context.format.components):
            raise InputError(
                f"{path} stores {name} pixels, which are depth or 16-bit values and not colours; leave the camera out"
            )
        packets = _packets(container, stream)
        base, rate = float(stream.time_base), float(stream.average_rate or stream.guessed_rate or 0)
        size = (stream.height, stream.width)
    if packets is not None and len(packets):
        pts, dts, key = packets.T
        order = np.argsort(pts, kind="stable")
        labels = pts[order]
        first_key = pts[key != 0].min(initial=np.iinfo(np.int64).max)
        if labels[0] < first_key:
            # Frames before the first key frame can be decoded only if they do not refer to earlier ones.
            labels = np.concatenate((_decodable(path, first_key), labels[labels >= first_key]))
        seconds = (labels - labels[:1]) * base
    else:
        labels, pts, dts, key = _decoded(path)
        seconds = np.arange(len(labels)) / (rate or 1.0)
    if not len(labels):
        raise InputError(f"{path} cannot be read as a video: it contains no frame")
    places = position_of(labels)
    # Key frames that are never shown, such as those before an edit list, cannot be recognised after a seek.
    known = sorted(
        (places[shown], shown, decoded)
        for shown, decoded, is_key in zip(pts.tolist(), dts.tolist(), key.tolist(), strict=True)
        if is_key and shown in places
    )
    seek = np.array(known, dtype=np.int64).reshape(-1, 3)
    return FrameIndex(
        labels=labels,
        seconds=seconds,
        start=float(labels[0]) * base,
        keys=seek[:, 0],
        seek_times=seek[:, 1:],
        height=size[0],
        width=size[1],
        rate=rate or 1.0,
    )


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """
    The container of a video and its first video stream.

    Raises:
        InputError: the file is missing or damaged, or contains no video; also for such errors within the block.
    """
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                what = "video" if stream is None else "known codec"
                raise InputError(f"{path} cannot be read as a video: it contains no {what}, or its end is cut off")
            if stream.time_base is None:
                raise InputError(f"{path} has no time base; re-encode the video")
            yield container, stream
    except DECODE_ERRORS as error:
        if isinstance(error, InputError):
            raise
        refuse_pointer(path)
        raise InputError(f"{path} cannot be read as a video: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return "the file is missing" if isinstance(error, FileNotFoundError) else first_line(error)


def position_of(labels: np.ndarray) -> dict[int, int]:
    """Positions by label; of frames with equal labels, the first."""
    return dict(zip(labels[::-1].tolist(), range(len(labels) - 1, -1, -1), strict=True))


def _packets(container: Any, stream: Any) -> np.ndarray | None:
    """Presentation time, decoding time and key flag `(N, 3)` of the shown frames; None if times do not give them."""
    in_table = _from_table(container, stream)
    if in_table is not None:
        return in_table
    reordered = bool(stream.codec_context.has_b_frames)
    if reordered and "avi" in container.format.name.split(","):
        # AVI stores no presentation times, so those of reordered frames are guesses.
        return None
    vp8 = stream.codec_context.name in ("vp8", "libvpx")
    rows: list[tuple[int, int, bool]] = []
    try:
        for packet in container.demux(stream):
            # The last packet only marks the end of the stream; discarded ones precede an edit list.
            if not packet.size or packet.is_discard or (vp8 and not bytes(packet)[0] & 0x10):
                continue
            if packet.pts is None:
                return None
            rows.append((packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe))
    except DECODE_ERRORS:
        # What precedes the damage can be read.
        if not rows:
            raise
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _from_table(container: Any, stream: Any) -> np.ndarray | None:
    """As `_packets`, from the table of an MP4 file, which takes a tenth of the time; None if it is not sufficient."""
    if "mp4" not in container.format.name.split(",") or stream.codec_context.name not in IN_ORDER_CODECS:
        return None
    # PyAV 15, which LeRobot 0.6 requires, does not give the table.
    table = getattr(stream, "index_entries", ())
    entries = [(e.timestamp, e.timestamp, e.is_keyframe, e.is_discard) for e in table]
    # A fragmented file lists only the fragments that were read.
    if not entries or len(entries) != stream.frames:
        return None
    packet = next(container.demux(stream))
    if not (packet.pts == packet.dts == entries[0][0]):
        container.seek(0)
        return None
    return np.array([entry[:3] for entry in entries if not entry[3]], dtype=np.int64).reshape(-1, 3)


def _decodable(path: Path, end: int) -> np.ndarray:
    """The labels below `end` of the frames that decoding from the beginning of the file gives."""
    found = []
    with opened(path) as (container, stream):
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= end:
                break
            if frame.pts is not None:
                found.append(frame.pts)
    return np.array(found, dtype=np.int64)


def _decoded(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels in the order of decoded frames, and labels, decoding times and key flags of the packets."""
    labels, packets = [], []
    with opened(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.size:
                time = packet.pts if packet.pts is not None else packet.dts
                packets.append((time or 0, packet.dts or 0, packet.is_keyframe))
            labels += [frame.pts for frame in packet.decode()]
    if None in labels or len(set(labels)) < len(labels):
        raise InputError(f"{path} has frames without a time stamp; re-encode the video")
    pts, dts, key = np.array(packets, dtype=np.int64).reshape(-1, 3).T
    return np.array(labels, dtype=np.int64), pts, dts, key
