"""Parts of episodes written as a dataset: equal values, and the frame of every row, copied, at the time of the row."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import coded_table, snapshot, with_camera, write_v21
from shade_videos import number_of, write_shades
from spoiling import edit_info, edit_rows
from stored_image_helpers import CAMERA as STORED
from stored_image_helpers import image, images_v21, images_v30

from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.metadata import read_metadata
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.rewriting import Part, VideoCounts, write_parts
from hf_ptr.data.lerobot.validation import no_progress, validate_dataset
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.errors import DataWarning, InputError
from hf_ptr.utils.atomic_files import StagedFolder

CAMERA = "observation.images.top"
LENGTHS = [40, 25, 33]
PARTS = [Part(0, 0, 7), Part(0, 13, 40), Part(1, 3, 25), Part(2, 0, 33), Part(2, 5, 6), Part(1, 0, 24)]
KINDS: dict[str, dict[str, Any]] = {
    "two key frames": {"options": {"g": "2", "bf": "0"}},
    "open groups": {"rate": Fraction(20000, 1001), "options": {"g": "12", "bf": "3", "x264-params": "open-gop=1"}},
    "avi": {"container": "avi", "codec": "mpeg4", "options": {"g": "10", "bf": "2"}},
    "hevc": {"codec": "libx265", "options": {"x265-params": "log-level=error:keyint=8:min-keyint=8:open-gop=0"}},
    "av1": {"codec": "libsvtav1", "options": {"g": "2"}},
}


def folder(root: Path, **settings: Any) -> Path:
    """A v2.1 dataset at 20 frames per second; frame `i` of episode `e` shows `100 e + i`."""
    write_v21(with_camera(coded_table(LENGTHS), CAMERA, (48, 64)), root)
    for episode, length in enumerate(LENGTHS):
        path = root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        path.unlink()
        write_shades(path, range(100 * episode, 100 * episode + length), **{"rate": 20, **settings})
    return root


def rewritten(root: Path, out: Path, parts: list[Part], **settings: Any) -> VideoCounts:
    return write_parts(root, read_metadata(root), parts, StagedFolder(out), progress=no_progress, **settings)


def require_frames(root: Path, out: Path, parts: list[Part], *, same_pixels: bool = True) -> None:
    """Every row of the copy shows the frame of its source, at the time of its time stamp."""
    source, copy = read_dataset(root), read_dataset(out)
    before, after = (FrameReader(CAMERA, each.videos[CAMERA], 20.0) for each in (source, copy))
    for number, part in enumerate(parts):
        length = part.stop - part.first
        images = after.read([number] * length, range(length))
        first = 100 * part.episode + part.first
        assert [number_of(image) for image in images] == list(range(first, first + length))
        if same_pixels:
            np.testing.assert_array_equal(images, before.read([part.episode] * length, range(part.first, part.stop)))
        clip = copy.videos[CAMERA][number]
        assert isinstance(clip, VideoClip)
        # LeRobot looks for the frame at this time, within 0.1 ms.
        index, stamps = clip.file.index, stored(out, "timestamp")[slice_of(copy, number)]
        shown = index.start + index.seconds[[clip.position(row, 20.0) for row in range(length)]]
        np.testing.assert_allclose(shown, clip.start + stamps, atol=1e-4)


def stored(root: Path, column: str) -> np.ndarray:
    return np.array(pq.ParquetFile(root / "data/chunk-000/file-000.parquet").read()[column].to_pylist())


def slice_of(table: Any, number: int) -> slice:
    return slice(table.starts[number], table.starts[number] + table.lengths[number])


@pytest.mark.parametrize("kind", KINDS)
def test_videos_are_cut_without_decoding_in_every_format(tmp_path: Path, kind: str) -> None:
    v21 = folder(tmp_path / "v21", **KINDS[kind])
    v30 = convert_lerobot(v21, tmp_path / "v30")
    for root in (v21, v30):
        out = tmp_path / f"{root.name}-parts"
        counts = rewritten(root, out, PARTS)
        assert (counts.copied, counts.encoded) == (sum(part.stop - part.first for part in PARTS), 0)
        require_frames(root, out, PARTS)
        # Frames between a key frame and the first row of a part are known not to be shown, and need no warning.
        assert counts.unshown > 0 and validate_dataset(out, every_frame=True).problems == []


def test_tables_and_metadata_of_a_copy(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21")
    source = read_dataset(root)
    parts = [Part(2, 4, 20), Part(0, 10, 40, shift=-3), Part(1, 0, 20, shift=5, task="new words"), Part(0, 0, 5)]
    rewritten(root, tmp_path / "out", parts, shifted=["action"])
    copy = read_dataset(tmp_path / "out")
    assert copy.episode_index.tolist() == [0, 1, 2, 3] and copy.lengths.tolist() == [16, 30, 20, 5]
    assert copy.frame_id.tolist() == list(range(71)) and copy.tasks == (*source.tasks, "new words")
    for number, part in enumerate(parts):
        at, rows = source.starts[part.episode], slice_of(copy, number)
        assert set(copy.task_index[rows]) == {3 if part.task else part.episode}
        for name, shift in (("observation.state", 0), ("action", part.shift)):
            taken = source.columns[name][at + part.first + shift : at + part.stop + shift]
            assert copy.columns[name][rows].tobytes() == taken.tobytes()
        # The same bits as of an episode that was recorded from this frame on.
        nominal = (np.arange(rows.stop - rows.start) / 20).astype(np.float32)
        assert stored(tmp_path / "out", "timestamp")[rows].astype(np.float32).tobytes() == nominal.tobytes()
        assert stored(tmp_path / "out", "frame_index")[rows].tolist() == list(range(len(nominal)))
    episodes = pq.ParquetFile(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").read().to_pylist()
    assert [row["tasks"] for row in episodes][2] == ["new words"]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in episodes][1] == (16, 46)
    assert episodes[0]["stats/action/max"][1] == 19.0 and episodes[0]["stats/frame_index/count"] == [16]
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert stats["action"]["count"] == [71] and stats["index"]["max"] == [70]
    np.testing.assert_allclose(stats["action"]["mean"], copy.columns["action"].mean(axis=0), rtol=1e-5)


def test_notes_with_times_and_the_end_of_an_episode_are_those_of_the_part(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21")

    def note(content: str, seconds: float, style: str = "subtask") -> dict[str, Any]:
        return {"role": "assistant", "content": content, "style": style, "timestamp": seconds, "camera": None}

    notes = [note("reach", 0.0), note("plan", 0.0, "plan"), note("grasp", 0.25), note("lift", 0.75), note("end", 1.5)]
    for episode, length in enumerate(LENGTHS):
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        rows = pq.read_table(path).append_column("language_persistent", pa.array([notes] * length))
        rows = rows.append_column("next.done", pa.array([row == 39 for row in range(length)]))
        pq.write_table(rows, path)
    parts = [Part(0, 10, 25), Part(0, 0, 40), Part(1, 0, 20), Part(0, 20, 40)]
    rewritten(root, tmp_path / "out", parts)
    rows = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pylist()
    first, whole, begin, end = (rows[at]["language_persistent"] for at in (3, 15, 55, 75))
    # The frames that the notes begin with; LeRobot compares times exactly.
    assert first == [note("plan", 0.0, "plan"), note("grasp", 0.0), note("lift", rows[5]["timestamp"])]
    assert (whole, begin[-1]) == (notes, note("lift", 0.75))
    assert [(each["content"], each["timestamp"]) for each in end] == [
        ("plan", 0.0), ("lift", 0.0), ("end", rows[85]["timestamp"])
    ]  # fmt: skip
    assert [number for number, row in enumerate(rows) if row["next.done"]] == [14, 54, 94]


def test_frames_get_the_times_of_a_clock_that_jitters(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21", options={"g": "6", "bf": "2"})
    rng = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        clock = (0.03 + np.arange(length) / 20 + rng.uniform(0, 0.02, length)).tolist()
        edit_rows(f"data/chunk-000/episode_{episode:06d}.parquet", "timestamp", lambda _, t=clock: t)(root)
    v30 = convert_lerobot(root, tmp_path / "v30")
    for each in (root, v30):
        rewritten(each, tmp_path / f"{each.name}-parts", PARTS)
        require_frames(each, tmp_path / f"{each.name}-parts", PARTS)
        warnings = validate_dataset(tmp_path / f"{each.name}-parts").problems
        # Only what such a clock is: torchcodec, which takes frames by the mean rate, is not made for it.
        known = ("timestamp", "LeRobot with torchcodec refuses")
        assert [text for text in map(str, warnings) if not any(part in text for part in known)] == []


def test_the_clock_of_a_part_with_another_rate_is_kept_as_far_as_readers_accept_it(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21")
    # Slow, then fast: right on average.
    clock = np.cumsum([0.0, *[0.075] * 10, *[0.04] * 14])
    edit_rows("data/chunk-000/episode_000001.parquet", "timestamp", lambda _: clock.tolist())(root)
    parts = [Part(1, 0, 25), Part(1, 0, 11)]
    with pytest.warns(DataWarning, match="time stamps of parts of episode 1 are moved towards frame / fps"):
        rewritten(root, tmp_path / "out", parts)
    times = stored(tmp_path / "out", "timestamp")
    np.testing.assert_allclose(times[:25], clock, atol=1e-6)
    shares = (times[26:] - np.arange(1, 11) / 20) / (clock[1:11] - np.arange(1, 11) / 20)
    np.testing.assert_allclose(shares, shares[0], atol=1e-4)
    assert 0 <= shares[0] < 1 and validate_dataset(tmp_path / "out").errors == []
    require_frames(root, tmp_path / "out", parts)


def test_frames_that_cannot_be_copied_are_encoded_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21", codec="libvpx", container="webm")
    assert rewritten(root, tmp_path / "out", PARTS).encoded == 114
    require_frames(root, tmp_path / "out", PARTS, same_pixels=False)
    source, copy = (read_dataset(each).videos[CAMERA] for each in (root, tmp_path / "out"))
    before, after = FrameReader(CAMERA, source, 20.0), FrameReader(CAMERA, copy, 20.0)
    difference = after.read([1] * 27, range(27)).astype(float) - before.read([0] * 27, range(13, 40))
    assert 10 * np.log10(255**2 / np.maximum((difference**2).mean(axis=(1, 2, 3)), 1e-9)).min() >= 35
    assert not [path for path in (tmp_path / "out").iterdir() if path.name not in ("data", "meta", "videos")]
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="is encoded as vp8, which MP4 files cannot hold; re-encode it"):
        rewritten(root, tmp_path / "other", PARTS, encode=False)
    assert snapshot(tmp_path) == before


def test_frames_of_odd_size_are_encoded_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21", codec="libvpx", container="webm")
    for episode, length in enumerate(LENGTHS):
        video = root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        video.unlink()
        with av.open(str(video), "w", format="webm") as container:
            stream = container.add_stream("libvpx", rate=20)
            stream.width, stream.height, stream.pix_fmt = 63, 47, "yuv420p"
            for row in range(length):
                image = np.full((47, 63, 3), 5 * row, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(features={**features, CAMERA: {**features[CAMERA], "shape": [47, 63, 3]}})(root)
    assert rewritten(root, tmp_path / "out", [Part(0, 3, 20)]).encoded == 17
    copy = read_dataset(tmp_path / "out")
    shown = FrameReader(CAMERA, copy.videos[CAMERA], 20.0).read([0] * 17, range(17))
    assert shown.shape[1:3] == (47, 63)
    np.testing.assert_allclose(shown.mean(axis=(1, 2, 3)), 5.0 * np.arange(3, 20), atol=3)


@pytest.mark.parametrize("v30", [True, False])
def test_stored_images_are_copied(tmp_path: Path, v30: bool) -> None:
    root = images_v30(tmp_path / "in") if v30 else images_v21(tmp_path / "in", in_files=True)
    rewritten(root, tmp_path / "out", [Part(2, 3, 8), Part(0, 0, 7)])
    copy = read_dataset(tmp_path / "out")
    seen = FrameReader(STORED, copy.videos[STORED], copy.fps).read([0, 0, 1], [0, 4, 6])
    np.testing.assert_array_equal(seen, [image(2, 3), image(2, 7), image(0, 6)])


def test_a_copy_of_a_copy(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21", options={"g": "12", "bf": "0"})
    rewritten(root, tmp_path / "one", [Part(0, 5, 40), Part(2, 7, 30)])
    rewritten(tmp_path / "one", tmp_path / "two", [Part(1, 2, 23), Part(0, 0, 35)])
    require_frames(root, tmp_path / "two", [Part(2, 9, 30), Part(0, 5, 40)])
    assert validate_dataset(tmp_path / "two", every_frame=True).problems == []


def test_a_depth_video_is_left_out_with_a_warning(tmp_path: Path) -> None:
    root = folder(tmp_path / "v21")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    depth = {"dtype": "video", "shape": [48, 64, 1], "names": None, "info": {"video.is_depth_map": True}}
    edit_info(features={**features, "observation.depth": depth})(root)
    with pytest.warns(DataWarning, match="the video 'observation.depth' is left out, because it is a depth map"):
        rewritten(root, tmp_path / "out", PARTS)
    assert "observation.depth" not in json.loads((tmp_path / "out/meta/info.json").read_text())["features"]
    assert validate_dataset(tmp_path / "out").problems == []
