"""The candidate pool: negatives for the identification, from the minibatch and a queue (PTR Sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

HARD_NEGATIVES = ("task", "state")
# What the hard-negative ratio is a share of: the draws from the queue, or all negatives of a sample.
RATIO_OF = ("queue", "all")
# Hard negatives are chosen among this many times as many candidates.
HARD_REACH = 8


@dataclass(frozen=True)
class Candidates:
    """
    Targets of samples, and the fields that decide which samples may use them as negatives.

    Args:
        target: `(N, D)`, constants of unit norm.
        target_id: `(N,)` int64, one id per observed frame; equal ids are the same target.
        task: `(N,)` int64.
        state: `(N, ds)`, normalised proprioception.
        valid: `(N,)` bool, whether the sample has a target.
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
        """The concatenation of several batches."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in cls.FIELDS})


class CandidatePool:
    """
    Negatives from the same (gathered) minibatch and from a FIFO queue of earlier targets, PTR Sec. 4.

    A sample's own target is never among its negatives: candidates with its `target_id` are masked, in minibatch and
    queue. No operation synchronises with the device: validity is a mask, and the write position is a tensor.

    Args:
        queue_size: capacity of the queue (1024); 0 for no queue.
        queue_negatives: maximal number of queue targets drawn per sample (64).
        hard_negatives: definition of hard negatives: `"task"`, samples of the same task, or `"state"`, the nearest
            ones in normalised proprioception.
        hard_negatives_among: what the ratio is a share of: `"queue"`, the draws from the queue, while all of the
            minibatch is used; or `"all"`, all negatives of a sample: the most similar ones of minibatch and queue
            replace random ones of the minibatch and the queue. Random ones that find no similar one remain, so the
            number of negatives is that without hard ones.
    """

    def __init__(
        self,
        queue_size: int = 1024,
        queue_negatives: int = 64,
        hard_negatives: str = "task",
        hard_negatives_among: str = "queue",
    ):
        if queue_size < 0 or queue_negatives < 0:
            raise ValueError(f"queue_size {queue_size} and queue_negatives {queue_negatives} must be at least 0")
        if hard_negatives not in HARD_NEGATIVES:
            raise ValueError(f"hard_negatives is {hard_negatives!r}; known: {', '.join(HARD_NEGATIVES)}")
        if hard_negatives_among not in RATIO_OF:
            raise ValueError(f"hard_negatives_among is {hard_negatives_among!r}; known: {', '.join(RATIO_OF)}")
        self.queue_size = queue_size
        self.hard_negatives_among = hard_negatives_among
        self.queue_negatives = min(queue_negatives, queue_size)
        self.hard_negatives = hard_negatives
        self._memory: dict[str, torch.Tensor] = {}
        self._position: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of targets in the queue. Synchronises with the device."""
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
        The negatives of a batch, and a mask of which sample may use which of them.

        Args:
            batch: the samples that need negatives, `(N, …)`.
            gathered: the minibatch to draw from, `(G, …)`: `batch` itself, or the batches of all ranks.
            hard_negative_ratio: share of hard negatives, in [0, 1], see `hard_negatives_among`. Before the queue has
                any targets, all of the minibatch is used.
            generator: random generator; ranks with equal generator states draw from the same part of the queue.

        Returns:
            `negatives (K, D)`, and `mask (N, K)` bool, True = usable: the whole minibatch except the sample's own
            target, and at most `queue_negatives` of the queue. Hard negatives among all are in place of some of these.
        """
        usable = gathered.valid & (gathered.target_id != batch.target_id[:, None])
        if not self._memory or self.queue_negatives == 0:
            return gathered.target, usable
        if self.hard_negatives_among == "all":
            random = len(gathered.valid) + self.queue_negatives
            hard = round(hard_negative_ratio * (random - 1))
            if hard:
                return self._replace(batch, gathered, random, hard, generator)
        slots, drawn = self._draw(batch, round(hard_negative_ratio * self.queue_negatives), generator)
        return torch.cat((gathered.target, self._memory["target"][slots])), torch.cat((usable, drawn), dim=1)

    def _replace(
        self, batch: Candidates, gathered: Candidates, random: int, hard: int, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Negatives `(G + queue_size, D)` and mask `(N, G + queue_size)`: hard negatives of each sample in place of
        `hard` of the `random` others, which are the minibatch and draws from the queue.
        """
        device = batch.valid.device
        slots = torch.randperm(self.queue_size, device=device, generator=generator)
        order = torch.randperm(random, device=device, generator=generator)
        rest = torch.arange(random, len(gathered.valid) + self.queue_size, device=device)
        order = torch.cat((order, rest))
        every = {
            name: torch.cat((tensor, self._memory[name][slots]))[order] for name, tensor in gathered.tensors().items()
        }
        usable = every["valid"] & (every["target_id"] != batch.target_id[:, None])
        chance = random - hard
        found = {name: tensor[chance:] for name, tensor in every.items()}
        free = usable[:, chance:]
        # Of the `hard` random ones, a sample can use these; each is replaced or remains.
        replaced = free[:, :hard].sum(dim=1, keepdim=True)
        chosen = self._hard(batch, found["task"], found["state"], free, hard, replaced)
        remaining = free[:, :hard] & ~chosen[:, :hard]
        remaining &= remaining.cumsum(dim=1) <= replaced - chosen.sum(dim=1, keepdim=True)
        chosen[:, :hard] |= remaining
        return every["target"], torch.cat((usable[:, :chance], chosen), dim=1)

    def _hard(
        self,
        batch: Candidates,
        task: torch.Tensor,
        state: torch.Tensor,
        usable: torch.Tensor,
        most: int,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        The mask `(N, R)` of the hard negatives of each sample among R candidates: `wanted` `(N, 1)`, at most `most`,
        which is the default.
        """
        count = most if wanted is None else wanted
        if self.hard_negatives == "task":
            similar = usable & (task == batch.task[:, None])
            return similar & (similar.cumsum(dim=1) <= count)
        distance = torch.cdist(batch.state, state).masked_fill(~usable, torch.inf)
        nearest = distance.topk(min(most, usable.shape[1]), dim=1, largest=False).indices
        near = (torch.arange(nearest.shape[1], device=nearest.device) < count).expand_as(nearest)
        return torch.zeros_like(usable).scatter_(1, nearest, near) & usable

    def _draw(
        self, batch: Candidates, hard: int, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Queue slots `(R,)` and the mask `(N, R)` of which sample draws which: uniform draws, and `hard` hard negatives
        per sample.

        The whole batch draws from one random part of the queue: logits for a few shared candidates cost several times
        less than logits for different candidates per sample, and the marginal distribution of each draw is the same.
        """
        queue = self._memory
        chance = self.queue_negatives - hard
        reach = min(self.queue_size, chance + HARD_REACH * hard)
        slots = torch.randperm(self.queue_size, device=batch.valid.device, generator=generator)[:reach]
        usable = queue["valid"][slots] & (queue["target_id"][slots] != batch.target_id[:, None])
        if hard == 0:
            return slots, usable
        rest = slots[chance:]
        chosen = self._hard(batch, queue["task"][rest], queue["state"][rest], usable[:, chance:], hard)
        return slots, torch.cat((usable[:, :chance], chosen), dim=1)

    @torch.no_grad()
    def push(self, seen: Candidates) -> None:
        """Adds the valid targets of a step to the queue; the oldest are dropped first."""
        if self.queue_size == 0:
            return
        if not self._memory:
            self._allocate(seen)
        assert self._position is not None
        order = torch.cumsum(seen.valid.long(), dim=0)
        total = order[-1]
        slot = (self._position + order - 1) % self.queue_size
        # Rows without a target, or overwritten by the same push, go to a spare last slot that is never drawn.
        kept = seen.valid & (order > total - self.queue_size)
        slot = torch.where(kept, slot, torch.full_like(slot, self.queue_size))
        for name, memory in self._memory.items():
            memory[slot] = getattr(seen, name).detach().to(memory.dtype)
        # Not `= False`: copying a host scalar would synchronise with the device.
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
        """
        Restores the result of [`~CandidatePool.state_dict`].

        Raises:
            ValueError: the saved queue has another size.
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
