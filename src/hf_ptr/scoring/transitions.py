"""The transitions of a dataset, put together when they are asked for, and the faults made on purpose.

A chunk of sixteen actions, written out for every frame, is sixteen times the dataset. So nothing is held of a sample
but where it lies: what it is made of is taken from the table's own columns, as many rows at a time as a pass needs.
N samples, E episodes, F frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hf_ptr.data.chunks import ChunkDataset, shared_tensor
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import release_pages
from hf_ptr.data.statistics import normalization

# Standard deviations beyond which a feature is cut off: one wild value must not decide.
LIMIT = 10.0
# Frames by which a whole episode's actions are shifted for the fault made on purpose, either way.
FAULT_SHIFT = (4, 8)
# Every how many samples are scored again with their fault.
FAULT_STRIDE = 4
# Samples that are put together at a time.
ROWS_A_PASS = 2048


@dataclass(frozen=True)
class Transitions:
    """
    N transitions, normalised features.

    Args:
        context: `o_t` (with the state), `(N, Dc)`.
        action: the chunk, flattened, `(N, Da)`.
        next_observation: `o_{t+Δ}`, `(N, Do)`.
        change: `o_{t+Δ} - o_t` on its own scale, `(N, Do)`; what an action does is small beside where it happens.
        instruction: `(N,)` int64.
        episode: `(N,)` integers, any that tell episodes apart.
        time: `(N,)` int64, frames from the start of the episode.
    """

    context: Tensor
    action: Tensor
    next_observation: Tensor
    change: Tensor
    instruction: Tensor
    episode: Tensor
    time: Tensor

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: Tensor) -> Transitions:
        """The transitions of some rows, in this order."""
        return Transitions(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def to(self, device: torch.device) -> Transitions:
        """The same on a device."""
        return Transitions(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})


class Features:
    """
    Vectors of the frames of a table side by side, in their standard deviations and cut off at `LIMIT` of them.

    Args:
        columns: each `(F, d)`, in memory or in a file.
        scale: their `mean` and `std` side by side; left out, the values are taken as they are.
    """

    def __init__(self, columns: Sequence[np.ndarray], scale: dict[str, np.ndarray] | None = None):
        self._arrays = tuple(columns)
        self._columns = tuple(shared_tensor(column) for column in columns)
        self._scale = None if scale is None else tuple(torch.from_numpy(scale[name]) for name in ("mean", "std"))
        self.width = sum(column.shape[1] for column in columns)

    @classmethod
    def of_table(cls, table: EpisodeTable, names: Sequence[str]) -> Features:
        """Numeric features by their names."""
        return cls([table.feature(name) for name in names], normalization(table, names))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Of frames `(…,)`: `(…, width)`."""
        return self.scale_(self.raw(rows))

    def raw(self, rows: Tensor) -> Tensor:
        """Of frames `(…,)` as they are in the table: `(…, width)`, a copy."""
        taken = [column[rows] for column in self._columns]
        # Rows here and there: each brings in the page that it lies in.
        for array in self._arrays:
            release_pages(array)
        return taken[0] if len(taken) == 1 else torch.cat(taken, dim=-1)

    def scale_(self, values: Tensor) -> Tensor:
        """Puts values `(…, width)` into standard deviations, in place."""
        if self._scale is None:
            return values
        mean, std = self._scale
        return values.sub_(mean).div_(std).clamp_(-LIMIT, LIMIT)


