"""Named sizes of the native policy for camera images."""

from __future__ import annotations

import copy
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hf_ptr.errors import InputError, nearest

SIZES: dict[str, dict[str, Any]] = {
    # Trains on a CPU in minutes: a small residual network, 6 x 6 tokens for an image of 96 pixels.
    "tiny": {
        "vision_config": {
            "model_type": "resnet",
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64],
            "depths": [1, 1, 1],
            "layer_type": "basic",
        },
        "group_norm": True,
        "image_size": 96,
        "target_layer": 2,
        "hidden_size": 64,
        "action_size": 32,
        "expert_size": 256,
        "num_expert_layers": 2,
        "num_context_layers": 1,
    },
    # For one GPU: a vision transformer with 22 million weights.
    "small": {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "patch_size": 16,
        },
        "image_size": 128,
        # Every target layer adds to the cost of a step: with a third of the layers PTR adds about a tenth.
        "target_layer": 4,
        "hidden_size": 384,
        "action_size": 64,
        "expert_size": 1024,
        "num_expert_layers": 4,
        "num_context_layers": 4,
        "num_attention_heads": 6,
    },
    # The paper's tower, InternViT-300M-448; the target is layer 12 of 24 (PTR Sec. 4).
    "internvl": {
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": [14, 14],
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "use_absolute_position_embeddings": True,
        },
        "image_size": 448,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "target_layer": 12,
        "hidden_size": 1024,
        "action_size": 128,
        "expert_size": 2048,
        "num_expert_layers": 6,
        "num_context_layers": 6,
        "num_attention_heads": 16,
    },
}


def size_settings(name: str) -> dict[str, Any]:
    """
    The fields of [`VLAPolicyConfig`] that a size sets.

    Raises:
        InputError: the size is unknown; the nearest name is suggested.
    """
    if name not in SIZES:
        raise InputError(f"no policy size {name!r}.{nearest(name, SIZES)} There are: {', '.join(SIZES)}")
    return copy.deepcopy(SIZES[name])


def for_image_size(vision_config: dict[str, Any] | PreTrainedConfig, image_size: Any) -> PreTrainedConfig:
    """A tower configuration whose `image_size`, if it has one, is this size: some weights depend on it."""
    values = vision_config.to_dict() if isinstance(vision_config, PreTrainedConfig) else dict(vision_config)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    if getattr(config, "image_size", None) is not None:
        pair = isinstance(config.image_size, list | tuple)
        config.image_size = [image_size, image_size] if pair and isinstance(image_size, int) else image_size
    return config
