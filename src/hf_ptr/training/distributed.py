"""All processes of a run, where they have to agree on something on the host."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from hf_ptr.errors import InputError, first_line

Made = TypeVar("Made")
# What one process does alone may take longer than any exchange between them. One that dies is noticed at once.
PATIENCE = timedelta(days=30)
DONE, WRONG_INPUT, FAILED = range(3)


class Ranks:
    """
    Agreement between processes that no device takes part in: what is queued on an accelerator is not waited for.

    Args:
        index: this process.
        count: how many there are; with one, nothing is exchanged.
    """

    def __init__(self, index: int = 0, count: int = 1):
        self.index = index
        self.count = count
        # NCCL moves tensors of its devices only; Gloo those of the host.
        alien = count > 1 and dist.get_backend() != "gloo"
        self._group = dist.new_group(backend="gloo") if alien else None
        self._patient = dist.new_group(backend="gloo", timeout=PATIENCE) if count > 1 else None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what there is one of."""
        return self.index == 0

    def largest(self, value: int) -> int:
        """The largest of what the processes say; all must ask, and none goes on before the others have."""
        if self.count == 1:
            return value
        said = torch.tensor(value)
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._group)
        return int(said)

    def wait(self) -> None:
        """Until all have come here."""
        self.largest(0)

    def from_first(self, work: Callable[[], Made]) -> Made | None:
        """
        Lets the first process work while the others wait, however long it takes; all must ask.

        Args:
            work: what it does.

        Returns:
            What it has made; None in the others.

        Raises:
            InputError: that of the first process, in all of them.
            RuntimeError: in the others, for any other error of the first, which raises its own.
        """
        if self.count == 1:
            return work()
        made: Made | None = None
        failure: Exception | None = None
        if self.first:
            try:
                made = work()
            except Exception as error:
                failure = error
        kind, message = self._told(failure)
        if failure is not None:
            raise failure
        if kind == WRONG_INPUT:
            raise InputError(message)
        if kind == FAILED:
            raise RuntimeError(f"the first process failed: {message}")
        return made

    def _told(self, failure: Exception | None) -> tuple[int, str]:
        """How it went in the first process, and what it says of it."""
        wrong = isinstance(failure, InputError)
        said = "" if failure is None else str(failure) if wrong else first_line(failure)
        body = torch.tensor(list(said.encode()), dtype=torch.uint8)
        head = torch.tensor([DONE if failure is None else WRONG_INPUT if wrong else FAILED, len(body)])
        dist.broadcast(head, src=0, group=self._patient)
        kind, length = head.tolist()
        if not self.first:
            body = torch.empty(length, dtype=torch.uint8)
        if length:
            dist.broadcast(body, src=0, group=self._patient)
        return kind, bytes(body.tolist()).decode()
