"""The transitions of a dataset, assembled on demand, and the planted faults.

Storing the action chunk of every frame would multiply the size of the dataset by the length of a chunk. Therefore only
the position of each transition is stored; its values are read from the table's columns, as many rows at a time as a
pass needs. N transitions, E episodes, F frames.
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
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.feature_scale import MOVING_QUANTILE, feature_scale

# Transitions that are assembled at a time; bounds the memory and changes no result.
ROWS_PER_PASS = 2048


@dataclass(frozen=True)
class Transitions:
    """
    N transitions with normalised features.

    Args:
        context: `o_t` with the state, `(N, Dc)`.
        action: the flattened chunk, `(N, Da)`.
        next_observation: `o_{t+Δ}`, `(N, Do)`.
        change: `o_{t+Δ} - o_t` in its own standard deviations, `(N, Do)`. The effect of an action is small compared
            with the spread of the observations.
        instruction: `(N,)` int64.
        episode: `(N,)` integers, different for each episode.
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
        """The transitions of some rows, in their order."""
        return Transitions(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def to(self, device: torch.device) -> Transitions:
        """The same transitions on a device."""
        return Transitions(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})


class Features:
    """
    Vectors of a table's frames, concatenated, in standard deviations and cut at a limit.

    Args:
        columns: each `(F, d)`, in memory or memory-mapped.
        limit: standard deviations at which values are cut.
        scale: concatenated `mean` and `std`; without it, values are returned unchanged.
        resting: dimensions that rest, by the name of their feature.
    """

    def __init__(
        self,
        columns: Sequence[np.ndarray],
        limit: float,
        scale: dict[str, np.ndarray] | None = None,
        resting: dict[str, list[int]] | None = None,
    ):
        self.resting = resting or {}
        self._arrays = tuple(columns)
        self._columns = tuple(shared_tensor(column) for column in columns)
        self._limit = limit
        self._scale = None if scale is None else tuple(torch.from_numpy(scale[name]) for name in ("mean", "std"))
        self.width = sum(column.shape[1] for column in columns)

    @classmethod
    def of_table(
        cls, table: EpisodeTable, names: Sequence[str], config: ScoreConfig, *, observed: bool = True
    ) -> Features:
        """The numeric features of these names; dimensions that rest are 0 (`hf_ptr.scoring.feature_scale`)."""
        scales = [feature_scale(table, name, config, observed=observed) for name in names]
        scale = {key: np.concatenate([each[key] for each in scales]) for key in ("mean", "std")}
        resting = {
            name: np.flatnonzero(np.isinf(one["std"])).tolist() for name, one in zip(names, scales, strict=True)
        }
        return cls([table.feature(name) for name in names], config.feature_limit, scale, resting)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The features of frames `(…,)`: `(…, width)`."""
        return self.scale_(self.raw(rows))

    def raw(self, rows: Tensor) -> Tensor:
        """The features of frames `(…,)` without scaling: `(…, width)`, a copy."""
        taken = [column[rows] for column in self._columns]
        # Every scattered row loads the page that it lies in.
        for array in self._arrays:
            release_pages(array)
        return taken[0] if len(taken) == 1 else torch.cat(taken, dim=-1)

    def scale_(self, values: Tensor) -> Tensor:
        """Scales values `(…, width)` to standard deviations, in place."""
        if self._scale is None:
            return values
        mean, std = self._scale
        return values.sub_(mean).div_(std).clamp_(-self._limit, self._limit)


@dataclass(frozen=True)
class Segments:
    """
    The S parts of episodes without a pause of the recording; an episode without a pause is one segment.

    Args:
        begin, end: `(S,)` int64, the table's row of each segment's first frame, and the row after its last.
        episode: `(S,)` int32, position of its episode in the table.
        first: `(S,)` int64, the first transition of each segment.
        count: `(S,)` int64, transitions of each segment; 0 where it is too short.
    """

    begin: Tensor
    end: Tensor
    episode: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of_table(cls, table: EpisodeTable, target_offset: int) -> Segments:
        """The segments of a table; a transition has `target_offset` frames of its segment after it."""
        changes = np.flatnonzero(table.stretch[1:] != table.stretch[:-1]) + 1
        begin = np.union1d(table.starts, changes)
        end = np.append(begin[1:], table.num_frames)
        count = torch.from_numpy(np.maximum(end - begin - target_offset, 0))
        episode = np.searchsorted(table.starts, begin, side="right") - 1
        return cls(
            begin=torch.from_numpy(begin),
            end=torch.from_numpy(end),
            episode=torch.from_numpy(episode.astype(np.int32)),
            first=count.cumsum(0) - count,
            count=count,
        )

    def count_by_episode(self, episodes: int) -> Tensor:
        """Transitions of each episode, `(E,)` int64."""
        return torch.zeros(episodes, dtype=torch.int64).index_add_(0, self.episode, self.count)


@dataclass(frozen=True)
class LazyTransitions:
    """
    The N transitions of E episodes, consecutive: every chunk that has an observation after it.

    A pause of the recording divides an episode into several of the S segments, and no transition crosses it.

    Args:
        observations: features of an observation, of the frame and of the one Δ later.
        state: further features of the context.
        actions_by_step: the action of each frame.
        chunk_size, target_offset: L and Δ, frames.
        feature_limit: standard deviations at which the change of an observation is cut.
        begin, end: `(E,)` int64, the table's row of each episode's first frame, and the row after its last.
        first: `(E,)` int64, the first transition of each episode.
        count: `(E,)` int64, transitions of each episode; 0 where it is too short.
        episode: `(N,)` int32, position in the table.
        segments: the segments.
        segment: `(N,)` int32, the segment of each transition.
        task_index: `(F,)` int64, instruction of each row of the table.
        change_scale: `(Do,)`, divisor of the change of an observation.
        action_of: planted fault: the transitions whose actions transitions `(…,)` get; None for their own.
        next_observation_of: the same for the next observation.
        instruction_of: the same for the instructions of transitions `(n,)`.
    """

    observations: tuple[Features, ...]
    state: tuple[Features, ...]
    actions_by_step: Features
    chunk_size: int
    target_offset: int
    feature_limit: float
    begin: Tensor
    end: Tensor
    first: Tensor
    count: Tensor
    episode: Tensor
    segments: Segments
    segment: Tensor
    task_index: Tensor
    change_scale: Tensor
    action_of: Callable[[Tensor], Tensor] | None = None
    next_observation_of: Callable[[Tensor], Tensor] | None = None
    instruction_of: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Widths `Dc`, `Da` and `Do` of context, action chunk and next observation."""
        observed = sum(part.width for part in self.observations)
        context = observed + sum(part.width for part in self.state)
        return context, self.chunk_size * self.actions_by_step.width, observed

    @property
    def resting(self) -> dict[str, list[int]]:
        """The dimensions that rest, by the name of their feature; features without one are left out."""
        parts = (*self.observations, *self.state, self.actions_by_step)
        return {name: found for part in parts for name, found in part.resting.items() if found}

    def take(self, rows: Tensor) -> Transitions:
        """The transitions of rows `(n,)`."""
        context = self.contexts(rows)
        given = rows if self.next_observation_of is None else self.next_observation_of(rows)
        next_observation = self._next_observations(given)
        change = (next_observation - context[:, : next_observation.shape[1]]) / self.change_scale
        return Transitions(
            context=context,
            action=self.actions(rows),
            next_observation=next_observation,
            change=change.clamp(-self.feature_limit, self.feature_limit),
            instruction=self.instructions(rows),
            episode=self.episode[rows],
            time=self.times(rows),
        )

    def times(self, rows: Tensor) -> Tensor:
        """Frames from the start of the episode, of transitions `(…,)`, int64."""
        return self.frames(rows) - self.begin[self.episode[rows]]

    def frames(self, rows: Tensor) -> Tensor:
        """The table's rows of transitions `(…,)`, int64."""
        segment = self.segment[rows]
        return rows - self.segments.first[segment] + self.segments.begin[segment]

    def ends(self, rows: Tensor) -> Tensor:
        """The table's row after the last frame of the segment of transitions `(…,)`, int64."""
        return self.segments.end[self.segment[rows]]

    def moved(self, rows: Tensor, frames: Tensor) -> Tensor:
        """The transitions some frames later than transitions `(…,)`, at most at either end of their segment."""
        segment = self.segment[rows]
        first, count = self.segments.first[segment], self.segments.count[segment]
        return (rows + frames).maximum(first).minimum(first + count - 1)

    def instructions(self, rows: Tensor) -> Tensor:
        """The instructions of transitions `(n,)`, int64."""
        return self.task_index[self.frames(rows)] if self.instruction_of is None else self.instruction_of(rows)

    def contexts(self, rows: Tensor) -> Tensor:
        """The contexts of transitions `(n,)`: `(n, Dc)`."""
        return _concatenated((*self.observations, *self.state), self.frames(rows))

    def actions(self, rows: Tensor) -> Tensor:
        """The action chunks of transitions `(…,)`: `(…, Da)`; zeros after the end of their segment."""
        rows = rows if self.action_of is None else self.action_of(rows)
        step = self.frames(rows)[..., None] + torch.arange(self.chunk_size)
        inside = (step < self.ends(rows)[..., None])[..., None]
        last = int(self.end[-1]) - 1
        values = self.actions_by_step.raw(step.clamp_(max=last)).masked_fill_(~inside, 0.0)
        return self.actions_by_step.scale_(values).mul_(inside).flatten(-2)

    def _next_observations(self, rows: Tensor) -> Tensor:
        return _concatenated(self.observations, self.frames(rows) + self.target_offset)

    def movement(self) -> Tensor:
        """Standard deviation of each action dimension around its mean in the episode, `(da,)`; 0 where it rests."""
        squares, frames = torch.zeros(self.actions_by_step.width, dtype=torch.float64), 0
        for begin, end in zip(self.begin.tolist(), self.end.tolist(), strict=True):
            action = self.actions_by_step[torch.arange(begin, end)].double()
            squares += (action - action.mean(dim=0)).square().sum(dim=0)
            frames += end - begin
        return (squares / max(frames, 1)).sqrt().float()

    def change_deviation(self) -> Tensor:
        """Standard deviation of the change of the observations, before it is scaled, `(Do,)`."""
        count, mean, squares = 0, *torch.zeros(2, self.sizes[2], dtype=torch.float64)
        # The variances of passes are combined (Chan, Golub and LeVeque 1979), so that no change is stored.
        for rows in torch.arange(len(self)).split(ROWS_PER_PASS):
            change = (self._next_observations(rows) - _concatenated(self.observations, self.frames(rows))).double()
            own, total = change.mean(dim=0), count + len(rows)
            squares += (change - own).square().sum(dim=0) + (own - mean).square() * (count * len(rows) / total)
            mean += (own - mean) * (len(rows) / total)
            count = total
        return (squares / max(count, 1)).sqrt().float()


