"""Random states of the host and of one device; those of the other devices of a node are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def forked_random_state(device: torch.device, seed: int | None = None) -> Iterator[Callable[[], bool]]:
    """
    Restores the random states of PyTorch on the host and on `device` after the block. The context is a function that
    says whether both are still what they were before the block.

    `torch.random.fork_rng` reads those of every GPU by default, which opens a context on each and fails where another
    process owns one; `torch.manual_seed` seeds all of them.

    Args:
        device: the device in use, of any type.
        seed: seeds both states at the start of the block; None leaves them as they are.
    """
    on_host = torch.get_rng_state()
    module = None if device.type == "cpu" else torch.get_device_module(device)
    index = () if module is None or device.type == "mps" else (device,)
    on_device = None if module is None else module.get_rng_state(*index)

    def untouched() -> bool:
        # The state of every device is in the memory of the host: nothing waits for the device.
        if not np.array_equal(on_host.numpy(), torch.get_rng_state().numpy()):
            return False
        if module is None or on_device is None:
            return True
        return np.array_equal(on_device.numpy(), module.get_rng_state(*index).numpy())

    try:
        if seed is not None:
            seed_device(device, seed)
        yield untouched
    finally:
        torch.set_rng_state(on_host)
        if module is not None:
            module.set_rng_state(on_device, *index)


def seed_device(device: torch.device, seed: int) -> None:
    """Seeds PyTorch's generators of the host and of `device`, as `torch.manual_seed` seeds those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "mps":
        torch.mps.manual_seed(seed)
    elif device.type != "cpu":
        module = torch.get_device_module(device)
        with module.device(device):
            module.manual_seed(seed)
