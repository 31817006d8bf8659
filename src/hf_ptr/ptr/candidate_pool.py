"""The candidate pool: where the mismatched alternatives of the identification come from (PTR Sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

HARD_NEGATIVES = ("task", "state")
# Similar samples are looked for among this many times as many as are wanted.
HARD_REACH = 8


@dataclass(frozen=True)
class Candidates:
    """
    Targets of samples, with what is needed to tell which of them may stand as whose negatives.

    Args:
        target: `(N, D)`, constants of unit norm.
        target_id: `(N,)` int64, one number for each observed frame: equal ids are the same target.
        task: `(N,)` int64.
        state: `(N, ds)`, normalised proprioception.
        valid: `(N,)` bool, whether the sample has a target at all.
    """

    target: torch.Tensor
    target_id: torch.Tensor
    task: torch.Tensor
    state: torch.Tensor
    valid: torch.Tensor

    FIELDS = ("target", "target_id", "task", "state", "valid")

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields by name."""
        return {name: getattr(self, name) for name in self.FIELDS}

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """Those of several batches below each other."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in cls.FIELDS})


class CandidatePool:
    """
    Negatives from the same (gathered) minibatch and from a FIFO queue of earlier targets, PTR Sec. 4.

    A sample's own target never stands among its negatives: candidates with its `target_id` are masked wherever they
    come from. Nothing here waits for the device: validity is a mask and the write position is a tensor.

    Args:
        queue_size: targets remembered (1024); 0 keeps none.
        queue_negatives: how many of them are drawn for each sample at most (64).
        hard_negatives: what the hard ratio draws first: `"task"`, samples of the same task, or `"state"`, the nearest
            ones in normalised proprioception.
    """

    def __init__(self, queue_size: int = 1024, queue_negatives: int = 64, hard_negatives: str = "task"):
        if queue_size < 0 or queue_negatives < 0:
            raise ValueError(f"queue_size {queue_size} and queue_negatives {queue_negatives} must be at least 0")
        if hard_negatives not in HARD_NEGATIVES:
            raise ValueError(f"hard_negatives is {hard_negatives!r}; known: {', '.join(HARD_NEGATIVES)}")
        self.queue_size = queue_size
        self.queue_negatives = min(queue_negatives, queue_size)
        self.hard_negatives = hard_negatives
        self._memory: dict[str, torch.Tensor] = {}
        self._position: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of targets in the queue (waits for the device)."""
        return int(self._memory["valid"].sum()) if self._memory else 0

    @torch.no_grad()
    def negatives(
        self,
        batch: Candidates,
        gathered: Candidates,
        hard_negative_ratio: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The negatives that a batch shares, and who may use which.

        Args:
            batch: the samples that ask, `(N, …)`.
            gathered: the minibatch they may draw from, `(G, …)`: `batch` itself, or that of all ranks.
            hard_negative_ratio: share of the draws that goes to similar samples, in [0, 1].
            generator: of the draws; ranks that pass one in the same state draw from the same part of the queue.

        Returns:
            `negatives (K, D)`, and `mask (N, K)` bool, True = usable: the whole minibatch but a sample's own target,
            and at most `queue_negatives` of the queue.
        """
        usable = gathered.valid & (gathered.target_id != batch.target_id[:, None])
        if not self._memory or self.queue_negatives == 0:
            return gathered.target, usable
        slots, drawn = self._draw(batch, round(hard_negative_ratio * self.queue_negatives), generator)
        return torch.cat((gathered.target, self._memory["target"][slots])), torch.cat((usable, drawn), dim=1)

    def _draw(
        self, batch: Candidates, hard: int, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Slots `(R,)` of the queue and who draws which `(N, R)`: chance ones, and `hard` similar ones for each sample.

        The batch draws from one random part of the queue: a product with few candidates that all share is several
        times cheaper than one with different candidates for each, and every sample's set is as random.
        """
        queue = self._memory
        chance = self.queue_negatives - hard
        reach = min(self.queue_size, chance + HARD_REACH * hard)
        slots = torch.randperm(self.queue_size, device=batch.valid.device, generator=generator)[:reach]
        usable = queue["valid"][slots] & (queue["target_id"][slots] != batch.target_id[:, None])
        if hard == 0:
            return slots, usable
        rest = slots[chance:]
        if self.hard_negatives == "task":
            similar = usable[:, chance:] & (queue["task"][rest] == batch.task[:, None])
            chosen = similar & (similar.cumsum(dim=1) <= hard)
        else:
            distance = torch.cdist(batch.state, queue["state"][rest]).masked_fill(~usable[:, chance:], torch.inf)
            nearest = distance.topk(min(hard, len(rest)), dim=1, largest=False).indices
            chosen = torch.zeros_like(usable[:, chance:]).scatter_(1, nearest, True) & usable[:, chance:]
        return slots, torch.cat((usable[:, :chance], chosen), dim=1)

    @torch.no_grad()
    def push(self, seen: Candidates) -> None:
        """Remembers the valid targets of a step, oldest out first. Invalid ones take no place."""
        if self.queue_size == 0:
            return
        if not self._memory:
            self._allocate(seen)
        assert self._position is not None
        order = torch.cumsum(seen.valid.long(), dim=0)
        total = order[-1]
        slot = (self._position + order - 1) % self.queue_size
        # Rows without a target, or that the same push would overwrite, go to a spare last place that nobody draws.
        kept = seen.valid & (order > total - self.queue_size)
        slot = torch.where(kept, slot, torch.full_like(slot, self.queue_size))
        for name, memory in self._memory.items():
            memory[slot] = getattr(seen, name).detach().to(memory.dtype)
        # Not `= False`: to take a number of the host, the device would be waited for.
        self._memory["valid"][self.queue_size].zero_()
        self._position = (self._position + total) % self.queue_size

    def _allocate(self, like: Candidates) -> None:
        self._memory = {
            name: tensor.new_zeros((self.queue_size + 1, *tensor.shape[1:])) for name, tensor in like.tensors().items()
        }
        self._position = like.target_id.new_zeros(())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The queue and its write position; empty before the first push."""
        if self._position is None:
            return {}
        queue = {name: memory[: self.queue_size].clone() for name, memory in self._memory.items()}
        return {**queue, "position": self._position.clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~CandidatePool.state_dict`] gave.

        Raises:
            ValueError: when the queue had another size.
        """
        if not state:
            self._memory, self._position = {}, None
            return
        size = state["target"].shape[0]
        if size != self.queue_size:
            raise ValueError(f"the saved queue holds {size} targets and queue_size is {self.queue_size}")
        self._allocate(Candidates(**{name: state[name] for name in Candidates.FIELDS}))
        for name, memory in self._memory.items():
            memory[: self.queue_size] = state[name]
        self._position = state["position"].clone()
