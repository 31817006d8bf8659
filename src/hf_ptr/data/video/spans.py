"""Parts of a video that can be copied packet by packet: they begin at a key frame that needs no earlier frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from hf_ptr.data.video.frame_index import FrameIndex, position_of

# Frames before the wanted ones that are copied with them at most: the usual distance of the key frames of x264. Beyond
# it, encoding the wanted frames again is smaller.
MOST_BEFORE = 250
# Types of the units of a key frame to which no later frame refers back (IDR).
_H264_IDR, _HEVC_IDR = (5,), (16, 17, 18, 19, 20)


@dataclass(frozen=True)
class Span:
    """
    Packets of a video, and the open stream that they are from.

    Attributes:
        stream: the open stream.
        packets: the packets in order of decoding, each with the position of its frame in the index. The positions are
            `first, first + 1, …` without gaps.
        first: position of the first frame that is shown.
    """

    stream: Any
    packets: Sequence[tuple[Any, int]]
    first: int


@contextmanager
def span_of(path: Path, index: FrameIndex, first: int, stop: int) -> Iterator[Span | None]:
    """
    The packets that contain the frames `[first, stop)` and decode without others.

    They begin at the last suitable key frame, so frames before the wanted ones may be among them; frames after these
    only if some of the wanted ones refer to them.

    Args:
        path: the video.
        index: its frames.
        first, stop: positions in the index.

    Yields:
        The packets while the video is open; None if no such packets exist, and the frames must be encoded again.

    Raises:
        av.error.FFmpegError, OSError: the file cannot be read.
    """
    places = position_of(index.labels)
    keys = [number for number, key in enumerate(index.keys.tolist()) if first - MOST_BEFORE <= key <= first]
    for number in reversed(keys):
        key = int(index.keys[number])
        # The file from its beginning is the last resort: seeking depends on the container.
        for time in (*dict.fromkeys(index.seek_times[number].tolist()), None):
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                if time is not None:
                    try:
                        container.seek(time, stream=stream, backward=True)
                    except av.error.FFmpegError:
                        continue
                landed, packets = _packets(container, stream, places, key, stop)
                if packets:
                    yield Span(stream, packets, key)
                    return
            if landed:
                break
    yield None


def _packets(
    container: Any, stream: Any, places: dict[int, int], key: int, stop: int
) -> tuple[bool, list[tuple[Any, int]]]:
    """Whether the key frame at a position was found, and the packets from it on; none if they are not complete."""
    packets: Iterator[Any] = iter(())
    for packet in container.demux(stream):
        position = _position(packet, places)
        if packet.size and position == key:
            packets = itertools.chain([packet], container.demux(stream))
            if key and not _is_independent(packet, stream):
                return True, []
            break
        if position is not None and position > key:
            return False, []
    else:
        return False, []
    found: list[tuple[Any, int]] = []
    last = key - 1
    for packet in packets:
        if not packet.size:
            continue
        position = _position(packet, places)
        # A frame that is never shown, or one that is shown before the key frame and refers to an earlier part.
        if position is None or position < key:
            return True, []
        found.append((packet, position))
        last = max(last, position)
        if last + 1 >= stop and len(found) == last + 1 - key:
            return True, found
    return True, []


def _position(packet: Any, places: dict[int, int]) -> int | None:
    label = packet.dts if packet.pts is None else packet.pts
    return None if label is None else places.get(label)


def _is_independent(packet: Any, stream: Any) -> bool:
    """
    Whether frames after a key frame never refer to frames before it. H.264 and HEVC also mark other frames as key.
    """
    codec = stream.codec_context.codec.name
    if codec not in ("h264", "hevc"):
        return True
    kinds = {(first >> 1) & 63 if codec == "hevc" else first & 31 for first in _units(bytes(packet), stream, codec)}
    return bool(kinds & set(_HEVC_IDR if codec == "hevc" else _H264_IDR))


def _units(data: bytes, stream: Any, codec: str) -> Iterator[int]:
    """The first byte of each unit of a packet: units follow their length (MP4, Matroska) or a start code."""
    extra = stream.codec_context.extradata or b""
    if extra[:1] == b"\x01":
        size = (extra[21 if codec == "hevc" else 4] & 3) + 1
        at = 0
        while at + size < len(data):
            yield data[at + size]
            at += size + int.from_bytes(data[at : at + size], "big")
        return
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield data[at + 3]
        at = data.find(b"\0\0\1", at + 3)
