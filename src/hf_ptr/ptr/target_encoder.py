"""The target encoder: an EMA copy of the policy's observation tower (PTR Sec. 4)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hf_ptr.errors import InputError


class TargetEncoder(nn.Module):
    """
    `g`, the exponential moving average of the policy's observation tower: `g ← μ g + (1-μ) v` (PTR Sec. 4).

    Its output is a constant in training: no parameter requires a gradient, and the forward pass records none.

    Args:
        tower: the policy's tower `v`, a module from observations `(B, …)` to pooled features `(B, D)`. It is copied,
            in float32 whatever the policy's dtype: in bfloat16 a step of `1-μ` is lost to rounding.
        decay: `μ` in [0, 1]; 1 freezes the encoder (the paper's "frozen target encoder" ablation).

    For a tower with LoRA the average is over the effective weights, adapter included. The copy has no adapter.

    Raises:
        ValueError: the decay is out of range.
        InputError: the weights are quantised, so that there is no average, or an adapter is not plain LoRA.
    """

    def __init__(self, tower: nn.Module, decay: float = 0.999):
        super().__init__()
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay is {decay}; it must lie in [0, 1]")
        if any(not parameter.is_floating_point() for parameter in tower.parameters()):
            raise InputError(
                "the observation tower is quantised, and its EMA target would have to be, too; leave that module "
                "unquantised, or train with alpha 0"
            )
        self.decay = decay
        if any(adapter is not None and not _is_additive(adapter) for _, adapter in _layers(tower)):
            raise InputError(
                "the observation tower is adapted by more than low-rank weights (DoRA, a LoRA bias, another method), "
                "and its EMA target cannot follow; leave the tower out of target_modules, or use plain LoRA"
            )
        own = _without_adapters(copy.deepcopy(tower))._apply(_at_least_single)
        self.tower = own.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TargetEncoder:
        """Always sets evaluation mode: dropout would make the targets random."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *observation: torch.Tensor) -> torch.Tensor:
        """`y = g(o_{t+Δ})`, pooled and L2-normalised with eps 1e-6: `(B, D)`, no gradient."""
        seen = (_at_least_single(each) for each in observation)
        return F.normalize(self.tower(*seen).float(), dim=-1, eps=1e-6)

    @torch.no_grad()
    def update(self, tower: nn.Module) -> None:
        """One EMA step towards the policy's tower, after an optimiser step. Buffers are copied."""
        parameters: list[torch.Tensor] = []
        buffers: list[torch.Tensor] = []
        for module, adapter in _layers(tower):
            own = [parameter.data for parameter in module.parameters(recurse=False)]
            if adapter is not None:
                # peft adapts the weight, which a layer registers before its bias.
                own[0] = own[0] + sum(adapter.get_delta_weight(name) for name in adapter.active_adapters)
            parameters += own
            buffers += module.buffers(recurse=False)
        if self.decay < 1.0:
            averages = [parameter.data for parameter in self.tower.parameters()]
            torch._foreach_lerp_(averages, [_at_least_single(each) for each in parameters], 1.0 - self.decay)
        for mine, theirs in zip(self.tower.buffers(), buffers, strict=True):
            mine.copy_(theirs)


def _layers(tower: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Every module without peft's wrappers, in the order of `modules()`, and the adapter on it or None."""
    own: Any = _trained(tower)
    adapter = own if _is_adapted(own) else None
    own = own if adapter is None else adapter.get_base_layer()
    yield own, adapter
    for child in own.children():
        yield from _layers(child)


def _without_adapters(tower: nn.Module) -> nn.Module:
    """The tower, changed in place: adapters merged and peft's wrappers removed."""
    own: Any = _trained(tower)
    if _is_adapted(own):
        own.merge()
        own = own.get_base_layer()
    for name, child in own.named_children():
        setattr(own, name, _without_adapters(child))
    return own


def _is_adapted(module: nn.Module) -> bool:
    """Whether a layer is wrapped by peft."""
    return hasattr(module, "get_delta_weight") and hasattr(module, "get_base_layer")


def _is_additive(adapter: Any) -> bool:
    """Whether the effective weight is the base weight plus `get_delta_weight` and the bias unchanged: plain LoRA."""
    extras = (*getattr(adapter, "use_dora", {}).values(), *getattr(adapter, "lora_bias", {}).values())
    return hasattr(adapter, "lora_A") and not any(extras)


def _trained(module: Any) -> nn.Module:
    """The trained copy of a module in `modules_to_save`; any other module unchanged."""
    if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
        return module.modules_to_save[module.active_adapters[0]]
    return module


def _at_least_single(tensor: torch.Tensor) -> torch.Tensor:
    """A half-precision tensor as float32; any other unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
