"""What the native policy makes of pictures: context tokens, and the features that the target encoder follows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel


class CameraTower(nn.Module):
    """
    Pictures of one or several cameras to context tokens, by a vision tower of transformers.

    Args:
        vision_config: of the tower; a transformer over patches or a convolutional network.
        num_cameras: `C`; all cameras share the tower.
        image_size: height and width that the tower reads; pictures of another size are scaled to it.
        hidden_size: `D`.
        target_layer: the layer of the tower that the target encoder reads (PTR Sec. 4); None for the middle one.
        mean, std: of the three colours in [0, 1], as the tower was pretrained with.
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
    ):
        super().__init__()
        self.image_size = image_size
        self.model = used_parts(AutoModel.from_config(vision_config))
        self.target_layer = -(-len(layers_of(self.model)[1]) // 2) if target_layer is None else target_layer
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.colours = (tuple(mean), tuple(std))
        patches, width, self.feature_size = self._sizes(num_cameras)
        self.projection = nn.Linear(width, hidden_size)
        # Of every place and camera: a convolutional network's features do not say where they come from.
        self.position = nn.Parameter(torch.zeros(num_cameras * patches, hidden_size))

    @torch.no_grad()
    def reset_colours(self) -> None:
        """Sets the buffers to what the configuration says."""
        for buffer, values in zip((self.mean, self.std), self.colours, strict=True):
            buffer.copy_(torch.tensor(values))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """`(N, C, height, width, 3)` uint8 to tokens `(N, C·P, D)`, P a picture."""
        seen = as_tokens(self.model(normalized(pictures, self.mean, self.std, self.image_size)))
        tokens = self.projection(seen.reshape(len(pictures), -1, seen.shape[-1]))
        return tokens + self.position

    def features(self) -> CameraFeatures:
        """`v` of PTR Sec. 4: pictures to the pooled output of the target layer. It shares the tower's weights."""
        return CameraFeatures(first_layers(self.model, self.target_layer), self.mean, self.std, self.image_size)

    @torch.no_grad()
    def _sizes(self, num_cameras: int) -> tuple[int, int, int]:
        """Patches of a picture, their width, and that of the features of all cameras."""
        self.model.eval()
        pictures = torch.zeros((1, num_cameras, *self.image_size, 3), dtype=torch.uint8)
        tokens = as_tokens(self.model(normalized(pictures, self.mean, self.std, self.image_size)))
        features = self.features()(pictures)
        self.model.train()
        return tokens.shape[1], tokens.shape[2], features.shape[1]


class CameraFeatures(nn.Module):
    """
    The pooled output of a tower's last layer, before its final norm: pictures `(N, C, height, width, 3)` uint8 to
    `(N, C·width)`, the cameras side by side.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor, image_size: tuple[int, int]):
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found: list[Any] = []
        hook = layers_of(self.model)[1][-1].register_forward_hook(lambda module, given, output: found.append(output))
        try:
            self.model(normalized(pictures, self.mean, self.std, self.image_size))
        finally:
            hook.remove()
        return as_tokens(found[0]).mean(dim=1).reshape(len(pictures), -1)


def normalized(pictures: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(N, C, height, width, 3)` uint8 as `(N·C, 3, *size)` in the units that a tower reads."""
    flat = pictures.flatten(0, 1).permute(0, 3, 1, 2).to(mean.dtype) / 255.0
    if flat.shape[-2:] != size:
        flat = F.interpolate(flat, size=size, mode="area")
    return (flat - mean[:, None, None]) / std[:, None, None]


def as_tokens(output: Any) -> torch.Tensor:
    """What a tower or one of its layers gives, as `(N, P, width)`; a feature map `(N, width, h, w)` has P = h·w."""
    hidden = output if isinstance(output, torch.Tensor) else output[0]
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden


def used_parts(model: Any) -> Any:
    """The tower without what only pretraining needs: weights that no loss reaches would stop distributed training."""
    if getattr(model, "use_head", False):
        model.use_head = False
        del model.head
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
        model.pooler = None
    for name, parameter in model.named_parameters():
        if name.endswith("mask_token"):
            parameter.requires_grad_(False)
    return model


def layers_of(model: nn.Module) -> tuple[list[str], nn.ModuleList]:
    """
    The layers of a tower and the names that lead to them: the outermost list of modules.

    Raises:
        ValueError: the tower has none.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers; the target encoder needs one to stop at")
    name, layers = min(lists, key=lambda found: found[0].count("."))
    return name.split("."), layers


def first_layers(model: nn.Module, count: int) -> nn.Module:
    """The tower with its first layers alone, which it shares with the whole one."""
    path, layers = layers_of(model)
    if not 1 <= count <= len(layers):
        raise ValueError(f"target_layer is {count}; {type(model).__name__} has layers 1..{len(layers)}")
    short = inner = _shallow(model)
    for name in path[:-1]:
        child = _shallow(getattr(inner, name))
        inner._modules[name] = child
        inner = child
    inner._modules[path[-1]] = nn.ModuleList(layers[:count])
    return short


def _shallow(module: nn.Module) -> nn.Module:
    """Another module of the same parameters, buffers and children, whose children can be exchanged."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other
