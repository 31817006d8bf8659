"""Images stored in tables: writing, reading, validation and conversion, bit-identical."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import coded_table, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoiling import edit_rows, set_row
from stored_image_helpers import CAMERA, LENGTHS, image, images_v21, images_v30
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.stored_images import png
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError

DATA = "data/chunk-000/file-000.parquet"
DATA_1 = "data/chunk-000/episode_000001.parquet"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("images")
    found = {"v3.0": images_v30(root / "v30"), "v2.1": images_v21(root / "v21"), "files": images_v21(root / "f", True)}
    return {**found, **{f"{name} converted": convert_lerobot(found[name], root / name) for name in ("v2.1", "files")}}


@pytest.mark.parametrize("name", ["v3.0", "v2.1", "files", "v2.1 converted", "files converted"])
def test_images_are_bit_identical(folders: dict[str, Path], name: str) -> None:
    root = folders[name]
    assert validate_dataset(root, every_frame=True).problems == []
    table = read_dataset(root)
    assert list(table.videos) == [CAMERA] and table.num_frames == sum(LENGTHS)
    places = [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]
    order = [places[i] for i in np.random.default_rng(0).permutation(len(places))]
    reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps, cache_bytes=5 * 18 * 22 * 3)
    seen = reader.read(*zip(*order, strict=True))
    np.testing.assert_array_equal(seen, np.stack([image(*place) for place in order]))
    assert reader.decoded == len(places)
    for name_of_feature, column in coded_table(LENGTHS).columns.items():
        np.testing.assert_array_equal(table.columns[name_of_feature], column)
    for beyond in (LENGTHS[1], -1):
        with pytest.raises(InputError, match=f"episode 1 has 4 frames; frame {beyond} does not exist"):
            reader.read([1], [beyond])


def test_all_ways_give_the_same_batches(folders: dict[str, Path]) -> None:
    batches = []
    for root in folders.values():
        cut: dict[str, Any] = {"chunk_size": 3, "target_offset": 2, "image_size": (9, 11)}
        chunks = ChunkDataset(read_dataset(root, [2, 0]), observation_features=[CAMERA], **cut)
        batches.append(chunks.batch(range(len(chunks))))
    for other in batches[1:]:
        for key, value in batches[0].items():
            assert value.equal(other[key]), key
    area = image(2, 0).reshape(9, 2, 11, 2, 3).mean(axis=(1, 3))
    assert np.abs(batches[0]["observation"][0, 0].numpy() - area).max() <= 1


def test_image_statistics_are_exact(folders: dict[str, Path]) -> None:
    pixels = np.concatenate([image(e, f).reshape(-1, 3) for e, n in enumerate(LENGTHS) for f in range(n)]) / 255
    for name in ("v3.0", "v2.1 converted"):
        stats = json.loads((folders[name] / "meta/stats.json").read_text())[CAMERA]
        np.testing.assert_allclose(np.ravel(stats["mean"]), pixels.mean(axis=0), rtol=1e-9)
        assert np.shape(stats["std"]) == (3, 1, 1) and stats["count"] == [sum(LENGTHS)]


Cell = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cell: None, "image 'observation.images.top' in row 3 is missing"),
        (lambda cell: {"bytes": None, "path": None}, "in row 3 is missing"),
        (lambda cell: {**cell, "bytes": cell["bytes"][:90]}, "in row 3 is damaged"),
        (lambda cell: {**cell, "bytes": b"GIF89a"}, "in row 3 is damaged"),
        (lambda cell: {"bytes": None, "path": "../secret.png"}, r"'\.\./secret\.png' leaves the dataset's folder"),
        (lambda cell: {"bytes": None, "path": "/etc/passwd"}, "'/etc/passwd' leaves the dataset's folder"),
        (lambda cell: {"bytes": None, "path": "https://host/a.png"}, "leaves the dataset's folder"),
        (lambda cell: {"bytes": None, "path": "images/none.png"}, r"images/none\.png cannot be read"),
    ],
)
def test_a_wrong_image_is_one_line(folders: dict[str, Path], tmp_path: Path, change: Cell, message: str) -> None:
    root = Path(shutil.copytree(folders["v2.1"], tmp_path / "v21"))
    edit_rows(DATA_1, CAMERA, lambda cells: [*cells[:3], change(cells[3])])(root)
    before = snapshot(tmp_path)
    found = validate_dataset(root)
    assert len(found.problems) == 1 and found.skippable == [1]
    assert str(found.problems[0]).startswith("error: episode 1, frame 3: ")
    with pytest.raises(InputError, match=message) as caught:
        FrameReader(CAMERA, read_dataset(root).videos[CAMERA], 20.0).read([1], [3])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        convert_lerobot(root, tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_only_every_frame_finds_damage_between_the_ends(folders: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(folders["v3.0"], tmp_path / "v30"))
    edit_rows(DATA, CAMERA, set_row(9, {"bytes": b"no image", "path": None}))(root)
    assert validate_dataset(root).problems == []
    run = CliRunner().invoke
    assert run(app, ["validate", str(root)]).exit_code == 0
    thorough = run(app, ["validate", str(root), "--every-frame"])
    assert thorough.exit_code == 2 and "error: episode 1, frame 2: " in thorough.stdout


def test_a_table_without_its_images_is_listed(folders: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(folders["v3.0"], tmp_path / "v30"))
    edit_rows(DATA, CAMERA, lambda _: None)(root)
    found = [str(problem) for problem in validate_dataset(root).problems]
    assert found == [f"error: episode {n}: {DATA} lacks the column '{CAMERA}'" for n in range(3)]
    # A run on vectors does not need the images.
    assert read_dataset(root).num_frames == sum(LENGTHS)


@settings(max_examples=40, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_damaged_image_bytes_never_give_a_traceback(
    folders: dict[str, Path], tmp_path: Path, place: float, junk: bytes, cut: bool
) -> None:
    root = tmp_path / "v21"
    if not root.exists():
        shutil.copytree(folders["v2.1"], root)
    encoded = png(image(1, 3))
    start = int(place * len(encoded))
    spoilt = encoded[:start] + junk + (b"" if cut else encoded[start + len(junk) :])
    shutil.copy(folders["v2.1"] / DATA_1, root / DATA_1)
    edit_rows(DATA_1, CAMERA, set_row(3, {"bytes": spoilt, "path": None}))(root)
    found = validate_dataset(root)
    assert all("\n" not in str(problem) and problem.episode == 1 for problem in found.problems)
    if found.usable:
        FrameReader(CAMERA, read_dataset(root).videos[CAMERA], 20.0).read([1], [3])
