"""Tiny vision towers and policies with cameras."""

from __future__ import annotations

from typing import Any

import torch
from model_helpers import tiny_batch, tiny_config
from transformers import (
    Dinov2Config,
    InternVLVisionConfig,
    ResNetConfig,
    SiglipVisionConfig,
    ViTConfig,
)

from hf_ptr import VLAPolicy

SIZE = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


TOWERS = {
    "siglip": SiglipVisionConfig(**SIZE, intermediate_size=16),
    "dinov2": Dinov2Config(**SIZE),
    "vit": ViTConfig(**SIZE, intermediate_size=16),
    "internvl": InternVLVisionConfig(
        **{**SIZE, "image_size": [16, 16], "patch_size": [8, 8]}, intermediate_size=16, hidden_dropout_prob=0.0
    ),
    "resnet": ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 8], depths=[1, 1, 1], layer_type="basic"),
}


CAMERAS = ["observation.images.front", "observation.images.wrist"]


def seeing(tower: str = "siglip", seed: int = 0, **changes: Any) -> VLAPolicy:
    settings = {"vision_config": TOWERS[tower], "image_size": 16, "observation_features": CAMERAS, "target_layer": 2}
    torch.manual_seed(seed)
    return VLAPolicy(tiny_config(observation_dim=0, **{**settings, **changes}))


def images_batch(seed: int = 0, cameras: int = 2) -> dict[str, Any]:
    batch = tiny_batch(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name in ("observation", "next_observation"):
        batch[name] = torch.randint(256, (6, cameras, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return batch
