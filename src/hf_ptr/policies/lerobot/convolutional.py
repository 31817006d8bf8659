"""What the adapters of LeRobot's ACT and Diffusion Policy share: made for their features, and seeing by ResNets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.policies.lerobot.base import COLOURS, LeRobotAdapter, coloured

# Of every ResNet.
STAGES = 4


class ConvolutionalAdapter(LeRobotAdapter):
    """The half that is the same for both."""

    def most_dimensions(self) -> tuple[int, int]:
        """Those that it was made for."""
        config = self.model.config
        return config.robot_state_feature.shape[0], config.action_feature.shape[0]

    def vision_layers(self) -> int:
        """Stages of a ResNet."""
        return STAGES

    def checkpointable(self) -> list[Any]:
        """Nothing."""
        return []

    def backbones(self) -> list[nn.Module]:
        """The ResNet of each camera, or the one that all share."""
        raise NotImplementedError

    def resize(self) -> nn.Module | None:
        """What scales pictures first, if anything."""
        return None

    def observation_tower(self) -> nn.Module:
        """`v`: pictures `(N, C, height, width, 3)` uint8 to the pooled output of a stage of the ResNets."""
        trunks = [first_stages(backbone, self.config.target_layer) for backbone in self.backbones()]
        return ConvolutionalFeatures(trunks, self._mode("VISUAL"), self.resize())

    def vision_size(self) -> int:
        """Width of what the tower gives, of all cameras."""
        stages = first_stages(self.backbones()[0], self.config.target_layer)
        last = [module for module in stages.modules() if isinstance(module, nn.Conv2d)][-1]
        return last.out_channels * len(self.config.cameras)

    def _take_features(self, table: EpisodeTable) -> None:
        config: Any = self.model.config
        inputs, outputs = self._features_of(table)
        for made, given in ((config.input_features, inputs), (config.output_features, outputs)):
            for name in sorted({*made, *given}):
                shapes = [tuple(side[name].shape) if name in side else None for side in (made, given)]
                if shapes[0] != shapes[1]:
                    raise InputError(
                        f"this {self.title} was made for {name!r} of shape {shapes[0]}, and the dataset has "
                        f"{shapes[1]}; make one for the features of the dataset, or name its cameras in "
                        "observation_features"
                    )


class ConvolutionalFeatures(nn.Module):
    """
    The pooled output of the first stages of a ResNet of torchvision: pictures `(N, C, height, width, 3)` uint8 to
    `(N, C·width)`, the cameras side by side.

    Args:
        trunks: of each camera, or one that all of them share.
        mode: LeRobot's mode of normalisation for pictures.
        resize: what scales pictures first, if anything.
    """

    def __init__(self, trunks: Sequence[nn.Module], mode: str, resize: nn.Module | None = None):
        super().__init__()
        self.trunks = nn.ModuleList(trunks)
        self.mode = mode
        self.resize = nn.Identity() if resize is None else resize

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        seen = []
        for number, camera in enumerate(pictures.unbind(dim=1)):
            trunk: Any = self.trunks[min(number, len(self.trunks) - 1)]
            seen.append(trunk(self.resize(coloured(camera, *COLOURS[self.mode]))).mean(dim=(2, 3)))
        return torch.cat(seen, dim=1)


def first_stages(resnet: nn.Module, count: int) -> nn.Sequential:
    """The stem of a ResNet of torchvision and its first stages, whose weights it shares."""
    stages = [child for child in resnet.children() if isinstance(child, nn.Sequential)]
    parts = list(resnet.children())
    return nn.Sequential(*parts[: parts.index(stages[count - 1]) + 1])