def lazy_transitions(
    chunks: ChunkDataset, config: ScoreConfig, image_features: Tensor | None = None
) -> LazyTransitions:
    """
    The transitions of chunks, every dimension in its standard deviations; a dimension that rests is 0.

    Args:
        chunks: chunks of the episodes.
        config: settings of the score.
        image_features: `(F, d)`, where the observation is cameras.
    """
    table, limit = chunks.table, config.feature_limit
    state: tuple[Features, ...] = ()
    if image_features is not None:
        # The next observation has the camera images and the joint state.
        observations: tuple[Features, ...] = (
            Features([image_features.numpy()], limit),
            Features.of_table(table, [chunks.state_feature], config),
        )
    else:
        observations = (Features.of_table(table, chunks.observation_features, config),)
        if chunks.state_feature not in chunks.observation_features:
            state = (Features.of_table(table, [chunks.state_feature], config),)
    segments = Segments.of_table(table, chunks.target_offset)
    count = segments.count_by_episode(table.num_episodes)
    segment = torch.arange(len(segments.count), dtype=torch.int32).repeat_interleave(segments.count)
    transitions = LazyTransitions(
        observations=observations,
        state=state,
        actions_by_step=Features.of_table(table, [chunks.action_feature], config, observed=False),
        chunk_size=chunks.chunk_size,
        target_offset=chunks.target_offset,
        feature_limit=limit,
        begin=shared_tensor(table.starts),
        end=torch.from_numpy(table.starts + table.lengths),
        first=count.cumsum(0) - count,
        count=count,
        episode=segments.episode[segment],
        segments=segments,
        segment=segment,
        task_index=shared_tensor(table.task_index),
        change_scale=torch.ones(1),
    )
    deviation = transitions.change_deviation()
    # What hardly changes is not enlarged to the changes of the rest.
    deviation = deviation.clamp(min=config.resting_share * float(deviation.quantile(MOVING_QUANTILE)))
    return replace(transitions, change_scale=torch.where(deviation > 1e-4, deviation, 1.0))


