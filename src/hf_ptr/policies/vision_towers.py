"""What policies of any kind make of pictures, and the layers of a vision tower that the target encoder follows."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class CameraFeatures(nn.Module):
    """
    The pooled output of a tower's last layer, before its final norm: pictures `(N, C, height, width, 3)` uint8 to
    `(N, C·width)`, the cameras side by side.

    Args:
        model: the tower, cut off after the layer.
        mean, std: of the three colours in [0, 1].
        image_size: height and width that pictures are scaled to.
        canvas: height and width that they are then filled up to, at the right and below.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: torch.Tensor,
        std: torch.Tensor,
        image_size: tuple[int, int],
        canvas: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.canvas = canvas
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        pixels = normalized(pictures, self.mean, self.std, self.image_size, self.canvas)
        return last_layer_of(self.model, pixels).mean(dim=1).reshape(len(pictures), -1)


def last_layer_of(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What the last layer of a tower makes of `pixels (N, 3, …)`, before its final norm: `(N, P, width)`."""
    found: list[Any] = []
    hook = layers_of(tower)[1][-1].register_forward_hook(lambda module, given, output: found.append(output))
    try:
        tower(pixels)
    finally:
        hook.remove()
    return as_tokens(found[0])


def normalized(
    pictures: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    size: tuple[int, int],
    canvas: tuple[int, int] | None = None,
) -> torch.Tensor:
    """
    `(N, C, height, width, 3)` uint8 as `(N·C, 3, *size)` in the units that a tower reads; with `canvas`, zeros at the
    right and below fill it up to that size.
    """
    flat = pictures.flatten(0, 1).permute(0, 3, 1, 2).to(mean.dtype) / 255.0
    if flat.shape[-2:] != size:
        flat = F.interpolate(flat, size=size, mode="area")
    flat = (flat - mean[:, None, None]) / std[:, None, None]
    if canvas is not None and canvas != size:
        flat = F.pad(flat, (0, canvas[1] - size[1], 0, canvas[0] - size[0]))
    return flat


def as_tokens(output: Any) -> torch.Tensor:
    """What a tower or one of its layers gives, as `(N, P, width)`; a feature map `(N, width, h, w)` has P = h·w."""
    hidden = output if isinstance(output, torch.Tensor) else output[0]
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden


def without_unused_parts(model: Any) -> Any:
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


def with_group_norm(model: nn.Module) -> nn.Module:
    """
    The tower with group in place of batch normalisation: what a sample costs then depends on no other sample of its
    batch, as exact self-normalisation over micro-batches and devices needs.
    """
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = next(count for count in (8, 4, 2, 1) if child.num_features % count == 0)
            setattr(model, name, nn.GroupNorm(groups, child.num_features))
        else:
            with_group_norm(child)
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
