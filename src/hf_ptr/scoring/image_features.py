"""Frozen features of pictures, for scoring without a policy: small pictures and their principal components."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import torch
from torch import Tensor

from hf_ptr.data.chunks import CameraImages, ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.utils.progress import progress_bar

# Where things are, coarsely; a gripper in a picture of 96 pixels is some ten wide.
SIDE = 16
COMPONENTS = 64
ROWS_A_PASS = 1024


def picture_features(chunks: ChunkDataset, progress: bool = True) -> Tensor:
    """
    Features of what the cameras saw at every row: `(F, d)` float32, d at most 64 for each camera, in units of the
    first component's standard deviation.

    Nothing is learned but the directions in which the pictures of the dataset differ most, without any label.

    Args:
        chunks: whose observation is cameras.
        progress: show a bar.
    """
    table = chunks.table
    found = []
    for camera in chunks.observation_features:
        with tempfile.TemporaryFile() as file:
            found.append(_components(_Seen(table, camera, file, progress), table.num_frames))
    return torch.cat(found, dim=1)


class _Seen:
    """Small pictures of one camera, `(n, 768)` uint8 a part: decoded once into a file, and read from it again."""

    def __init__(self, table: EpisodeTable, camera: str, file: IO[bytes], progress: bool):
        self._file, self._frames = file, table.num_frames
        pictures = CameraImages(table, [camera], (SIDE, SIDE), cache_bytes=0)
        parts = torch.arange(table.num_frames).split(ROWS_A_PASS)
        with progress_bar(progress) as bar:
            for rows in bar.track(parts, description=f"reading {camera}"):
                file.write(pictures[rows].numpy().tobytes())

    def __iter__(self) -> Iterator[Tensor]:
        self._file.seek(0)
        for begin in range(0, self._frames, ROWS_A_PASS):
            size = min(ROWS_A_PASS, self._frames - begin) * SIDE * SIDE * 3
            yield torch.frombuffer(bytearray(self._file.read(size)), dtype=torch.uint8).view(-1, SIDE * SIDE * 3)


def _components(seen: _Seen, frames: int) -> Tensor:
    """The principal components `(F, d)` of pictures that are gone through three times."""
    mean = torch.stack([part.double().sum(dim=0) for part in seen]).sum(dim=0) / frames
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in seen:
        products += part.double().T @ part.double()
    values, directions = torch.linalg.eigh(products / frames - torch.outer(mean, mean))
    largest = values.flip(0)[:COMPONENTS].clamp(min=1e-6)
    onto = (directions.flip(1)[:, : len(largest)] / largest[0].sqrt()).float()
    return torch.cat([(part.float() - mean.float()) @ onto for part in seen])
