"""torchcodec, if installed, finds the same frames as PyAV."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from data_helpers import REAL_V21, coded_table, with_camera, write_v21

from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.videos import with_video_decoder
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError

CAMERA = "observation.images.cam_high"
LENGTHS = [20, 9, 31]


def _loaded() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


needed = pytest.mark.skipif(not _loaded(), reason="torchcodec, or FFmpeg's shared libraries, are not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes in one file, with few key frames and with B-frames."""
    root = tmp_path_factory.mktemp("torchcodec")
    return convert_lerobot(write_v21(with_camera(coded_table(LENGTHS), CAMERA, (48, 64)), root / "a"), root / "b")


@needed
@pytest.mark.parametrize("real", [False, *([True] if (REAL_V21 / "meta/info.json").is_file() else [])])
def test_both_decoders_give_the_same_frames(folder: Path, real: bool) -> None:
    table = read_dataset(REAL_V21, [3]) if real else read_dataset(folder)
    places = [(3, frame) for frame in (0, 1, 17, 80, int(table.lengths[0]) - 1)]
    if not real:
        places = [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]
    order = [places[i] for i in np.random.default_rng(1).permutation(len(places))]
    pyav, torchcodec = (
        FrameReader(CAMERA, with_video_decoder(table, name).videos[CAMERA], table.fps).read(*zip(*order, strict=True))
        for name in ("pyav", "torchcodec")
    )
    np.testing.assert_array_equal(pyav, torchcodec)
    size = (pyav.shape[1] // 4, pyav.shape[2] // 4)
    small, other = (
        FrameReader(CAMERA, with_video_decoder(table, name).videos[CAMERA], table.fps, size).read(
            *zip(*order, strict=True)
        )
        for name in ("pyav", "torchcodec")
    )
    assert small.shape == other.shape and np.abs(small.astype(int) - other.astype(int)).mean() < 3


@needed
def test_missing_frames_are_one_line(folder: Path, tmp_path: Path) -> None:
    clips = with_video_decoder(read_dataset(folder), "torchcodec").videos[CAMERA]
    path = clips[0].path
    whole = path.read_bytes()
    try:
        for content in (b"no video", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"cannot be read as a video|is damaged") as caught:
                FrameReader(CAMERA, clips, 20.0).read([2], [30])
            assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(whole)


def test_an_unavailable_decoder_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_dataset(folder)
    with pytest.raises(InputError, match=r"unknown video_decoder 'torchcodek'\. Did you mean 'torchcodec'\?"):
        with_video_decoder(table, "torchcodek")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(InputError, match=r"video_decoder torchcodec cannot be loaded .* or remove video_decoder"):
        with_video_decoder(table, "torchcodec")
