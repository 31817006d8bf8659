"""Fixed image features for the label-free score: principal components of small images, or of a model's vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hf_ptr.data.chunks import CameraImages, ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.encoded_images import EncodedImages, remove_oldest
from hf_ptr.utils.progress import progress_bar

if TYPE_CHECKING:
    from hf_ptr.scoring.frame_encoder import FrameEncoder

# Images held at a time; bounds the memory and changes no result.
ROWS_PER_PASS = 1024
# Images decoded at the size of an encoder at a time, of one episode.
ENCODED_PER_PASS = 256
# Side of the images whose pixels are the vectors.
PIXELS_SIDE = 16


def image_features(
    chunks: ChunkDataset, config: ScoreConfig, encoder: FrameEncoder | None = None, progress: bool = True
) -> Tensor:
    """
    Features of the camera images of every row: `(F, d)` float32, d at most `image_components` per camera, in standard
    deviations of the first component.

    The components are the directions in which the images of the dataset vary most. No label is used.

    Args:
        chunks: a dataset whose observation is cameras.
        config: settings of the score.
        encoder: turns each image into a vector; None for the pixels of small images.
        progress: show a bar.
    """
    table = chunks.table
    found = []
    for camera in chunks.observation_features:
        with tempfile.TemporaryFile() as file, progress_bar(progress) as bar:
            vectors = _Vectors(file)
            pieces = _pixels(table, camera, config) if encoder is None else _encoded(table, camera, encoder)
            task = bar.add_task(f"{'reading' if encoder is None else 'encoding'} {camera}", total=table.num_frames)
            for piece in pieces:
                vectors.append(piece)
                bar.advance(task, len(piece))
            mean, projection = principal_projection(vectors, config.image_components)
            found.append(torch.cat([(part.float() - mean) @ projection for part in vectors]))
    return torch.cat(found, dim=1)


def _pixels(table: EpisodeTable, camera: str, config: ScoreConfig) -> Iterator[Tensor]:
    """The pixels of consecutive rows, `(n, 3 · side²)` uint8."""
    side = PIXELS_SIDE if config.image_side is None else config.image_side
    images = CameraImages(table, [camera], (side, side), cache_bytes=0)
    for rows in torch.arange(table.num_frames).split(ROWS_PER_PASS):
        yield images[rows].flatten(1)


def _encoded(table: EpisodeTable, camera: str, encoder: FrameEncoder) -> Iterator[Tensor]:
    """The vectors of consecutive rows, `(n, encoder.width)` float16; those of finished episodes are kept."""
    images = CameraImages(table, [camera], encoder.size, cache_bytes=0)
    kept = EncodedImages(table, camera, encoder.digest)
    for position, (begin, length) in enumerate(zip(table.starts.tolist(), table.lengths.tolist(), strict=True)):
        found = kept.load(position)
        if found is not None:
            yield found
            continue
        parts = []
        for rows in torch.arange(begin, begin + length).split(ENCODED_PER_PASS):
            parts.append(encoder(images[rows][:, 0]))
            yield parts[-1]
        kept.save(position, torch.cat(parts))
    remove_oldest()


class _Vectors:
    """The vectors of a camera's images in a file, read in parts `(n, width)`, so that they need not be held."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._dtype, self._width = torch.uint8, 0

    def append(self, vectors: Tensor) -> None:
        """Vectors of the next rows, `(n, width)`, of the same type each time."""
        self._dtype, self._width = vectors.dtype, vectors.shape[1]
        self._file.write(np.ascontiguousarray(vectors.numpy()).data)

    def __iter__(self) -> Iterator[Tensor]:
        self._file.seek(0)
        size = ROWS_PER_PASS * self._width * self._dtype.itemsize
        while part := self._file.read(size):
            yield torch.frombuffer(bytearray(part), dtype=self._dtype).view(-1, self._width)


def principal_projection(vectors: Iterable[Tensor], most: int) -> tuple[Tensor, Tensor]:
    """
    The mean `(width,)` of vectors, and their projection `(width, d)` to the principal components, in standard
    deviations of the first, d at most `most`; float32.

    Args:
        vectors: parts `(n, width)`, read twice.
        most: number of components.
    """
    count, total = 0, torch.zeros(())
    for part in vectors:
        count, total = count + len(part), total + part.double().sum(dim=0)
    mean = total / count
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in vectors:
        products += part.double().T @ part.double()
    values, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    largest = values.flip(0)[:most].clamp(min=1e-6)
    return mean.float(), (directions.flip(1)[:, : len(largest)] / largest[0].sqrt()).float()
