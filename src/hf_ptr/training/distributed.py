"""Exchanges between the processes of a run on the host."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from hf_ptr.errors import InputError, first_line

Result = TypeVar("Result")
# Work of one process alone may take longer than any exchange. A process that dies is noticed at once.
PATIENCE = timedelta(days=30)
DONE, WRONG_INPUT, FAILED = range(3)


class ProcessGroup:
    """
    Exchanges between processes without their devices: no exchange waits for work queued on an accelerator.

    Args:
        rank: rank of this process.
        size: number of processes; with one, nothing is exchanged.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size
        # NCCL moves only tensors of its devices; Gloo moves those of the host.
        needs_gloo = size > 1 and dist.get_backend() != "gloo"
        self._group = dist.new_group(backend="gloo") if needs_gloo else None
        self._patient_group = dist.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def all_reduce_max(self, value: int) -> int:
        """The largest value of all processes. All must call it, and each waits for the others."""
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def barrier(self) -> None:
        """Waits until all processes have called it."""
        self.all_reduce_max(0)

    def run_on_main(self, work: Callable[[], Result]) -> Result | None:
        """
        Runs `work` in the main process while the others wait, however long it takes. All must call it.

        Returns:
            The result of `work` in the main process; None in the others.

        Raises:
            InputError: raised by `work`, in all processes.
            RuntimeError: in the other processes, for any other error of the main process, which raises its own.
        """
        if self.size == 1:
            return work()
        result: Result | None = None
        failure: Exception | None = None
        if self.is_main_process:
            try:
                result = work()
            except Exception as error:
                failure = error
        kind, message = self._broadcast_outcome(failure)
        if failure is not None:
            raise failure
        if kind == WRONG_INPUT:
            raise InputError(message)
        if kind == FAILED:
            raise RuntimeError(f"the main process failed: {message}")
        return result

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of the main process, on the host, in all processes; all must call it with the same shape."""
        if self.size > 1:
            dist.broadcast(tensor, src=0, group=self._patient_group)
        return tensor

    def _broadcast_outcome(self, failure: Exception | None) -> tuple[int, str]:
        """How the work of the main process ended, and its error message."""
        wrong = isinstance(failure, InputError)
        message = "" if failure is None else str(failure) if wrong else first_line(failure)
        body = torch.tensor(list(message.encode()), dtype=torch.uint8)
        head = torch.tensor([DONE if failure is None else WRONG_INPUT if wrong else FAILED, len(body)])
        dist.broadcast(head, src=0, group=self._patient_group)
        kind, length = head.tolist()
        if not self.is_main_process:
            body = torch.empty(length, dtype=torch.uint8)
        if length:
            dist.broadcast(body, src=0, group=self._patient_group)
        return kind, bytes(body.tolist()).decode()
