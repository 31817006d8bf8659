"""What a run needs to go on and no part of its model holds: queue, controller, belief tokens and running figures."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hf_ptr.errors import InputError
from hf_ptr.ptr import BeliefCarry
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import tensors_under
from hf_ptr.training.running_means import RunningMeans
from hf_ptr.training.training_state import SCHEDULER_FILE
from hf_ptr.training.weight_record import Sum, WeightRecord
from hf_ptr.utils.pickle_guard import pickles

STATE_FILE = "ptr_state.safetensors"


def state_file(rank: int) -> str:
    """Each rank has its own segments, and so its own belief tokens."""
    return STATE_FILE if rank == 0 else f"ptr_state_{rank}.safetensors"


class Sidecar:
    """
    Writes and restores all of it, for one rank.

    Args:
        args: the settings, for how the data was shared out.
        objective: whose queue and controller they are.
        carry: the belief tokens.
        means: the metrics since the last log.
        rank: whose file it is.

    Attributes:
        record: of the weights, once there is one.
    """

    def __init__(self, args: PTRConfig, objective: PTRObjective, carry: BeliefCarry, means: RunningMeans, rank: int):
        self.args = args
        self.objective = objective
        self.carry = carry
        self.means = means
        self.rank = rank
        self.record: WeightRecord | None = None

    def reduce_record(self, over_ranks: Sum) -> None:
        """Adds up what all ranks have counted of the weights, if there is a record; all of them call it."""
        if self.record is not None:
            self.record.reduce(over_ranks)

    def save(self, folder: Path, loss: dict[str, torch.Tensor]) -> None:
        """Writes it, with what `Trainer` has added up of the loss since its last log."""
        parts = {
            "pool": self.objective.pool.state_dict(),
            "controller": self.objective.controller.state_dict(),
            "carry": self.carry.state_dict(),
            "means": self.means.state_dict(),
            "record": {} if self.record is None else self.record.state_dict(),
            "loss": loss,
        }
        # Tensors may be views of one storage; safetensors wants each its own.
        state = {
            f"{part}.{name}": value.detach().clone().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        save_file(state, folder / state_file(self.rank), _topology(self.args))

    def load(self, folder: Path) -> dict[str, torch.Tensor]:
        """
        Restores it; returns what was told of the loss.

        Raises:
            InputError: when the file is missing or damaged.
        """
        state = load_objective_state(self.objective, folder, state_file(self.rank), self.args.device)
        self.carry.load_state_dict(tensors_under(state, "carry."))
        self.means.load_state_dict(tensors_under(state, "means."))
        if self.record is not None and (record := tensors_under(state, "record.")):
            self.record.load_state_dict(record)
        return tensors_under(state, "loss.")


def load_objective_state(
    objective: PTRObjective,
    folder: str | os.PathLike,
    name: str = STATE_FILE,
    device: torch.device | str = "cpu",
    with_queue: bool = True,
) -> dict[str, torch.Tensor]:
    """
    Restores controller, and queue unless told not to, from a run's or checkpoint's folder; returns all that is there.

    Raises:
        InputError: when the file is missing or damaged.
    """
    file = Path(folder) / name
    try:
        # By way of the host: safetensors does not know the device `cpu:0` that a rank on CPU has.
        state = {key: tensor.to(device) for key, tensor in load_file(file).items()}
        if with_queue:
            objective.pool.load_state_dict(tensors_under(state, "pool."))
        objective.controller.load_state_dict(tensors_under(state, "controller."))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); start a new run") from error
    return state


def _topology(args: PTRConfig) -> dict[str, str]:
    return {
        "processes": str(args.world_size),
        "per_device_train_batch_size": str(args.per_device_train_batch_size),
        "gradient_accumulation_steps": str(args.gradient_accumulation_steps),
    }


def require_resumable(checkpoint: str | os.PathLike, args: PTRConfig) -> None:
    """
    Checks that a checkpoint holds all that a run needs to go on, and no pickle; and that the data is shared out as
    when it was made: which chunks come next, each rank's belief tokens and random numbers depend on it.

    Raises:
        InputError: naming what is wrong or has changed.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise InputError(f"resume_from_checkpoint {checkpoint} is no folder here, and no name on the Hub")
    pickled = pickles(path.name for path in folder.iterdir())
    if pickled:
        raise InputError(
            f"{checkpoint} holds {pickled[0]}, a pickle, which hf-ptr no longer writes, nor opens; start a new "
            "run with policy set to that folder and another output_dir"
        )
    if not (folder / SCHEDULER_FILE).is_file():
        raise InputError(
            f"{checkpoint} has no {SCHEDULER_FILE}: it was saved with save_only_model, or is no checkpoint; start a "
            "new run with policy set to that folder and another output_dir"
        )
    file = folder / STATE_FILE
    try:
        with safe_open(file, framework="pt") as opened:
            before = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is missing or damaged ({error}); start a new run") from error
    now = _topology(args)
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise InputError(
            f"{checkpoint} was made with {'; '.join(changed)}: the data would come in another order; launch the run "
            "as before, or start a new one with policy set to that folder and another output_dir"
        )
