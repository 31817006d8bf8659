"""Vision towers of any kind: image normalisation, pooled features of a layer, and truncated copies for the target."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class CameraFeatures(nn.Module):
    """
    Pooled output of a tower's last layer, before its final norm: images `(N, C, height, width, 3)` uint8 to
    `(N, C·width)`, cameras concatenated.

    Args:
        model: the tower, truncated after the target layer.
        mean, std: mean and standard deviation of the three colours in [0, 1].
        image_size: height and width to which images are scaled.
        canvas: height and width to which they are then padded, at the right and the bottom.
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = normalized(images, self.mean, self.std, self.image_size, self.canvas)
        return last_layer_of(self.model, pixels).mean(dim=1).reshape(len(images), -1)


def last_layer_of(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Output of a tower's last layer for `pixels (N, 3, …)`, before the final norm: `(N, P, width)`."""
    found: list[Any] = []
    hook = layers_of(tower)[1][-1].register_forward_hook(lambda module, args, output: found.append(output))
    try:
        tower(pixels)
    finally:
        hook.remove()
    return as_tokens(found[0])


def normalized(
    images: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    size: tuple[int, int],
    canvas: tuple[int, int] | None = None,
) -> torch.Tensor:
    """
    Images `(N, C, height, width, 3)` uint8 as normalised pixels `(N·C, 3, *size)`; with `canvas`, padded with zeros at
    the right and the bottom to that size.
    """
    flat = images.flatten(0, 1).permute(0, 3, 1, 2).to(mean.dtype) / 255.0
    if flat.shape[-2:] != size:
        flat = F.interpolate(flat, size=size, mode="area")
    flat = (flat - mean[:, None, None]) / std[:, None, None]
    if canvas is not None and canvas != size:
        flat = F.pad(flat, (0, canvas[1] - size[1], 0, canvas[0] - size[0]))
    return flat


def as_tokens(output: Any) -> torch.Tensor:
    """Output of a tower or one of its layers as `(N, P, width)`; a feature map `(N, width, h, w)` has P = h·w."""
    hidden = output if isinstance(output, torch.Tensor) else output[0]
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden


def without_unused_parts(model: Any) -> Any:
    """
    Removes in place the parts of a tower that only pretraining uses. Weights without a gradient would stop distributed
    training.
    """
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
    Replaces batch by group normalisation in place. A sample's loss then depends on no other sample of its batch, which
    exact self-normalisation over micro-batches and devices needs.
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
    The layers of a tower, its outermost `ModuleList`, and the attribute path that leads to them.

    Raises:
        ValueError: the tower has no `ModuleList`.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers; the target encoder needs one to stop at")
    name, layers = min(lists, key=lambda found: found[0].count("."))
    return name.split("."), layers


def first_layers(model: nn.Module, count: int) -> nn.Module:
    """The tower truncated after its first `count` layers, sharing weights with the whole one."""
    path, layers = layers_of(model)
    if not 1 <= count <= len(layers):
        raise ValueError(f"target_layer is {count}; {type(model).__name__} has layers 1..{len(layers)}")
    short = inner = _shallow_copy(model)
    for name in path[:-1]:
        child = _shallow_copy(getattr(inner, name))
        inner._modules[name] = child
        inner = child
    inner._modules[path[-1]] = nn.ModuleList(layers[:count])
    return short


def _shallow_copy(module: nn.Module) -> nn.Module:
    """A module with the same parameters, buffers and children, whose children can be replaced independently."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other
