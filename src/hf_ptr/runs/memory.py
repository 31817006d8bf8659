"""Memory estimate of a training step: the tensors saved for the backward pass, counted from shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from hf_ptr import functional as F
from hf_ptr.runs.shapes import on_meta

# Bytes for each trained parameter: its value, its gradient and the two moments of AdamW, in float32.
BYTES_TRAINED = 16
BYTES_FIXED = 4


def state_bytes(model: nn.Module) -> int:
    """Bytes of weights, gradients and AdamW, which do not depend on the batch."""
    sizes = [(BYTES_TRAINED if p.requires_grad else BYTES_FIXED) * p.numel() for p in model.parameters()]
    return sum(sizes)


def activation_bytes(model: nn.Module, batch: dict[str, Any], chunks: int) -> int | None:
    """
    Bytes that the forward pass saves for the backward pass. Nothing is computed: on PyTorch's meta device, tensors
    have shapes and no values.

    The estimate leaves out temporary tensors and the candidates' logits. For the native policies, with vectors and
    with images, the sum of state and activations is within a third of the peak that PyTorch's profiler measures. Under
    mixed precision it is an upper bound.

    Args:
        model: the model, in training mode.
        batch: a few chunks, joined by the collator.
        chunks: number of chunks in the micro-batch to estimate.

    Returns:
        Bytes; None if the forward pass of the policy depends on values.
    """
    state, inputs = on_meta(model, batch, chunks)
    weights = {id(tensor) for tensor in state.values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base
        if id(whole) not in weights:
            # Keep the tensor itself: after its deletion, another tensor could get its id.
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
    Attention that saves the tensors of the fused kernels. On the meta device, PyTorch selects the unfused kernel,
    which saves every attention matrix.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is not scaled_dot_product_attention:
            return function(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
        return _Fused.apply(query, key, value)


class _Fused(torch.autograd.Function):
    """The shapes of fused attention, without a backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError
