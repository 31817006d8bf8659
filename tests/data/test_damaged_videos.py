"""Damaged bytes within a video: each frame is the recorded one, or an error names the file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from hf_ptr.data.video.frame_index import read_frame_index
from hf_ptr.data.video.opened_video import OpenVideo
from hf_ptr.errors import InputError

COUNT = 40


def write_moving(path: Path, gop: int) -> Path:
    """Noise that moves by three pixels a frame, so that the frames refer to each other and have many bytes."""
    picture = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 96
        stream.pix_fmt, stream.options = "yuv420p", {"g": str(gop), "crf": "23"}
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * number, axis=1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def overwritten(path: Path, seed: int) -> Path:
    """A copy with 1000 bytes of the pictures replaced."""
    generator = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    first = int(len(content) * generator.uniform(0.2, 0.7))
    content[first : first + 1000] = generator.integers(0, 255, 1000, dtype=np.uint8).tobytes()
    damaged = path.with_name(f"damaged{seed}.mp4")
    damaged.write_bytes(content)
    return damaged


def results(path: Path, order: list[int]) -> list[np.ndarray | None]:
    """The frames, read in an order; None where an error was raised."""
    opened = OpenVideo(path, read_frame_index(path), None)
    found: dict[int, np.ndarray | None] = {}
    for position in order:
        try:
            found[position] = opened.frame_at(position)
        except InputError as error:
            assert str(path) in str(error) and "is damaged" in str(error)
            found[position] = None
    opened.close()
    return [found[position] for position in range(COUNT)]


def wrong(good: list[np.ndarray | None], found: list[np.ndarray | None]) -> list[int]:
    """The positions of the frames that were returned but are not the recorded ones."""
    pairs = enumerate(zip(good, found, strict=True))
    return [
        position
        for position, (right, image) in pairs
        if right is not None and image is not None and float(np.abs(image.astype(int) - right).mean()) > 1
    ]


ORDERS = [list(range(COUNT)), np.random.default_rng(1).permutation(COUNT).tolist()]


@pytest.mark.parametrize("gop", [2, 20])
def test_a_repaired_frame_of_h264_is_an_error(tmp_path: Path, gop: int) -> None:
    path = write_moving(tmp_path / "a.mp4", gop)
    good = results(path, ORDERS[0])
    assert all(image is not None for image in good)
    for seed in range(4):
        damaged = overwritten(path, seed)
        for order in ORDERS:
            found = results(damaged, order)
            assert wrong(good, found) == []
            # Frames that do not refer to the damaged ones can be read.
            assert 0 < sum(image is None for image in found) <= gop + 6
