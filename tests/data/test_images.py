"""Chunks with camera images as observation."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import vector
from torch.utils.data import DataLoader

from hf_ptr.data import ChunkDataset, read_dataset
from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.errors import InputError

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LENGTHS = (9, 14, 6)


def shade(camera: str, episode: int, frame: int) -> int:
    """A unique grey value for each image, with distances robust to a codec."""
    value = 20 + 70 * episode + 5 * frame
    return 250 - value if camera == WRIST else value


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("images") / "data"
    sizes = {FRONT: (24, 32), WRIST: (32, 32)}
    features = {
        "observation.state": vector(2),
        "action": vector(2),
        **{
            name: {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"]}
            for name, size in sizes.items()
        },
    }
    with DatasetWriter(out, fps=20, robot_type="coder", features=features, tasks=["look"]) as writer:
        for episode, length in enumerate(LENGTHS):
            values = np.stack([np.full(length, episode), np.arange(length)], axis=1).astype(np.float32)
            videos = {
                name: np.stack([np.full((*size, 3), shade(name, episode, frame), np.uint8) for frame in range(length)])
                for name, size in sizes.items()
            }
            writer.add_episode({"observation.state": values, "action": values}, "look", videos)
    return out


def chunks_of(dataset: Path, cameras: tuple[str, ...] = (FRONT, WRIST), **settings: Any) -> ChunkDataset:
    table = read_dataset(dataset)
    sizes = {"chunk_size": 4, "chunk_stride": 4, "target_offset": 4, **settings}
    return ChunkDataset(table, observation_features=cameras, image_size=16, **sizes)


def shades(images: torch.Tensor) -> torch.Tensor:
    """`(N, cameras)`, the mean of every image."""
    return images.float().mean(dim=(2, 3, 4))


def test_a_chunk_has_the_images_of_its_first_frame_and_of_its_target(dataset: Path) -> None:
    chunks = chunks_of(dataset)
    batch = chunks.batch(list(range(len(chunks))))
    assert batch["observation"].shape == (sum(LENGTHS), 2, 16, 16, 3) and batch["observation"].dtype == torch.uint8
    places = [(episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)]
    seen, after = shades(batch["observation"]), shades(batch["next_observation"])
    for row, (episode, frame) in enumerate(places):
        for column, camera in enumerate((FRONT, WRIST)):
            assert abs(seen[row, column] - shade(camera, episode, frame)) < 2.5
            valid = frame + 4 < LENGTHS[episode]
            assert bool(batch["has_target"][row]) == valid
            assert abs(after[row, column] - (shade(camera, episode, frame + 4) if valid else 0)) < 2.5


def test_images_do_not_depend_on_order_or_process(dataset: Path) -> None:
    chunks = chunks_of(dataset, (FRONT,))
    rows = np.random.default_rng(0).permutation(len(chunks)).tolist()
    whole = chunks.batch(list(range(len(chunks))))
    for other in (chunks, pickle.loads(pickle.dumps(chunks))):
        shuffled = other.batch(rows)
        for key in ("observation", "next_observation", "state"):
            assert torch.equal(shuffled[key], whole[key][rows])


def test_images_stay_with_their_rows(dataset: Path) -> None:
    """A table of the last frames of two episodes, reordered, has the images of those frames."""
    table = read_dataset(dataset)
    ends = table.starts + table.lengths
    rows = np.concatenate([np.arange(ends[2] - 5, ends[2]), np.arange(ends[0] - 5, ends[0])])
    part = table.take_rows(rows, np.array([5, 5]), np.array([2, 0]))
    chunks = ChunkDataset(
        part, chunk_size=2, chunk_stride=2, target_offset=2, observation_features=[FRONT], image_size=16
    )
    seen = shades(chunks.batch([0, 4, 5])["observation"])[:, 0]
    expected = torch.tensor([shade(FRONT, 2, 1), shade(FRONT, 2, 5), shade(FRONT, 0, 4)])
    assert (seen - expected).abs().max() < 2.5


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_through_the_default_collate_function(dataset: Path, workers: int) -> None:
    chunks = chunks_of(dataset)
    for number, batch in enumerate(DataLoader(chunks, batch_size=8, num_workers=workers)):
        wanted = chunks.batch(range(8 * number, min(8 * number + 8, len(chunks))))
        for key in ("observation", "next_observation"):
            assert torch.equal(batch[key], wanted[key])
    assert number == -(-len(chunks) // 8) - 1


def test_wrong_cameras_are_one_line(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"no numeric feature 'observation.images.frond'.*front'"):
        chunks_of(dataset, ("observation.images.frond",))
    with pytest.raises(
        InputError, match=r"mix the camera 'observation.images.front' with the vectors observation.state"
    ):
        chunks_of(dataset, (FRONT, "observation.state"))
    with pytest.raises(InputError, match="image_size"):
        ChunkDataset(read_dataset(dataset), chunk_size=4, observation_features=[FRONT], image_size=0)


def test_a_camera_is_not_a_vector_and_the_line_says_how_to_read_it(dataset: Path) -> None:
    table = read_dataset(dataset)
    with pytest.raises(InputError, match=f"'{FRONT}' of .* is a camera, not a vector; ") as caught:
        table.feature(FRONT)
    advice = str(caught.value).partition("its image at a row is ")[2]
    image = eval(advice, {"ChunkDataset": ChunkDataset, "table": table, "row": 9})
    assert image.shape == (1, 96, 96, 3) and abs(image.float().mean() - shade(FRONT, 1, 0)) < 2.5
