"""Checks of the arguments of functions of tensors: shapes, masks, numbers and values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_values_checked: ContextVar[bool] = ContextVar("hf_ptr_values_checked", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Disable the checks of tensor *values* inside the block; shapes, masks and numbers are still checked.

    Checking whether a tensor is finite makes the host wait for the accelerator. A training step calls
    `hf_ptr.functional` several times and detects a NaN by its loss anyway, so it runs under this context and never
    waits. The setting is a context variable, so that the checks of other threads stay enabled.
    """
    token = _values_checked.set(False)
    try:
        yield
    finally:
        _values_checked.reset(token)


def values_checked() -> bool:
    """Whether tensor values are checked; see [`unchecked`]."""
    return _values_checked.get()


def check_shape(name: str, value: Tensor, *sizes: int | str, like: str = "") -> tuple[int, ...]:
    """Check a shape: a number is the required size, that of ``like``; a letter allows any size, 0 only for B, K, D."""
    fits = isinstance(value, Tensor) and value.ndim == len(sizes)
    if not fits or any(
        got != size if isinstance(size, int) else got == 0 and size not in "BKD"
        for got, size in zip(value.shape, sizes, strict=True)
    ):
        expected = ", ".join(map(str, sizes)) + ("," if len(sizes) == 1 else "")
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape ({expected}){like and f' to fit {like}'}, got {got}")
    return tuple(value.shape)


def check_mask(name: str, mask: Tensor | None, *sizes: int, like: str) -> Tensor | None:
    """The mask as bool; its shape is checked as in [`check_shape`]."""
    if mask is None:
        return None
    check_shape(name, mask, *sizes, like=like)
    # A floating mask is refused: it may be an additive mask, in which 0 means "keep".
    if mask.is_floating_point():
        raise ValueError(f"{name} must be a bool tensor, got {mask.dtype}")
    return mask.to(torch.bool)


def check_positive(name: str, value: float | Tensor) -> None:
    """Check that a number, or a tensor of one, is finite and above 0."""
    if isinstance(value, Tensor):
        check_shape(name, value)
        if not values_checked():
            return
        value = value.item()
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value}")


def check_finite(at_least: float = -math.inf, **tensors: Tensor) -> None:
    """Check that all values are finite and at least ``at_least``."""
    if not values_checked():
        return
    for name, tensor in tensors.items():
        wrong = tensor[~(torch.isfinite(tensor) & (tensor >= at_least))]
        if len(wrong):
            bound = "" if at_least == -math.inf else f" and at least {at_least:g}"
            raise ValueError(f"{name} must be finite{bound}, got {wrong[0].item()} ({len(wrong)} of {tensor.numel()})")
