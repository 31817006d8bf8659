"""The action loss of PTR Eq. (1): its noise times, and means over valid steps and active dimensions."""

from __future__ import annotations

import torch
from torch.distributions import Beta


def flow_times(alpha: float, beta: float, clean: torch.Tensor) -> torch.Tensor:
    """
    Flow-matching times `(N,)` from `Beta(α, β)`, PTR Eq. (1), for chunks `clean (N, L, da)`: same device and dtype.

    `Beta` with Python numbers draws on the host, and every step would wait for the copy to the device. Tensors on a
    CUDA device avoid that; other devices have no sampler for it, so the draw is on the CPU there.
    """
    one = torch.ones((), device=clean.device if clean.is_cuda else "cpu")
    return Beta(alpha * one, beta * one, validate_args=False).sample((len(clean),)).to(clean)


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `tokens (N, K, D)` over the positions where `mask (N, K)` is True."""
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def masked_loss(error: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`ℓ_act (N,)`: mean of `error (N, L, da)` where `mask (N, L, da)` is True, PTR Eq. (1)."""
    weight = mask.to(error.dtype)
    return (error * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1.0)
