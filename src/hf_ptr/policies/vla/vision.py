"""The vision tower of the native policy: camera images to context tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from hf_ptr.vision.towers import (
    CameraFeatures,
    as_tokens,
    first_layers,
    layers_of,
    normalized,
    with_group_norm,
    without_unused_parts,
)


class CameraTower(nn.Module):
    """
    A transformers vision tower that maps images of one or several cameras to context tokens.

    Args:
        vision_config: configuration of the tower, a vision transformer or a convolutional network.
        num_cameras: `C`; all cameras share the tower.
        image_size: height and width of the tower's input; images of another size are scaled to it.
        hidden_size: `D`.
        target_layer: the layer of the tower that the target encoder reads (PTR Sec. 4); None for the middle one.
        mean, std: mean and standard deviation of the three colours in [0, 1], as in pretraining.
        group_norm: replace batch by group normalisation. Otherwise batch normalisation keeps its pretrained
            statistics.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        vision_config: Any,
        num_cameras: int,
        image_size: tuple[int, int],
        hidden_size: int,
        target_layer: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        group_norm: bool = False,
    ):
        super().__init__()
        self.image_size = image_size
        # In the dtype that the policy is built in, not the one that the tower was saved in.
        tower = AutoModel.from_config(vision_config, dtype=torch.get_default_dtype())
        self.model = with_group_norm(without_unused_parts(tower)) if group_norm else without_unused_parts(tower)
        self.target_layer = -(-len(layers_of(self.model)[1]) // 2) if target_layer is None else target_layer
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.colours = (tuple(mean), tuple(std))
        patches, width, self.feature_size = self._sizes(num_cameras)
        self.projection = nn.Linear(width, hidden_size)
        # For every position and camera: features of a convolutional network do not encode their position.
        self.position = nn.Parameter(torch.zeros(num_cameras * patches, hidden_size))

    def train(self, mode: bool = True) -> CameraTower:
        """Batch normalisation stays in evaluation mode: a sample's loss must not depend on the rest of its batch."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @torch.no_grad()
    def reset_colours(self) -> None:
        """Sets the buffers to the configured mean and standard deviation."""
        for buffer, values in zip((self.mean, self.std), self.colours, strict=True):
            buffer.copy_(torch.tensor(values))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `(N, C, height, width, 3)` uint8 to tokens `(N, C·P, D)`, P per image."""
        patches = as_tokens(self.model(normalized(images, self.mean, self.std, self.image_size)))
        tokens = self.projection(patches.reshape(len(images), -1, patches.shape[-1]))
        return tokens + self.position

    def features(self) -> CameraFeatures:
        """`v` of PTR Sec. 4: images to the pooled output of the target layer. It shares the tower's weights."""
        return CameraFeatures(first_layers(self.model, self.target_layer), self.mean, self.std, self.image_size)

    @torch.no_grad()
    def _sizes(self, num_cameras: int) -> tuple[int, int, int]:
        """Patches per image, their width, and the width of the features of all cameras."""
        self.eval()
        images = torch.zeros((1, num_cameras, *self.image_size, 3), dtype=torch.uint8)
        tokens = as_tokens(self.model(normalized(images, self.mean, self.std, self.image_size)))
        features = self.features()(images)
        self.train()
        return tokens.shape[1], tokens.shape[2], features.shape[1]
