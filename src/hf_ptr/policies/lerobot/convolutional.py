"""Base of the ACT and Diffusion Policy adapters: fixed input and output features, and ResNet image encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.policies.lerobot.base import COLOURS, LeRobotAdapter, normalized_images

# Stages of every ResNet.
STAGES = 4


class ConvolutionalAdapter(LeRobotAdapter):
    """Base class of the adapters for policies with ResNet image encoders, whose features are fixed when created."""

    def max_dimensions(self) -> tuple[int, int]:
        """The dimensions that the policy was created with."""
        config = self.model.config
        return config.robot_state_feature.shape[0], config.action_feature.shape[0]

    def vision_layers(self) -> int:
        """Stages of a ResNet."""
        return STAGES

    def checkpointable(self) -> list[Any]:
        """No module can recompute activations."""
        return []

    def backbones(self) -> list[nn.Module]:
        """The ResNet of each camera, or one that all cameras share."""
        raise NotImplementedError

    def resize(self) -> nn.Module | None:
        """The module that resizes images before the ResNet; None by default."""
        return None

    def observation_tower(self) -> nn.Module:
        """`v`: images `(N, C, height, width, 3)` uint8 to the pooled output of a ResNet stage, cameras joined."""
        trunks = [first_stages(backbone, self.config.target_layer) for backbone in self.backbones()]
        return ConvolutionalFeatures(trunks, self._mode("VISUAL"), self.resize())

    def vision_size(self) -> int:
        """Width of the tower's output for all cameras."""
        stages = first_stages(self.backbones()[0], self.config.target_layer)
        last = [module for module in stages.modules() if isinstance(module, nn.Conv2d)][-1]
        return last.out_channels * len(self.config.cameras)

    def _take_features(self, table: EpisodeTable) -> None:
        config: Any = self.model.config
        inputs, outputs = self._features_of(table)
        for created, found in ((config.input_features, inputs), (config.output_features, outputs)):
            for name in sorted({*created, *found}):
                shapes = [tuple(side[name].shape) if name in side else None for side in (created, found)]
                if shapes[0] != shapes[1]:
                    raise InputError(
                        f"this {self.title} was made for {name!r} of shape {shapes[0]}, and the dataset has "
                        f"{shapes[1]}; make one for the features of the dataset, or name its cameras in "
                        "observation_features"
                    )


class ConvolutionalFeatures(nn.Module):
    """
    Pooled output of the first stages of a torchvision ResNet: images `(N, C, height, width, 3)` uint8 to
    `(N, C·width)`, cameras concatenated.

    Args:
        trunks: the stages for each camera, or one that all cameras share.
        mode: LeRobot's normalisation mode for images.
        resize: resizes images first; None to leave them as they are.
    """

    def __init__(self, trunks: Sequence[nn.Module], mode: str, resize: nn.Module | None = None):
        super().__init__()
        self.trunks = nn.ModuleList(trunks)
        self.mode = mode
        self.resize = nn.Identity() if resize is None else resize

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = []
        for number, camera in enumerate(images.unbind(dim=1)):
            trunk: Any = self.trunks[min(number, len(self.trunks) - 1)]
            features.append(trunk(self.resize(normalized_images(camera, *COLOURS[self.mode]))).mean(dim=(2, 3)))
        return torch.cat(features, dim=1)


def first_stages(resnet: nn.Module, count: int) -> nn.Sequential:
    """The stem and the first `count` stages of a torchvision ResNet, sharing its weights."""
    stages = [child for child in resnet.children() if isinstance(child, nn.Sequential)]
    parts = list(resnet.children())
    return nn.Sequential(*parts[: parts.index(stages[count - 1]) + 1])
