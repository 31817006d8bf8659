"""Time estimate of a training step: the floating-point operations of a step, counted from shapes alone."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from hf_ptr import functional as F
from hf_ptr.runs.shapes import on_meta, sum_of_outputs

# Operations per second of one GPU: 40 % of the peak of an H100 in bfloat16, as well-tuned training reaches.
SPEED = 4e14
SEVERAL = 8
# Steps of less, seconds, take the time of their launches and of reading the data, which are not estimated.
SHORTEST = 1e-3


def step_operations(model: nn.Module, batch: dict[str, Any], chunks: int) -> int | None:
    """
    Floating-point operations of the forward and backward pass of a micro-batch, on PyTorch's meta device.

    Args:
        model, batch, chunks: as for [`step_bytes`].

    Returns:
        The number; None if the forward pass of the policy depends on values.
    """
    state, inputs = on_meta(model, batch, chunks)
    counter = FlopCounterMode(display=False)
    try:
        with F.unchecked(), counter:
            sum_of_outputs(functional_call(model, state, kwargs=inputs)).backward()
    except (NotImplementedError, RuntimeError):
        return None
    return int(counter.get_total_flops())


def time_in_words(operations: int, chunks: int, accumulation: int, gradient_bytes: int) -> dict[str, str]:
    """
    The section `time` of a plan.

    Args:
        operations: of a micro-batch.
        chunks: chunks in a micro-batch.
        accumulation: micro-batches in a step.
        gradient_bytes: bytes of the gradients, which several devices exchange in each step.
    """
    seconds, rows = operations * accumulation / SPEED, chunks * accumulation
    time = f"about {seconds:.2g} s a step" if seconds >= SHORTEST else f"less than {SHORTEST:g} s of operations a step"
    speed = f"{SPEED / 1e12:.0f} TFLOP/s (40 % of an H100 in bfloat16)"
    exchange = f"{gradient_bytes / 2**30:.2g} GiB of gradients"
    return {
        "operations": f"{operations * accumulation / 1e12:,.3g} TFLOP a step on each device, forward and backward",
        "on one GPU": f"{time} of {rows:,} chunks at {speed}",
        f"on {SEVERAL} GPUs": f"{time} of {SEVERAL * rows:,} chunks, and the exchange of {exchange}",
    }
