"""Tiny videos whose every frame shows its own number, in any codec and container."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.data.video.placement import VideoFile

SIZE = (48, 64)
# The number in binary: each bit a dark or a bright square of 16 pixels, which survives any codec.
SQUARE, COLUMNS = 16, 4
BITS = 12


def shaded(number: int) -> np.ndarray:
    """The image `(48, 64, 3)` that shows a number below 4096."""
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, COLUMNS)
        shade = 200 if number >> bit & 1 else 50
        image[row * SQUARE : (row + 1) * SQUARE, column * SQUARE : (column + 1) * SQUARE] = shade
    return image


def number_of(image: np.ndarray) -> int:
    """The number that an image shows; -1 if its squares are neither dark nor bright."""
    squares = image.mean(axis=-1).reshape(SIZE[0] // SQUARE, SQUARE, COLUMNS, SQUARE)[:, 4:12, :, 4:12]
    shades = squares.mean(axis=(1, 3)).ravel()
    if (np.abs(shades - 125) < 40).any():
        return -1
    return sum(1 << bit for bit in range(BITS) if shades[bit] > 125)


def write_shades(
    path: Path,
    numbers: Sequence[int],
    *,
    rate: Fraction | int = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    base: Fraction | None = None,
    container: str | None = None,
    mux_options: dict[str, str] | None = None,
) -> Path:
    """
    Write a video.

    Args:
        path: the file.
        numbers: what the frames show.
        rate: frames per second.
        codec, options: encoder and its options.
        times: time stamp of each frame in units of `base`; by default at the rate.
        base: the encoder's time base.
        container, mux_options: format, by default that of the name's ending, and its options.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container, options=mux_options or {}) as out:
        stream = out.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if base is not None:
            stream.codec_context.time_base = base
        for position, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(shaded(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[position], base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def copied(source: Path, target: Path, *, first: int = 0, shift: int = 0) -> Path:
    """A copy of a video's packets from packet `first` on, with time stamps moved by `shift`."""
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as out,
    ):
        stream = read.streams.video[0]
        written = out.add_stream_from_template(stream, opaque=True)
        written.time_base = stream.time_base
        for packet in [packet for packet in read.demux(stream) if packet.size][first:]:
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, written
            out.mux(packet)
    return target


def decoded_numbers(path: Path) -> list[int]:
    """What the frames of a video show, decoded from the beginning."""
    with av.open(str(path)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def reader_of(path: Path, episodes: dict[int, tuple[float, int]], fps: float, **settings: int) -> FrameReader:
    """A reader of the episodes in a video file, by start (seconds) and length."""
    file = VideoFile(path, episodes)
    clips = {episode: VideoClip(path, *place, episode, file) for episode, place in episodes.items()}
    return FrameReader("camera", clips, fps, **settings)
