"""The memory of a training step, before it is made: what backward will need, counted on shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from hf_ptr import functional as F
from hf_ptr.training.micro_batches import model_inputs

# Bytes for each trained parameter: its value, its gradient and the two moments of AdamW, in float32.
BYTES_TRAINED = 16
BYTES_FIXED = 4


def state_bytes(model: nn.Module) -> int:
    """What weights, gradients and AdamW take, whatever the batch."""
    sizes = [(BYTES_TRAINED if p.requires_grad else BYTES_FIXED) * p.numel() for p in model.parameters()]
    return sum(sizes)


def activation_bytes(model: nn.Module, batch: dict[str, Any], chunks: int) -> int | None:
    """
    What the forward pass keeps for the backward one, without computing anything: on PyTorch's meta device tensors have
    shapes and no values.

    Of the peak of a step this leaves out what is only there for a moment, and the candidates' logits. On the native
    policies, with vectors and with pictures, state and activations together are within a third of the peak that
    PyTorch's profiler sees. Under mixed precision it is at most what is said.

    Args:
        model: as it is trained.
        batch: of a few chunks, as the collator joins them.
        chunks: of the micro-batch that is asked about.

    Returns:
        Bytes; None for a policy whose pass depends on values.
    """
    few = len(batch["actions"])
    inputs = {
        name: torch.empty((chunks, *value.shape[1:]), dtype=value.dtype, device="meta")
        if isinstance(value, Tensor) and value.dim() and len(value) == few
        else value
        for name, value in model_inputs(batch).items()
    }
    # What is shared stays shared.
    shapes: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        shapes[id(tensor)] = tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
    state = {
        name: shapes[id(tensor)]
        for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        for name, tensor in named
    }
    weights = {id(tensor) for tensor in shapes.values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base
        if id(whole) not in weights:
            # The tensor itself, lest another gets its id.
            kept[id(whole)] = whole
        return tensor

    try:
        with F.unchecked(), _FusedAttention(), saved_tensors_hooks(keep, lambda tensor: tensor):
            functional_call(model, state, kwargs=inputs).action_loss.mean()
    except (NotImplementedError, RuntimeError):
        return None
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())


class _FusedAttention(TorchFunctionMode):
    """
    Attention that keeps what the fused kernels keep. On the meta device PyTorch takes the one that keeps every matrix
    of attention, which on a real device it does not.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is not scaled_dot_product_attention:
            return function(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
        return _Fused.apply(query, key, value)


class _Fused(torch.autograd.Function):
    """The shapes of attention, of which there is no backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError
