"""What the cameras saw at rows of a table, decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import CACHE_BYTES, FrameReader
from hf_ptr.errors import InputError, nearest


class CameraImages:
    """
    The pictures of one or several cameras at any rows of a table.

    Args:
        table: the episodes.
        cameras: features that are videos, in this order.
        size: height and width that all pictures are scaled to.
        cache_bytes: decoded pictures kept, in all and for each process.

    Raises:
        InputError: a camera that the table does not have (the nearest name is suggested), or an episode without its
            video.
    """

    def __init__(
        self, table: EpisodeTable, cameras: Sequence[str], size: tuple[int, int], cache_bytes: int = CACHE_BYTES
    ):
        if min(size) < 1:
            raise InputError(f"image_size is {size}; height and width must be at least 1")
        self.size = size
        self.readers = []
        for camera in cameras:
            clips = table.videos.get(camera)
            if clips is None:
                known = ", ".join(table.videos) or "none"
                hint = nearest(camera, table.videos)
                raise InputError(f"dataset {table.source!r} has no camera {camera!r} (it has: {known}).{hint}")
            bare = [episode for episode in table.episode_index.tolist() if episode not in clips]
            if bare:
                raise InputError(f"episode {bare[0]} of {table.source!r} has no video of {camera!r}; leave it out")
            self.readers.append(FrameReader(camera, clips, table.video_fps, size, cache_bytes // len(cameras)))
        self._episode = np.repeat(table.episode_index, table.lengths)
        self._frame = table.video_frame

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """What was seen at `rows (N,)`: `(N, cameras, height, width, 3)` uint8 RGB."""
        episodes, frames = self._episode[rows.numpy()], self._frame[rows.numpy()]
        if not len(rows):
            return torch.zeros((0, len(self.readers), *self.size, 3), dtype=torch.uint8)
        seen = np.empty((len(rows), len(self.readers), *self.size, 3), dtype=np.uint8)
        for camera, reader in enumerate(self.readers):
            reader.read(episodes, frames, out=seen[:, camera])
        return torch.from_numpy(seen)