@dataclass(frozen=True)
class Cut:
    """
    The N transitions of E episodes, one after the other: every chunk that has a post-action observation.

    Args:
        observed: what is observed; of a frame and of the one Δ later.
        felt: what the context has besides.
        acted: the actions, step by step.
        chunk_size, target_offset: L and Δ, frames.
        begin, end: `(E,)` int64, the table's row of each episode's first frame, and the row after its last.
        first: `(E,)` int64, each episode's first sample, that of its first frame.
        count: `(E,)` int64, its samples; 0 where it is too short.
        episode: `(N,)` int32, position in the table.
        task_index: `(F,)` int64, the instruction of each of the table's rows.
        change_scale: `(Do,)`, what the change of an observation is divided by.
        action_of: the samples whose actions samples `(…,)` have; None for their own.
        next_observation_of: likewise for what followed.
        instruction_of: the instructions that samples `(n,)` have instead of their own.
    """

    observed: tuple[Features, ...]
    felt: tuple[Features, ...]
    acted: Features
    chunk_size: int
    target_offset: int
    begin: Tensor
    end: Tensor
    first: Tensor
    count: Tensor
    episode: Tensor
    task_index: Tensor
    change_scale: Tensor
    action_of: Callable[[Tensor], Tensor] | None = None
    next_observation_of: Callable[[Tensor], Tensor] | None = None
    instruction_of: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Widths `Dc`, `Da` and `Do` of context, action chunk and consequence."""
        seen = sum(part.width for part in self.observed)
        return seen + sum(part.width for part in self.felt), self.chunk_size * self.acted.width, seen

    def take(self, rows: Tensor) -> Transitions:
        """The transitions of samples `(n,)`."""
        context = self.contexts(rows)
        next_observation = self._next_observations(
            rows if self.next_observation_of is None else self.next_observation_of(rows)
        )
        change = (next_observation - context[:, : next_observation.shape[1]]) / self.change_scale
        return Transitions(
            context=context,
            action=self.actions(rows),
            next_observation=next_observation,
            change=change.clamp(-LIMIT, LIMIT),
            instruction=self.instructions(rows),
            episode=self.episode[rows],
            time=self.times(rows),
        )

    def times(self, rows: Tensor) -> Tensor:
        """The frames of samples `(…,)` from the start of their episodes, int64."""
        return rows - self.first[self.episode[rows]]

    def frames(self, rows: Tensor) -> Tensor:
        """The table's rows of samples `(…,)`, int64."""
        episode = self.episode[rows]
        return rows - self.first[episode] + self.begin[episode]

    def instructions(self, rows: Tensor) -> Tensor:
        """The instructions of samples `(n,)`, int64."""
        return self.task_index[self.frames(rows)] if self.instruction_of is None else self.instruction_of(rows)

    def contexts(self, rows: Tensor) -> Tensor:
        """What samples `(n,)` observed, and felt besides: `(n, Dc)`."""
        return _joined((*self.observed, *self.felt), self.frames(rows))

    def actions(self, rows: Tensor) -> Tensor:
        """The action chunks of samples `(…,)`: `(…, Da)`; zeros after the end of the episode."""
        rows = rows if self.action_of is None else self.action_of(rows)
        step = self.frames(rows)[..., None] + torch.arange(self.chunk_size)
        inside = (step < self.end[self.episode[rows]][..., None])[..., None]
        last = int(self.end[-1]) - 1
        values = self.acted.raw(step.clamp_(max=last)).masked_fill_(~inside, 0.0)
        return self.acted.scale_(values).mul_(inside).flatten(-2)

    def _next_observations(self, rows: Tensor) -> Tensor:
        return _joined(self.observed, self.frames(rows) + self.target_offset)

    def change_deviation(self) -> Tensor:
        """By how much the samples' observations change, not yet on their own scale: standard deviations, `(Do,)`."""
        count, mean, squares = 0, *torch.zeros(2, self.sizes[2], dtype=torch.float64)
        # The deviations of passes are put together (Chan, Golub and LeVeque 1979), and no change is held.
        for rows in torch.arange(len(self)).split(ROWS_A_PASS):
            change = (self._next_observations(rows) - _joined(self.observed, self.frames(rows))).double()
            own, total = change.mean(dim=0), count + len(rows)
            squares += (change - own).square().sum(dim=0) + (own - mean).square() * (count * len(rows) / total)
            mean += (own - mean) * (len(rows) / total)
            count = total
        return (squares / max(count, 1)).sqrt().float()


