"""Instructions through a text encoder: each distinct one once, and by an encoder that is not trained once for good."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Instructions that are remembered; a dataset has some hundreds.
MOST = 4096


class InstructionReader:
    """
    The last hidden states of instructions.

    A batch has many chunks and few instructions. On a CPU, where reading the encoder costs as much as the rest of a
    small policy, each distinct one is encoded once a batch, and remembered where the encoder is not trained. On an
    accelerator all rows go in one pass: to find the distinct ones the CPU would have to wait for it.

    It holds no weights: the encoder stays the policy's own, and is handed over at every call.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, torch.Tensor] = {}
        self._weights: tuple[int, int] | None = None

    def __call__(self, encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`ids, mask (N, K)` to `(N, K, D)`."""
        if ids.device.type != "cpu":
            return _read(encoder, ids, mask)
        rows, place = torch.cat((ids, mask.long()), dim=1).unique(dim=0, return_inverse=True)
        if is_trained(encoder):
            return _read(encoder, *rows.chunk(2, dim=1))[place]
        return self._remembered(encoder, rows)[place]

    def _remembered(self, encoder: Any, rows: torch.Tensor) -> torch.Tensor:
        first = next(encoder.parameters())
        weights = (first.data_ptr(), first._version)
        if weights != self._weights or len(self._known) + len(rows) > MOST:
            self._known, self._weights = {}, weights
        names = [row.numpy().tobytes() for row in rows]
        new = [number for number, name in enumerate(names) if name not in self._known]
        if new:
            read = _read(encoder, *rows[new].chunk(2, dim=1))
            self._known.update(zip((names[number] for number in new), read, strict=True))
        return torch.stack([self._known[name] for name in names])


def is_trained(encoder: nn.Module) -> bool:
    """Whether any of its weights, or an adapter's on them, is trained."""
    return any(parameter.requires_grad for parameter in encoder.parameters())


def _read(encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(encoder)):
        return encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