def plant_faults(
    transitions: LazyTransitions,
    episodes: Tensor,
    known: Tensor,
    planted_shift: tuple[int, int],
    generator: torch.Generator,
) -> dict[str, LazyTransitions]:
    """
    The transitions with each planted fault, by its name; a fault runs through whole episodes.

    `shifted`: actions some frames early or late. `swapped`: actions of another episode. `next_observation`: next
    observations of another episode. `instruction`: another instruction.

    Args:
        transitions: transitions without faults.
        episodes: positions of the held-out episodes, at least one; with one alone, nothing can be swapped.
        known: `(instructions,)` bool; with fewer than two known instructions, none is exchanged.
        planted_shift: least and greatest shift, frames.
        generator: random generator of the draws.
    """
    total = len(transitions.count)
    shift = torch.randint(planted_shift[0], planted_shift[1] + 1, (total,), generator=generator)
    shift = shift * (2 * torch.randint(2, (total,), generator=generator) - 1)

    def shifted(rows: Tensor) -> Tensor:
        return transitions.moved(rows, shift[transitions.episode[rows]])

    faults = {"shifted": replace(transitions, action_of=shifted)}
    if len(episodes) > 1:
        order = episodes[torch.randperm(len(episodes), generator=generator)]
        donors = torch.arange(total).index_copy(0, order, order.roll(1))

        def donated(rows: Tensor) -> Tensor:
            donor = donors[transitions.episode[rows]]
            return transitions.first[donor] + transitions.times(rows) % transitions.count[donor].clamp(min=1)

        faults["swapped"] = replace(transitions, action_of=donated)
        faults["next_observation"] = replace(transitions, next_observation_of=donated)
    choices = torch.nonzero(known).squeeze(1)
    if len(choices) > 1:
        drawn = torch.randint(len(choices) - 1, (total,), generator=generator)

        def other(rows: Tensor) -> Tensor:
            own, choice = transitions.instructions(rows), drawn[transitions.episode[rows]]
            # A transition with a known instruction skips its own.
            return choices[choice + (known[own] & (choice >= torch.searchsorted(choices, own)))]

        faults["instruction"] = replace(transitions, instruction_of=other)
    return faults


def _concatenated(parts: Sequence[Features], rows: Tensor) -> Tensor:
    taken = [part[rows] for part in parts]
    return taken[0] if len(taken) == 1 else torch.cat(taken, dim=-1)
