"""Instructions through a text encoder, with a cache for repeated instructions on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Maximal number of cached instructions; a dataset has some hundreds.
CACHE_SIZE = 4096


class InstructionReader:
    """
    Returns the last hidden states of instructions.

    A batch has many chunks and few distinct instructions. On a CPU, where the encoder costs as much as the rest of a
    small policy, each distinct instruction is encoded once per batch, and once in all if the encoder is frozen. On an
    accelerator all rows are encoded in one pass: finding the distinct ones would synchronise with the host.

    It holds no weights. The encoder belongs to the policy and is passed at every call.
    """

    def __init__(self) -> None:
        self._states: dict[bytes, torch.Tensor] = {}
        self._weights: tuple[int, int] | None = None

    def __call__(self, encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`ids` and `mask`, both `(N, K)`, to `(N, K, D)`."""
        if ids.device.type != "cpu":
            return _read(encoder, ids, mask)
        rows, inverse = torch.cat((ids, mask.long()), dim=1).unique(dim=0, return_inverse=True)
        if is_trained(encoder):
            return _read(encoder, *rows.chunk(2, dim=1))[inverse]
        return self._cached(encoder, rows)[inverse]

    def _cached(self, encoder: Any, rows: torch.Tensor) -> torch.Tensor:
        first = next(encoder.parameters())
        weights = (first.data_ptr(), first._version)
        if weights != self._weights or len(self._states) + len(rows) > CACHE_SIZE:
            self._states, self._weights = {}, weights
        names = [row.numpy().tobytes() for row in rows]
        new = [number for number, name in enumerate(names) if name not in self._states]
        if new:
            read = _read(encoder, *rows[new].chunk(2, dim=1))
            self._states.update(zip((names[number] for number in new), read, strict=True))
        return torch.stack([self._states[name] for name in names])


def is_trained(encoder: nn.Module) -> bool:
    """Whether any weight of the encoder, or of an adapter in it, requires a gradient."""
    return any(parameter.requires_grad for parameter in encoder.parameters())


def _read(encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(encoder)):
        return encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
