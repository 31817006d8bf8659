"""Memory of a training step: what is kept between steps, and the peak of a step, estimated from shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_ptr import functional as F
from hf_ptr.runs.shapes import on_meta, sum_of_outputs


@dataclass(frozen=True)
class KeptBytes:
    """
    Bytes that a run keeps between its steps on one device.

    Attributes:
        weights: all parameters and buffers, those of the EMA target included.
        target: of these, the EMA target.
        gradients: of the trained parameters.
        moments: the two moments of AdamW, in the type of the parameters.
    """

    weights: int
    target: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        """Weights, gradients and AdamW."""
        return self.weights + self.gradients + self.moments


def kept_bytes(model: nn.Module) -> KeptBytes:
    """The bytes of a [`PTRModel`], which do not depend on the batch."""
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    target = getattr(model, "target_encoder", None)
    return KeptBytes(
        weights=_size((*model.parameters(), *model.buffers())),
        target=0 if target is None else _size((*target.parameters(), *target.buffers())),
        gradients=trained,
        moments=2 * trained,
    )


def bytes_on_each(kept: KeptBytes, ranks: int) -> dict[str, tuple[int, int]]:
    """
    Bytes on each of several devices without activations, by the way that they share the work.

    Args:
        kept: of one device.
        ranks: number of devices, at least 2.

    Returns:
        By way: bytes between two steps, and at most within one.

            - `DDP`: everything whole, and the gradients a second time, in the buckets that are exchanged.
            - `FSDP2`: everything divided. In a step the weights are whole, and the gradients until they are exchanged.
            - `ZeRO 2`: weights whole, gradients and AdamW divided; AdamW has a copy of the weights of its part. In a
              step the gradients that are not exchanged yet are added: all of them at most.
    """
    divided = kept.total // ranks
    own = kept.weights + (2 * kept.gradients + kept.moments) // ranks
    ddp = kept.total + kept.gradients
    return {
        "DDP": (ddp, ddp),
        "FSDP2": (divided, divided + kept.weights + kept.gradients),
        "ZeRO 2": (own, own + kept.gradients),
    }


def step_bytes(model: nn.Module, batch: dict[str, Any], chunks: int, micro_batches: int = 1) -> int | None:
    """
    Peak bytes of forward and backward pass above the weights and AdamW: inputs, activations and gradients. Nothing is
    computed: on PyTorch's meta device, tensors have shapes and no values.

    The estimate leaves out the candidates' logits. Under mixed precision it is an upper bound.

    Args:
        model: the model, in training mode.
        batch: a few chunks, joined by the collator.
        chunks: number of chunks in the micro-batch to estimate.
        micro_batches: of a step. With several, the gradients of the first are kept during the others.

    Returns:
        Bytes; None if the forward pass of the policy depends on values.
    """
    state, inputs = on_meta(model, batch, chunks)
    live = _LiveBytes(state.values())
    given = _size(value for value in inputs.values() if isinstance(value, Tensor))
    try:
        with F.unchecked(), _FusedAttention(), live:
            for _ in range(min(micro_batches, 2)):
                sum_of_outputs(functional_call(model, state, kwargs=inputs)).backward()
    except (NotImplementedError, RuntimeError):
        return None
    return given + live.peak


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors: one that has two names counts once."""
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


class _LiveBytes(TorchDispatchMode):
    """
    Adds up the storages that are made inside the context and are in use.

    Args:
        known: tensors that exist already and do not count.

    Attributes:
        peak: the largest sum so far.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.peak = self._bytes = 0
        self._storages: dict[int, Any] = {}
        self._known = [tensor.untyped_storage() for tensor in known]
        self._known_ids = {storage._cdata for storage in self._known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._add(each.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or key in self._known_ids:
            return

        def freed(_: Any) -> None:
            self._bytes -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, freed)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)


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
    """The shapes of fused attention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])
