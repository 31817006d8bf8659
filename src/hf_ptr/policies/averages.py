"""What a policy averages over: the steps of a chunk that lie in the episode, the dimensions that the robot has."""

from __future__ import annotations

import torch


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `tokens (N, K, D)` over the positions where `mask (N, K)` is True."""
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def masked_loss(error: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`ℓ_act (N,)`: the mean of `error (N, L, da)` where `mask (N, L, da)` is True, PTR Eq. (1)."""
    weight = mask.to(error.dtype)
    return (error * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1.0)
