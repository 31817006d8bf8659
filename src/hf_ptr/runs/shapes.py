"""A model and a micro-batch as shapes without values, on PyTorch's meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_ptr.training.micro_batches import model_inputs


def on_meta(model: nn.Module, batch: dict[str, Any], chunks: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Args:
        model: the model.
        batch: a few chunks, joined by the collator.
        chunks: number of chunks in the micro-batch.

    Returns:
        The state of the model by name, with tied parameters still tied, and its inputs with `chunks` rows.
    """
    few = len(batch["actions"])
    inputs = {
        name: torch.empty((chunks, *value.shape[1:]), dtype=value.dtype, device="meta")
        if isinstance(value, Tensor) and value.dim() and len(value) == few
        else value
        for name, value in model_inputs(batch).items()
    }
    shapes: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        shapes[id(tensor)] = tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
    state = {
        name: shapes[id(tensor)]
        for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        for name, tensor in named
    }
    return state, inputs


def sum_of_outputs(output: Any) -> Tensor:
    """A scalar that depends on every output of a model with a gradient, for a backward pass without a trainer."""
    parts = (output.action_loss, output.query, output.permuted_query, output.belief_loss)
    return torch.stack([part.float().sum() for part in parts if part is not None]).sum()
