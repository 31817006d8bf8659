"""What goes wrong with single videos: only the episodes concerned are lost, with the cause and the way out."""

from __future__ import annotations

import io
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import coded_table, with_camera, write_v21
from PIL import Image
from shade_videos import number_of, write_shades
from spoiling import Spoil, edit_feature, edit_rows
from torch.utils.data import DataLoader, get_worker_info
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.stored_images import png
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import DataWarning, InputError

CAMERA = "observation.images.top"
LENGTHS = [40, 25, 33]
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"
VIDEO_1 = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same episodes as v2.1 and v3.0; frame `i` of episode `e` shows `100 e + i`."""
    root = tmp_path_factory.mktemp("cameras")
    v21 = write_v21(with_camera(coded_table(LENGTHS), CAMERA, (48, 64)), root / "v21")
    for episode, length in enumerate(LENGTHS):
        path = v21 / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        write_shades(path, range(100 * episode, 100 * episode + length), rate=20)
    return {"v2.1": v21, "v3.0": convert_lerobot(v21, root / "v30")}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return {name: Path(shutil.copytree(root, tmp_path / name)) for name, root in folders.items()}


def problems(root: Path, **settings: Any) -> list[str]:
    return [str(problem) for problem in validate_dataset(root, **settings).problems]


def shown(root: Path, episode: int, rows: list[int]) -> list[int]:
    table = read_dataset(root)
    reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps)
    return [number_of(image) for image in reader.read([episode] * len(rows), rows)]


def begins(change: Any) -> Spoil:
    return edit_rows(EPISODES, f"videos/{CAMERA}/from_timestamp", change)


def test_a_drifting_from_timestamp_is_noted_and_read_in_order(copy: dict[str, Path]) -> None:
    root = copy["v3.0"]
    begins(lambda values: [value + 0.06 * number for number, value in enumerate(values)])(root)
    line, *refused = problems(root, every_frame=True)
    assert [each.partition(" of ")[0] for each in refused] == [
        f"warning: episode {episode}, frame 0: LeRobot refuses rows" for episode in (1, 2)
    ]
    assert line.startswith(f"warning: {VIDEO}: the frames of episode 2 are up to 2.4 frames away")
    with pytest.warns(DataWarning, match="assigned in order .hf-ptr validate lists"):
        assert shown(root, 2, [0, 32]) == [200, 232]
    # Selected episodes see the same frames: the count is that of all episodes in the file.
    table = read_dataset(root, [2])
    with pytest.warns(DataWarning):
        images = FrameReader(CAMERA, table.videos[CAMERA], table.fps).read([2], [7])
    assert number_of(images[0]) == 207


def test_a_slower_camera_is_noted_once_for_each_camera(copy: dict[str, Path]) -> None:
    root = copy["v3.0"]
    numbers = [100 * episode + frame for episode, length in enumerate(LENGTHS) for frame in range(length)]
    write_shades(root / VIDEO, numbers, rate=Fraction(2000, 101))
    line, *refused = problems(root, every_frame=True)
    assert len(refused) == 3 and all("LeRobot refuses rows" in each for each in refused)
    assert "because the video runs at 19.802 frames per second and info.json has 20 (half a frame after 50" in line
    with pytest.warns(DataWarning) as caught:
        table = read_dataset(root)
        reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps)
        for episode in (2, 0, 1):
            assert number_of(reader.read([episode], [20])[0]) == 100 * episode + 20
    assert len(caught) == 1
    write_shades(root / VIDEO, [*numbers, 999], rate=Fraction(2000, 101))
    lines = problems(root)
    assert [line.split(":")[0] for line in lines] == ["warning", "warning", "error", "error"]
    assert validate_dataset(root).skippable == [1, 2]


def test_one_missing_or_broken_video_costs_its_episode_only(copy: dict[str, Path]) -> None:
    root = copy["v2.1"]
    for content, cause in ((None, "the file is missing"), (b"no video", "Invalid data")):
        (root / VIDEO_1).unlink(missing_ok=True)
        if content is not None:
            (root / VIDEO_1).write_bytes(content)
        table = read_dataset(root)
        reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps)
        assert number_of(reader.read([0], [5])[0]) == 5 and number_of(reader.read([2], [5])[0]) == 205
        with pytest.raises(
            InputError, match=f"camera '{CAMERA}', episode 1: .*episode_000001.mp4 .*{cause}"
        ) as caught:
            reader.read([0, 1], [6, 0])
        assert caught.value.skip == (1,) and str(caught.value).endswith("repair the file or leave the episode out")
        assert validate_dataset(root).skippable == [1]
        left = ChunkDataset(table.select([0, 2]), chunk_size=4, observation_features=[CAMERA])
        assert left.batch([0])["observation"].shape == (1, 1, 96, 96, 3)


def test_the_command_names_the_option_that_leaves_the_episode_out(copy: dict[str, Path], tmp_path: Path) -> None:
    (copy["v2.1"] / VIDEO_1).unlink()
    found = CliRunner().invoke(app, ["validate", str(copy["v2.1"])])
    assert found.exit_code == 2 and "episode 1" in found.stdout
    assert CliRunner().invoke(app, ["validate", str(copy["v2.1"]), "--skip-episodes", "1"]).exit_code == 0
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        json.dumps({
            "dataset": str(copy["v2.1"]), "output_dir": str(tmp_path / "out"), "observation_features": [CAMERA],
            "size": "tiny", "max_steps": 1, "alpha": 0.0, "belief_tokens": 0,
        })
    )  # fmt: skip
    refused = CliRunner().invoke(app, ["train", str(recipe), "--dry-run"])
    assert isinstance(refused.exception, InputError)
    assert "episode_000001.mp4 is missing" in str(refused.exception)
    assert str(refused.exception).endswith('leave this episode out (skip_episodes: "1")')


def test_a_matroska_video_of_a_browser_is_usable(copy: dict[str, Path]) -> None:
    for container, codec in (("webm", "libvpx-vp9"), ("matroska", "libx264")):
        write_shades(copy["v2.1"] / VIDEO_1, range(100, 125), rate=20, container=container, codec=codec)
        assert problems(copy["v2.1"], every_frame=True) == []
        assert shown(copy["v2.1"], 1, [0, 24, 11]) == [100, 124, 111]


def test_a_pause_in_a_video_is_not_another_rate(copy: dict[str, Path]) -> None:
    times = [50 * number + (2000 if number > 12 else 0) for number in range(25)]
    write_shades(copy["v2.1"] / VIDEO_1, range(100, 125), times=times, base=Fraction(1, 1000), container="matroska")
    line, refused = problems(copy["v2.1"], every_frame=True)
    assert line.startswith("warning: episode 1: ") and "up to 40.0 frames away" in line
    assert "LeRobot refuses rows" in refused and "up to 0.6 s away" in refused
    edit_rows(
        "data/chunk-000/episode_000001.parquet", "timestamp", lambda _: [float(np.float32(t / 1000)) for t in times]
    )(copy["v2.1"])
    assert not any("frames away" in line for line in problems(copy["v2.1"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"info": {"is_depth_map": True}}, {"info": {"video.is_depth_map": True}}, {"shape": [48, 64, 1]},
        {"info": {"video.pix_fmt": "gray12le"}}, {"info": {"video.pix_fmt": "gray16le"}}, {"shape": [1, 48, 64]},
    ],
)  # fmt: skip
def test_depth_is_left_out_with_a_reason(copy: dict[str, Path], changes: dict[str, Any]) -> None:
    edit_feature(CAMERA, **changes)(copy["v2.1"])
    assert list(read_dataset(copy["v2.1"]).videos) == []
    found = validate_dataset(copy["v2.1"])
    assert found.usable and "left out, because" in str(found.features[CAMERA])
    with pytest.raises(InputError, match=CAMERA):
        ChunkDataset(read_dataset(copy["v2.1"]), chunk_size=4, observation_features=[CAMERA])


@pytest.mark.parametrize(("dtype", "container"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.float32, "TIFF")])
def test_stored_images_of_more_than_8_bits_are_one_line(
    copy: dict[str, Path], tmp_path: Path, dtype: type, container: str
) -> None:
    deep = io.BytesIO()
    Image.fromarray((np.arange(48 * 64).reshape(48, 64) * 20).astype(dtype)).save(deep, container)
    root = copy["v2.1"]
    edit_feature(CAMERA, dtype="image")(root)
    for episode, length in enumerate(LENGTHS):
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        rows = pq.ParquetFile(path).read()
        cells = [{"bytes": png(np.zeros((48, 64, 3), np.uint8)), "path": None}] * length
        if episode == 1:
            cells[3] = {"bytes": deep.getvalue(), "path": None}
        pq.write_table(rows.append_column(CAMERA, pa.array(cells)), path)
    (line,) = problems(root, every_frame=True)
    assert line.startswith("error: episode 1, frame 3: ") and "pixels of more than 8 bits" in line


def test_the_cache_is_shared_by_the_workers_of_a_loader(folders: dict[str, Path]) -> None:
    table = read_dataset(folders["v3.0"])
    chunks = ChunkDataset(table, chunk_size=4, observation_features=[CAMERA], image_size=(48, 64))
    image = 48 * 64 * 3
    assert chunks.images is not None
    for reader in chunks.images.readers:
        reader.cache_bytes = 20 * image

    def cached(_: Any) -> tuple[int, int]:
        (reader,) = get_worker_info().dataset.images.readers
        return reader.sharers, reader._cached_bytes

    for workers in (1, 2):
        loader = DataLoader(chunks, batch_size=30, num_workers=workers, collate_fn=cached)
        for sharers, held in loader:
            assert sharers == workers and held <= 20 * image // workers
    chunks.batch(range(40))
    assert chunks.images.readers[0].sharers == 1


def test_the_cache_is_shared_by_the_devices_of_a_machine(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    chunks = ChunkDataset(read_dataset(folders["v3.0"]), chunk_size=4, observation_features=[CAMERA])
    chunks.batch([0])
    assert chunks.images is not None and chunks.images.readers[0].sharers == 4
