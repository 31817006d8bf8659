"""A dataset with two cameras whose videos are never opened, and batches of it for a policy that is fitted to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from data_helpers import coded_table
from model_helpers import INSTRUCTIONS, Batch, tiny_batch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import VideoClip

CAMERAS = ["observation.images.front", "observation.images.wrist"]


def camera_table(size: tuple[int, int] = (12, 16)) -> EpisodeTable:
    """Three dimensions of state, four of action."""
    found = coded_table([8, 8])
    features = {name: {"dtype": "video", "shape": [*size, 3], "names": None} for name in CAMERAS}
    clips = {
        name: {0: VideoClip(Path("none.mp4"), 0.0, 8), 1: VideoClip(Path("none.mp4"), 0.4, 8)} for name in CAMERAS
    }
    return replace(found, features={**found.features, **features}, videos=clips)


def camera_batch(processor: Any, seed: int = 0, size: tuple[int, int] = (12, 16)) -> Batch:
    """Six chunks as [`tiny_batch`], from both cameras; every image has another colour, with noise on it."""
    batch = tiny_batch(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name in ("observation", "next_observation"):
        colour = torch.randint(32, 224, (6, 2, 1, 1, 3), generator=generator)
        noise = torch.randint(-32, 32, (6, 2, *size, 3), generator=generator)
        batch[name] = (colour + noise).to(torch.uint8)
    batch["actions"] = torch.cat((batch["actions"], batch["actions"]), dim=-1)
    for name, rows in processor.encode_instructions(INSTRUCTIONS).items():
        batch[name] = rows[batch["task_index"]]
    return batch