def cut_transitions(chunks: ChunkDataset, pictures: Tensor | None = None) -> Cut:
    """
    The transitions of chunks, every dimension in its standard deviations.

    Args:
        chunks: of the episodes.
        pictures: `(F, d)`, the features of what the cameras saw, where the observation is cameras.
    """
    table = chunks.table
    felt: tuple[Features, ...] = ()
    if pictures is not None:
        # What followed is seen by the cameras and felt by the joints.
        observed: tuple[Features, ...] = (
            Features([pictures.numpy()]),
            Features.of_table(table, [chunks.state_feature]),
        )
    else:
        observed = (Features.of_table(table, chunks.observation_features),)
        if chunks.state_feature not in chunks.observation_features:
            felt = (Features.of_table(table, [chunks.state_feature]),)
    count = torch.from_numpy(np.maximum(table.lengths - chunks.target_offset, 0))
    cut = Cut(
        observed=observed,
        felt=felt,
        acted=Features.of_table(table, [chunks.action_feature]),
        chunk_size=chunks.chunk_size,
        target_offset=chunks.target_offset,
        begin=shared_tensor(table.starts),
        end=torch.from_numpy(table.starts + table.lengths),
        first=count.cumsum(0) - count,
        count=count,
        episode=torch.arange(table.num_episodes, dtype=torch.int32).repeat_interleave(count),
        task_index=shared_tensor(table.task_index),
        change_scale=torch.ones(1),
    )
    deviation = cut.change_deviation()
    return replace(cut, change_scale=torch.where(deviation > 1e-4, deviation, 1.0))


def make_faults(cut: Cut, episodes: Tensor, known: Tensor, generator: torch.Generator) -> dict[str, Cut]:
    """
    The samples with each fault, by its name, all along every episode; what is exchanged comes from `episodes`.

    Args:
        cut: the samples.
        episodes: positions of the held-out episodes, at least one; alone, it has no other to exchange with.
        known: `(instructions,)` bool; no instruction is exchanged where fewer than two are known.
        generator: of the draws.
    """
    total = len(cut.count)
    shift = torch.randint(FAULT_SHIFT[0], FAULT_SHIFT[1] + 1, (total,), generator=generator)
    shift = shift * (2 * torch.randint(2, (total,), generator=generator) - 1)

    def moved(rows: Tensor) -> Tensor:
        episode = cut.episode[rows]
        return (cut.times(rows) + shift[episode]).clamp(min=0).minimum(cut.count[episode] - 1) + cut.first[episode]

    faults = {"shifted": replace(cut, action_of=moved)}
    if len(episodes) > 1:
        order = episodes[torch.randperm(len(episodes), generator=generator)]
        donors = torch.arange(total).index_copy(0, order, order.roll(1))

        def other(rows: Tensor) -> Tensor:
            donor = donors[cut.episode[rows]]
            return cut.first[donor] + cut.times(rows) % cut.count[donor].clamp(min=1)

        faults["swapped"] = replace(cut, action_of=other)
        faults["next_observation"] = replace(cut, next_observation_of=other)
    choices = torch.nonzero(known).squeeze(1)
    if len(choices) > 1:
        drawn = torch.randint(len(choices) - 1, (total,), generator=generator)

        def wrong(rows: Tensor) -> Tensor:
            own, choice = cut.instructions(rows), drawn[cut.episode[rows]]
            # Who has a known instruction passes over it.
            return choices[choice + (known[own] & (choice >= torch.searchsorted(choices, own)))]

        faults["instruction"] = replace(cut, instruction_of=wrong)
    return faults


def _joined(parts: Sequence[Features], rows: Tensor) -> Tensor:
    taken = [part[rows] for part in parts]
    return taken[0] if len(taken) == 1 else torch.cat(taken, dim=-1)
