"""The times of flow matching, drawn where the actions lie."""

from __future__ import annotations

import torch
from torch.distributions import Beta


def flow_times(alpha: float, beta: float, clean: torch.Tensor) -> torch.Tensor:
    """
    Times `(N,)` from `Beta(α, β)` (PTR Eq. (1)) for chunks `clean (N, L, da)`, on their device and in their precision.

    Of plain numbers `Beta` would draw on the host, and each step would wait for the device to take the draw.
    """
    # Other devices do not know how to draw it, nor does that of shapes alone.
    one = torch.ones((), device=clean.device if clean.is_cuda else "cpu")
    return Beta(alpha * one, beta * one, validate_args=False).sample((len(clean),)).to(clean)
