"""Fixed image features for the label-free score: principal components of small images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import torch
from torch import Tensor

from hf_ptr.data.chunks import CameraImages, ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.utils.progress import progress_bar

# Images held at a time; bounds the memory and changes no result.
ROWS_PER_PASS = 1024


def image_features(chunks: ChunkDataset, config: ScoreConfig, progress: bool = True) -> Tensor:
    """
    Features of the camera images of every row: `(F, d)` float32, d at most `image_components` per camera, in standard
    deviations of the first component.

    The components are the directions in which the images of the dataset vary most. No label is used.

    Args:
        chunks: a dataset whose observation is cameras.
        config: settings of the score.
        progress: show a bar.
    """
    table = chunks.table
    found = []
    for camera in chunks.observation_features:
        with tempfile.TemporaryFile() as file:
            images = _SmallImages(table, camera, config.image_side, file, progress)
            found.append(_principal_components(images, table.num_frames, config.image_components))
    return torch.cat(found, dim=1)


class _SmallImages:
    """Small images of one camera, `(n, 3 · side²)` uint8 per part: decoded once into a file, then read from it."""

    def __init__(self, table: EpisodeTable, camera: str, side: int, file: IO[bytes], progress: bool):
        self._file, self._frames, self._width = file, table.num_frames, side * side * 3
        images = CameraImages(table, [camera], (side, side), cache_bytes=0)
        parts = torch.arange(table.num_frames).split(ROWS_PER_PASS)
        with progress_bar(progress) as bar:
            for rows in bar.track(parts, description=f"reading {camera}"):
                file.write(images[rows].numpy().tobytes())

    def __iter__(self) -> Iterator[Tensor]:
        self._file.seek(0)
        for begin in range(0, self._frames, ROWS_PER_PASS):
            size = min(ROWS_PER_PASS, self._frames - begin) * self._width
            yield torch.frombuffer(bytearray(self._file.read(size)), dtype=torch.uint8).view(-1, self._width)


def _principal_components(images: _SmallImages, frames: int, most: int) -> Tensor:
    """The principal components `(F, d)` of images, read three times."""
    mean = torch.stack([part.double().sum(dim=0) for part in images]).sum(dim=0) / frames
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in images:
        products += part.double().T @ part.double()
    values, directions = torch.linalg.eigh(products / frames - torch.outer(mean, mean))
    largest = values.flip(0)[:most].clamp(min=1e-6)
    projection = (directions.flip(1)[:, : len(largest)] / largest[0].sqrt()).float()
    return torch.cat([(part.float() - mean.float()) @ projection for part in images])
