"""Every frame of every kind of video is found, whatever was read before: the frames show their own number."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from shade_videos import copied, decoded_numbers, number_of, reader_of, write_shades

from hf_ptr.data.video.decoding import FrameReader, video_header
from hf_ptr.data.video.frame_index import _from_table, opened, read_frame_index
from hf_ptr.data.video.opened_video import OpenVideo
from hf_ptr.data.video.placement import VideoFile
from hf_ptr.errors import DataWarning, InputError

COUNT = 60
QUIET = {"x265-params": "log-level=error"}
OPEN_GOP = {"g": "12", "bf": "3", "x264-params": "open-gop=1"}
# Name of the file, encoder and its options.
KINDS = {
    "hevc as LeRobot writes it": ("a.mp4", "libx265", {"g": "2", "crf": "30", **QUIET}),
    "hevc, open GOP": ("a.mp4", "libx265", {"x265-params": "log-level=error:keyint=12"}),
    "hevc, closed GOP": ("a.mp4", "libx265", {"x265-params": "log-level=error:keyint=12:open-gop=0"}),
    "hevc, long GOP": ("a.mp4", "libx265", QUIET),
    "hevc in mkv": ("a.mkv", "libx265", {"x265-params": "log-level=error:keyint=10"}),
    "h264 as LeRobot writes it": ("a.mp4", "libx264", {"g": "2", "crf": "30"}),
    "h264, no B-frames": ("a.mp4", "libx264", {"g": "10", "bf": "0"}),
    "h264, B-frames": ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    "h264, open GOP": ("a.mp4", "libx264", OPEN_GOP),
    "h264, intra refresh": ("a.mp4", "libx264", {"g": "15", "x264-params": "intra-refresh=1"}),
    "h264, open GOP, mkv": ("a.mkv", "libx264", OPEN_GOP),
    "h264, mov": ("a.mov", "libx264", OPEN_GOP),
    "h264, ts": ("a.ts", "libx264", OPEN_GOP),
    "h264, avi": ("a.avi", "libx264", {"g": "12", "bf": "3"}),
    "h264, avi, no B-frames": ("a.avi", "libx264", {"g": "12", "bf": "0"}),
    "mpeg4, avi": ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2": ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
    "mjpeg, avi": ("a.avi", "mjpeg", {}),
    "vp8, webm": ("a.webm", "libvpx", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "7"}),
    "vp9, webm": ("a.webm", "libvpx-vp9", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9, mp4": ("a.mp4", "libvpx-vp9", {"g": "15"}),
    "av1 as LeRobot writes it": ("a.mp4", "libsvtav1", {"g": "2", "crf": "30"}),
    "av1, long GOP": ("a.mp4", "libsvtav1", {"g": "30"}),
    "av1, open GOP": ("a.mp4", "libsvtav1", {"g": "16", "svtav1-params": "irefresh-type=1"}),
    "av1, webm": ("a.webm", "libsvtav1", {"g": "10"}),
}


def seen(reader: FrameReader, rows: list[int], episode: int = 0) -> list[int]:
    return [number_of(image) for image in reader.read([episode] * len(rows), rows)]


def require_every_frame(path: Path, count: int, fps: float = 30.0) -> None:
    """Cold, forward, backward and in random order."""
    rows = list(range(count))
    episodes = {0: (0.0, count)}
    index = read_frame_index(path)
    assert len(index) == count
    for row in rows:
        cold = OpenVideo(path, index, None)
        image = cold.frame_at(row)
        assert image is not None and number_of(image) == row
        cold.close()
    orders = [rows, rows[::-1], np.random.default_rng(0).permutation(count).tolist()]
    for order in orders:
        reader = reader_of(path, episodes, fps, cache_bytes=0)
        assert [seen(reader, [row])[0] for row in order] == order


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_of_every_kind_of_video(tmp_path: Path, kind: str) -> None:
    name, codec, options = KINDS[kind]
    path = write_shades(tmp_path / name, range(COUNT), codec=codec, options=options)
    assert decoded_numbers(path) == list(range(COUNT))
    require_every_frame(path, COUNT)
    assert video_header(path).frames == COUNT and (video_header(path).height, video_header(path).width) == (48, 64)


@pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov+default_base_moof", "hybrid_fragmented", "faststart"])
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_containers_that_do_not_count_their_frames(tmp_path: Path, movflags: str, codec: str) -> None:
    path = write_shades(
        tmp_path / "a.mp4", range(40), codec=codec, options={"g": "10"}, mux_options={"movflags": movflags}
    )
    require_every_frame(path, 40)


@pytest.mark.parametrize("shift", [0, 25_600, 180])
def test_the_first_time_stamp_may_be_any(tmp_path: Path, shift: int) -> None:
    path = write_shades(tmp_path / "a.mp4", range(40), options={"g": "12", "bf": "3"})
    require_every_frame(copied(path, tmp_path / "shifted.mp4", shift=shift), 40)


def test_frames_before_an_edit_list_do_not_count(tmp_path: Path) -> None:
    path = write_shades(tmp_path / "a.mp4", range(50), options={"g": "12", "bf": "3"})
    cut = copied(path, tmp_path / "cut.mp4", shift=-15 * 512)
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 50
    shown = decoded_numbers(cut)
    assert shown == list(range(15, 50))
    reader = reader_of(cut, {0: (0.0, 35)}, 30.0, cache_bytes=0)
    for row in (34, 0, 12, 5, 20, 19):
        assert seen(reader, [row]) == [15 + row]


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", OPEN_GOP), ("libx265", {"x265-params": "log-level=error:keyint=12"})]
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_cut_at_an_open_gop_counts_what_can_be_decoded(
    tmp_path: Path, codec: str, options: dict[str, str], ending: str
) -> None:
    whole = write_shades(tmp_path / "a.mp4", range(50), codec=codec, options=options)
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for first in [number for number, packet in enumerate(packets) if packet.is_keyframe][1:3]:
        cut = copied(whole, tmp_path / f"{first}.{ending}", first=first)
        shown = decoded_numbers(cut)
        index = read_frame_index(cut)
        assert len(index) == len(shown)
        for position in range(len(shown)):
            opened = OpenVideo(cut, index, None)
            image = opened.frame_at(position)
            assert image is not None and number_of(image) == shown[position]
            opened.close()


@pytest.mark.parametrize(("rate", "fps"), [((30000, 1001), 30), ((24000, 1001), 24), ((60000, 1001), 60)])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_camera_that_is_slower_than_the_table(tmp_path: Path, rate: tuple[int, int], fps: int, ending: str) -> None:
    """Half a frame is reached after 500 frames, so every later row would show the wrong frame by time."""
    count = 1060
    path = write_shades(
        tmp_path / f"a.{ending}", range(count), rate=Fraction(*rate), options={"g": "20", "preset": "ultrafast"}
    )
    episodes = {number: (106 * number / fps, 106) for number in range(10)}
    reader = reader_of(path, episodes, fps, cache_bytes=0)
    with pytest.warns(DataWarning, match=r"half a frame after (49|50)\d frames.*assigned in order"):
        for episode in (9, 0, 5, 7):
            rows = [0, 51, 105]
            assert seen(reader, rows, episode) == [106 * episode + row for row in rows]
    # With one frame too many, each episode is right or refused.
    refused = 0
    reader = reader_of(path, {**episodes, 9: (106 * 9 / fps, 105)}, fps, cache_bytes=0)
    with pytest.warns(DataWarning, match=r"has 1060 frames, the table 1059"):
        for episode in range(10):
            try:
                assert seen(reader, [0, 104], episode) == [106 * episode, 106 * episode + 104]
            except InputError as error:
                refused += 1
                assert f"because the video runs at {rate[0] // rate[1]}.9" in str(error)
                assert error.skip == (episode,)
    assert refused >= 5


def test_a_variable_rate(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).integers(20, 80, 59)
    times = [0, *np.cumsum(steps).tolist()]
    path = write_shades(
        tmp_path / "a.mkv", range(60), options={"g": "12", "bf": "3"}, times=times, base=Fraction(1, 1000)
    )
    with pytest.warns(DataWarning, match="assigned in order"):
        require_every_frame(path, 60)


def test_several_episodes_in_a_file_and_frames_between_them(tmp_path: Path) -> None:
    path = write_shades(tmp_path / "a.mp4", range(100), options=OPEN_GOP)
    reader = reader_of(path, {4: (0.0, 30), 7: (32 / 30, 40), 9: (2.5, 25)}, 30.0)
    with pytest.warns(DataWarning, match="has 100 frames, the table 95; frames are chosen by time"):
        assert seen(reader, [0, 29], 4) == [0, 29]
    assert seen(reader, [0, 39], 7) == [32, 71] and seen(reader, list(range(25)), 9) == list(range(75, 100))


def test_missing_and_doubled_frames(tmp_path: Path) -> None:
    kept = [number for number in range(40) if number != 17]
    path = write_shades(
        tmp_path / "gap.mp4",
        kept,
        options={"bf": "0"},
        times=[512 * number for number in kept],
        base=Fraction(1, 15360),
    )
    with pytest.raises(InputError, match=r"episode 0: .*nearest to row 17 .* is 1\.00 frames away"):
        reader_of(path, {0: (0.0, 40)}, 30.0).read([0], [3])
    with pytest.raises(InputError, match=r"it has 39 frames of the episode's 40"):
        reader_of(write_shades(tmp_path / "short.mp4", range(39)), {0: (0.0, 40)}, 30.0).read([0], [3])
    doubled = sorted([*range(40), 17])
    with pytest.warns(DataWarning, match="has 41 frames, the table 40"):
        reader_of(write_shades(tmp_path / "doubled.mp4", doubled), {0: (0.0, 40)}, 30.0).read([0], [3])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
@pytest.mark.filterwarnings("ignore::hf_ptr.errors.DataWarning")
def test_a_video_cut_off_gives_its_frames_or_one_line(tmp_path: Path, share: float, name: str) -> None:
    whole = write_shades(
        tmp_path / name, range(600), options={"g": "10", "bf": "0", "preset": "ultrafast"},
        mux_options={"movflags": "faststart"} if name == "a.mp4" else None,
    )  # fmt: skip
    content = whole.read_bytes()
    whole.write_bytes(content[: int(share * len(content))])
    left = len(read_frame_index(whole))
    assert 0 < left < 600
    episodes = {number: (number * 2.0, 60) for number in range(10)}
    reader = reader_of(whole, episodes, 30.0)
    for number in episodes:
        if 60 * (number + 1) <= left:
            # The last frame before the cut may lack a part of its bytes.
            assert seen(reader, [0, 58], number) == [60 * number, 60 * number + 58]
        else:
            with pytest.raises(InputError, match=r"it has \d+ frames of the episode's 60") as caught:
                reader.read([number], [0])
            assert caught.value.skip == (number,)


def test_deep_pixels_are_never_read_as_colours(tmp_path: Path) -> None:
    path = tmp_path / "depth.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "gray16le"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(64, 48, "gray16le")))
        out.mux(stream.encode(None))
    with pytest.raises(InputError, match="stores gray16le pixels, which are depth or 16-bit values"):
        reader_of(path, {0: (0.0, 3)}, 30.0).read([0], [0])


def test_the_indices_of_many_files_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_ptr.data.video.frame_index.KEPT_FRAMES", 25)
    files = []
    for number in range(4):
        path = write_shades(tmp_path / f"{number}.mp4", range(10), options={"g": "5"})
        files.append(VideoFile(path, {0: (0.0, 10)}))
    indices = [weakref.ref(file.index) for file in files]
    gc.collect()
    assert [index() is None for index in indices] == [True, True, False, False]
    # A dropped index is read again.
    assert [file.frame_of(0, 9, 30.0) for file in files] == [9] * 4


def test_without_the_table_of_a_file_its_packets_are_read(tmp_path: Path) -> None:
    """PyAV 15 has no `index_entries`."""
    path = write_shades(tmp_path / "a.mp4", range(10), codec="libsvtav1", options={"g": "2"})
    with opened(path) as (container, stream):
        assert len(_from_table(container, stream)) == 10
        older = SimpleNamespace(codec_context=stream.codec_context, frames=stream.frames)
        assert _from_table(container, older) is None


def test_labels_need_not_ascend(tmp_path: Path) -> None:
    path = write_shades(tmp_path / "a.mp4", range(10), options={"g": "5", "bf": "0"})
    index = read_frame_index(path)
    shuffled = np.random.default_rng(0).permutation(10)
    opened = OpenVideo(path, dataclasses.replace(index, labels=index.labels[shuffled]), None)
    assert [opened._place(int(label)) for label in index.labels] == np.argsort(shuffled).tolist()
    assert opened._place(-1) is None and opened._place(int(index.labels.max()) + 1) is None
    opened.close()
