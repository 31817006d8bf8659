"""The candidate pool: where the mismatched alternatives of the identification come from (PTR Sec. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

HARD_NEGATIVES = ("task", "state")


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


@dataclass(frozen=True)
class Negatives:
    """
    The mismatched alternatives of N samples: those that all share, and those drawn for each.

    Args:
        shared: `(G, D)`, the targets of the (gathered) minibatch.
        shared_mask: `(N, G)` bool, True where sample n may use candidate g.
        drawn: `(N, R, D)`, from the queue; R is 0 before the first push.
        drawn_mask: `(N, R)` bool.
    """

    shared: torch.Tensor
    shared_mask: torch.Tensor
    drawn: torch.Tensor
    drawn_mask: torch.Tensor


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
    def negatives(self, batch: Candidates, gathered: Candidates, hard_negative_ratio: float = 0.0) -> Negatives:
        """
        The negatives of a batch.

        Args:
            batch: the samples that ask, `(N, …)`.
            gathered: the minibatch they may draw from, `(G, …)`: `batch` itself, or that of all ranks.
            hard_negative_ratio: share of the draws that goes to similar samples, in [0, 1].
        """
        shared_mask = gathered.valid & (gathered.target_id != batch.target_id[:, None])
        if not self._memory or self.queue_negatives == 0:
            drawn = batch.target.new_zeros((len(batch.valid), 0, batch.target.shape[1]))
            return Negatives(gathered.target, shared_mask, drawn, drawn[..., 0].bool())
        slots, mask = self._draw(batch, round(hard_negative_ratio * self.queue_negatives))
        own = self._memory["target_id"][slots] == batch.target_id[:, None]
        return Negatives(
            gathered.target, shared_mask, self._memory["target"][slots], mask & self._memory["valid"][slots] & ~own
        )

    def _draw(self, batch: Candidates, hard: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Slots `(N, R)` of the queue without repetition, and which of them to use: `hard` similar ones, chance ones.

        One random order of the queue serves the whole batch and every sample enters it at a place of its own. Each
        sample's set is uniform, at a small part of the cost of a draw per sample.
        """
        samples, device = len(batch.valid), batch.valid.device
        order = torch.randperm(self.queue_size, device=device)
        entry = torch.randint(self.queue_size, (samples, 1), device=device)
        chance = self.queue_negatives - hard
        random_slots = order[(entry + torch.arange(chance, device=device)) % self.queue_size]
        if hard == 0:
            return random_slots, torch.ones_like(random_slots, dtype=torch.bool)
        if self.hard_negatives == "task":
            hard_slots, hard_mask = self._same_task(batch, hard, order, entry)
        else:
            hard_slots, hard_mask = self._nearest_state(batch, hard)
        # A slot that chance draws again would count twice.
        again = ((random_slots[:, :, None] == hard_slots[:, None, :]) & hard_mask[:, None, :]).any(dim=2)
        return torch.cat((hard_slots, random_slots), dim=1), torch.cat((hard_mask, ~again), dim=1)

    def _same_task(
        self, batch: Candidates, number: int, order: torch.Tensor, entry: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The valid entries of one task are a run of this order, in random order within the run.
        task = self._memory["task"][: self.queue_size][order]
        valid = self._memory["valid"][: self.queue_size][order]
        task = torch.where(valid, task, torch.full_like(task, torch.iinfo(task.dtype).max))
        task, by_task = task.sort(stable=True)
        first = torch.searchsorted(task, batch.task[:, None])
        length = torch.searchsorted(task, batch.task[:, None], right=True) - first
        step = torch.arange(number, device=task.device)
        place = first + (entry + step) % length.clamp(min=1)
        return order[by_task[place.clamp(max=self.queue_size - 1)]], step < length

    def _nearest_state(self, batch: Candidates, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        distance = torch.cdist(batch.state, self._memory["state"][: self.queue_size])
        own = self._memory["target_id"][: self.queue_size] == batch.target_id[:, None]
        unusable = own | ~self._memory["valid"][: self.queue_size]
        distance, slots = distance.masked_fill(unusable, torch.inf).topk(number, dim=1, largest=False)
        return slots, distance.isfinite()

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
        self._memory["valid"][self.queue_size] = False
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

