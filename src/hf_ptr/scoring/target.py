"""The target encoder: an EMA copy of the policy's own observation tower (PTR Sec. 4)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F


class TargetEncoder(nn.Module):
    """
    `g`, the exponential moving average of the policy's observation tower: `g ← μ g + (1-μ) v` (PTR Sec. 4).

    Its output is a constant for everything that is trained: no parameter requires a gradient and the forward pass
    records none.

    Args:
        tower: the policy's tower `v`, a module from observations `(B, …)` to pooled features `(B, D)`. It is copied,
            in float32 whatever the policy's precision: in bfloat16 a step of `1-μ` is lost to rounding.
        decay: `μ` in [0, 1]; 1 freezes the encoder (the paper's "frozen target encoder" ablation).
    """

    def __init__(self, tower: nn.Module, decay: float = 0.999):
        super().__init__()
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay is {decay}; it must lie in [0, 1]")
        self.decay = decay
        self.tower = copy.deepcopy(tower)._apply(_at_least_single).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TargetEncoder:
        """Stays in evaluation mode: dropout would make the targets random."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *observation: torch.Tensor) -> torch.Tensor:
        """`y = g(o_{t+Δ})`, pooled and L2-normalised with eps 1e-6: `(B, D)`, no gradient."""
        seen = (_at_least_single(each) for each in observation)
        return F.normalize(self.tower(*seen).float(), dim=-1, eps=1e-6)

    @torch.no_grad()
    def update(self, tower: nn.Module) -> None:
        """One EMA step towards the policy's tower, after an optimiser step. Buffers are copied as they are."""
        if self.decay < 1.0:
            own = [parameter.data for parameter in self.tower.parameters()]
            new = [_at_least_single(parameter.data) for parameter in tower.parameters()]
            torch._foreach_lerp_(own, new, 1.0 - self.decay)
        for mine, theirs in zip(self.tower.buffers(), tower.buffers(), strict=True):
            mine.copy_(theirs)


def _at_least_single(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of half precision as float32; any other as it is."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
