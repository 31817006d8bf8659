"""Random access to frames of real videos, independent of earlier reads."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from data_helpers import REAL_V21, coded_table, with_camera, write_v21
from hypothesis import given, settings
from hypothesis import strategies as st
from video_helpers import CAMERA, LENGTHS, frame_of

from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.data.video.placement import VideoFile
from hf_ptr.errors import DataWarning, InputError

REAL_CAMERA = "observation.images.cam_high"
# Real robot data if they are available next to the checkout, and always a synthetic folder of the same layout.
V21_SOURCES = ["built", *(["g1_bottle"] if (REAL_V21 / "meta/info.json").is_file() else [])]


def episode_of(images: np.ndarray) -> list[int]:
    return np.round(images[..., 0].mean(axis=(1, 2)) / 60).astype(int).tolist()


def reader(dataset: Path, **settings: int) -> FrameReader:
    table = read_dataset(dataset)
    return FrameReader(CAMERA, table.videos[CAMERA], table.fps, **settings)


def test_every_frame_is_found_in_any_order(dataset: Path) -> None:
    places = [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(places))
        episodes, frames = zip(*(places[i] for i in order), strict=True)
        images = reader(dataset, cache_bytes=0).read(episodes, frames)
        assert images.shape == (sum(LENGTHS), 32, 48, 3) and images.dtype == np.uint8
        assert frame_of(images) == list(frames) and episode_of(images) == list(episodes)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=12), st.integers(0, 20_000))
def test_earlier_reads_do_not_matter(dataset: Path, places: list[tuple[int, int]], cache: int) -> None:
    frames = reader(dataset, cache_bytes=cache)
    for part in (places[: len(places) // 2], places):
        if part:
            images = frames.read(*zip(*part, strict=True))
            assert list(zip(episode_of(images), frame_of(images), strict=True)) == part
    assert frames._cached_bytes <= max(cache, 32 * 48 * 3)


@pytest.fixture(scope="module", params=V21_SOURCES)
def v21(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video per episode, with few key frames and with B-frames."""
    if request.param == "g1_bottle":
        return REAL_V21
    table = with_camera(coded_table([20, 9, 9, 90, 64]), REAL_CAMERA, (48, 64))
    return write_v21(table, tmp_path_factory.mktemp("v21") / "data")


def test_frames_are_those_of_a_whole_decode(v21: Path) -> None:
    table = read_dataset(v21, episodes=[3])
    clip = table.videos[REAL_CAMERA][3]
    with av.open(str(clip.path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(whole) == table.num_frames
    wanted = [table.num_frames - 1, 0, 17, 18, 80, 79]
    images = FrameReader(REAL_CAMERA, table.videos[REAL_CAMERA], table.fps).read([3] * 6, wanted)
    np.testing.assert_array_equal(images, np.stack([whole[frame] for frame in wanted]))
    height, width = whole[17].shape[0] // 4, whole[17].shape[1] // 4
    small = FrameReader(REAL_CAMERA, table.videos[REAL_CAMERA], table.fps, size=(height, width)).read([3], [17])
    assert small.shape == (1, height, width, 3)
    blocks = whole[17].reshape(height, 4, width, 4, 3).mean(axis=(1, 3))
    assert np.abs(small[0] - blocks).mean() < 4


def test_a_frame_is_found_again_at_the_decoder_position(v21: Path) -> None:
    table = read_dataset(v21, episodes=[3, 4])
    frames = FrameReader(REAL_CAMERA, table.videos[REAL_CAMERA], table.fps, size=(24, 32), cache_bytes=0)
    for frame in range(1, 60):
        first = frames.read([3], [frame])
        frames.read([4], [0])
        np.testing.assert_array_equal(frames.read([3], [frame]), first)


def test_a_selection_keeps_the_videos_of_its_episodes(dataset: Path) -> None:
    table = read_dataset(dataset).select([2, 0])
    images = FrameReader(CAMERA, table.videos[CAMERA], table.fps).read(table.episode_index, [11, 3])
    assert episode_of(images) == [2, 0] and frame_of(images) == [11, 3]


def _read_in_a_worker(frames: FrameReader, queue: Any) -> None:
    queue.put(frame_of(frames.read([1, 1], [4, 2])))


def test_a_reader_serves_other_processes(dataset: Path) -> None:
    frames = reader(dataset)
    frames.read([0], [3])
    # A DataLoader pickles the dataset for spawned workers; hf-ptr itself writes no pickle.
    assert frame_of(pickle.loads(pickle.dumps(frames)).read([0], [5])) == [5]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_read_in_a_worker, args=(frames, queue))
    worker.start()
    assert queue.get(timeout=60) == [4, 2]
    worker.join()
    assert frame_of(frames.read([0], [4])) == [4]


def test_wrong_videos_are_one_line(dataset: Path, tmp_path: Path) -> None:
    frames = reader(dataset)
    with pytest.raises(InputError, match="episode 7 has no video of"):
        frames.read([7], [0])
    # Frames of the next episode follow in the file.
    for episode, frame in ((0, 9), (1, -1), (2, 12)):
        with pytest.raises(
            InputError, match=f"episode {episode} has {LENGTHS[episode]} frames; frame {frame} does not exist"
        ):
            frames.read([episode], [frame])
    file = VideoFile(frames.clips[2].path, {0: (0.0, 9), 1: (0.9, 5), 2: (1.4, 20)})
    clips = {episode: VideoClip(file.path, *file.episodes[episode], episode, file) for episode in file.episodes}
    longer = FrameReader(CAMERA, clips, frames.fps)
    with pytest.raises(
        InputError, match=r"'observation.images.top', episode 2: .* is shorter .* 12 frames of the episode's 20"
    ) as refused:
        longer.read([2], [12])
    assert refused.value.skip == (2,)
    with pytest.warns(DataWarning, match="has 26 frames, the table 34"):
        assert frame_of(longer.read([0, 1], [8, 4])) == [8, 4]
    for name, content in (("none.mp4", None), ("empty.mp4", b""), ("noise.mp4", b"\0\1\2" * 500)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        broken = FrameReader(CAMERA, {0: VideoClip(tmp_path / name, 0.0, 1)}, 10.0)
        with pytest.raises(InputError, match="cannot be read as a video") as caught:
            broken.read([0], [0])
        assert "\n" not in str(caught.value)


def test_a_video_cut_off_is_one_line(dataset: Path, tmp_path: Path) -> None:
    whole = read_dataset(dataset).videos[CAMERA][0].path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path = tmp_path / f"{share}.mp4"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError):
            FrameReader(CAMERA, {0: VideoClip(path, 0.0, 8)}, 10.0).read([0] * 8, range(8))


def test_a_path_outside_the_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    info = copy / "meta" / "info.json"
    for template in ("../{video_key}.mp4", "/etc/{video_key}", "{video_key.__class__}", "{video_key:>9999999}"):
        text = (dataset / "meta" / "info.json").read_text()
        before = '"videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"'
        assert before in text
        info.write_text(text.replace(before, f'"{template}"'))
        with pytest.raises(InputError, match="video_path"):
            read_dataset(copy)
