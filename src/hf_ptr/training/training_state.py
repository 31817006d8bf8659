"""Optimiser, schedule and random states in files without pickles: tensors as safetensors, all else as JSON."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from hf_ptr.errors import InputError
from hf_ptr.utils.safetensors_io import read_tensors

OPTIMIZER_FILE = "optimizer.safetensors"
SCHEDULER_FILE = "scheduler.safetensors"
# Key of the values other than tensors, in the header of a file.
CONTENT = "content"
JSON_SCALARS = (bool, int, float, str, type(None))
# Of a sharded optimiser, every rank gets the full state.
FULL_STATE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_progress(folder: Path, optimizer: Any, scheduler: Any, *, sharded: Any = None, writes: bool = True) -> None:
    """
    Writes the states of optimiser and schedule.

    Args:
        folder: folder of the checkpoint.
        optimizer: the optimiser; None if an engine saves it itself.
        scheduler: the learning rate schedule.
        sharded: the model, if it is sharded by FSDP2; all ranks must call this function then.
        writes: True if this rank writes.

    Raises:
        InputError: a state contains values other than scalars, strings and tensors.
    """
    state = None
    if sharded is not None:
        state = get_optimizer_state_dict(sharded, optimizer, options=FULL_STATE)
    elif optimizer is not None and writes:
        state = optimizer.state_dict()
    if not writes:
        return
    if state is not None:
        save_content(state, folder / OPTIMIZER_FILE)
    save_content(scheduler.state_dict(), folder / SCHEDULER_FILE)


def load_progress(folder: Path, optimizer: Any, scheduler: Any, *, sharded: Any = None) -> None:
    """Restores the states written by [`save_progress`]; all ranks read them."""
    if sharded is not None:
        state = load_content(folder / OPTIMIZER_FILE)
        set_optimizer_state_dict(sharded, optimizer, state, options=StateDictOptions(full_state_dict=True))
    elif optimizer is not None:
        optimizer.load_state_dict(load_content(folder / OPTIMIZER_FILE))
    scheduler.load_state_dict(load_content(folder / SCHEDULER_FILE))


def save_random_state(folder: Path, rank: int, device: torch.device) -> None:
    """Writes the random states of Python, NumPy, PyTorch and this rank's device."""
    numpy: Any = np.random.get_state()
    kind, keys, *rest = numpy
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    # This rank may arrive before the first one has created the folder.
    folder.mkdir(parents=True, exist_ok=True)
    save_content(state, folder / _random_file(rank))


def load_random_state(folder: Path, rank: int, device: torch.device) -> None:
    """Restores the states written by [`save_random_state`]; on another type of device, those of the host only."""
    state = load_content(folder / _random_file(rank))
    kind, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"])


def _random_file(rank: int) -> str:
    return "rng_state.safetensors" if rank == 0 else f"rng_state_{rank}.safetensors"


# ---- files


def save_content(content: Any, file: Path) -> None:
    """
    Writes scalars, strings, tensors, and lists, tuples and dictionaries of them. [`load_content`] restores all types.

    Raises:
        InputError: the content has a value of another type.
    """
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encoded(content, tensors, set(), "")
    save_file(tensors, file, {CONTENT: json.dumps(encoded)})


def load_content(file: Path) -> Any:
    """
    Reads content written by [`save_content`], with tensors on the host.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        header, tensors = read_tensors(file)
        return _decoded(json.loads(header[CONTENT]), tensors)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); start a new run") from error


def _encoded(value: Any, tensors: dict[str, torch.Tensor], storages: set[int], path: str) -> Any:
    """The JSON form of a value. Each tensor is added to `tensors`, and replaced by its name there."""
    if isinstance(value, JSON_SCALARS):
        return value
    if isinstance(value, torch.Tensor):
        host = value.detach().cpu().contiguous()
        # safetensors requires that each tensor fills a separate storage.
        storage = host.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != host.nbytes:
            host = host.clone()
        storages.add(host.untyped_storage().data_ptr())
        name = f"{len(tensors)}{path}"
        tensors[name] = host
        return {"tensor": name}
    if type(value) in (list, tuple):
        parts = [_encoded(part, tensors, storages, f"{path}.{number}") for number, part in enumerate(value)]
        return {type(value).__name__: parts}
    if isinstance(value, dict) and all(isinstance(key, JSON_SCALARS) for key in value):
        return {"dict": [[key, _encoded(part, tensors, storages, f"{path}.{key}")] for key, part in value.items()]}
    raise InputError(
        f"the state of optimiser or schedule has a {type(value).__name__} at {path.lstrip('.') or 'its root'}, which "
        "cannot be saved without a pickle; use another optimiser or schedule, or save_strategy: no"
    )


def _decoded(encoded: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(encoded, dict):
        return encoded
    ((kind, parts),) = encoded.items()
    if kind == "tensor":
        return tensors[parts]
    if kind == "dict":
        return {key: _decoded(part, tensors) for key, part in parts}
    found = [_decoded(part, tensors) for part in parts]
    return tuple(found) if kind == "tuple" else found
