"""All processes of a run, where they have to agree on something on the host."""

from __future__ import annotations

import torch
import torch.distributed as dist


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
