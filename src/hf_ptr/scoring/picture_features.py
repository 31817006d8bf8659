"""Frozen features of pictures, for scoring without a policy: small pictures and their principal components."""

from __future__ import annotations

import torch
from rich.progress import track
from torch import Tensor

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.pictures import Pictures

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
        pictures = Pictures(table, [camera], (SIDE, SIDE), cache_bytes=0)
        parts = torch.arange(table.num_frames).split(ROWS_A_PASS)
        shown = track(parts, f"reading {camera}", disable=not progress)
        # As bytes, of which a frame has 768; in single precision it would be four times as much.
        seen = [pictures[rows].flatten(1) for rows in shown]
        mean = torch.stack([part.double().sum(dim=0) for part in seen]).sum(dim=0) / table.num_frames
        products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in seen:
            products += part.double().T @ part.double()
        values, directions = torch.linalg.eigh(products / table.num_frames - torch.outer(mean, mean))
        largest = values.flip(0)[:COMPONENTS].clamp(min=1e-6)
        onto = (directions.flip(1)[:, : len(largest)] / largest[0].sqrt()).float()
        found.append(torch.cat([(part.float() - mean.float()) @ onto for part in seen]))
    return torch.cat(found, dim=1)
