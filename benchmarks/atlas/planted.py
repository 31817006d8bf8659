"""Datasets with a planted fault, and the truth about it."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from benchmarks.atlas.kinds import CONTROLS, FAULTS, Kind
from benchmarks.atlas.material import Altered, Material
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError

STATE, ACTION = "observation.state", "action"
# Share of the episodes that carry a fault, and the number that carry a rare one.
SHARE = 0.2
RARE = 2
# Share of an episode that a fault in a part takes, and seconds of its soft seams.
EXTENT = (0.15, 0.25)
SEAM = 0.1
# A set that nothing is planted in.
UNTOUCHED = "untouched"
WHOLE, PART = "whole", "part"


@dataclass(frozen=True)
class Planted:
    """
    A dataset with a planted fault.

    Attributes:
        original: the dataset without the fault.
        fault, part: the fault, and whether it is in a part of an episode.
        table: the episodes, with the columns `observation.state` and `action`.
        carriers: `(E,)` bool, episodes that carry the fault.
        frames: by position of a carrier, `(T,)` bool, its faulty frames; empty where the fault has no extent.
        aside: `(E,)` bool, episodes that are neither carriers nor sound, such as the originals of copies.
    """

    original: EpisodeTable
    fault: str
    part: str
    table: EpisodeTable
    carriers: np.ndarray
    frames: dict[int, np.ndarray]
    aside: np.ndarray

    @property
    def sound(self) -> np.ndarray:
        """`(E,)` bool, episodes that nothing is wrong with."""
        return ~self.carriers & ~self.aside

    @property
    def digest(self) -> str:
        """A hash of the dataset and the truth about it."""
        digest = hashlib.blake2b(data_digest(self.table).encode(), digest_size=6)
        for truth in (self.carriers, self.aside, *(self.frames[number] for number in sorted(self.frames))):
            digest.update(truth.tobytes())
        return digest.hexdigest()

    def episodes(self, feature: str) -> list[np.ndarray]:
        """The values of a feature, one array `(T, d)` an episode."""
        return np.split(self.table.columns[feature], self.table.starts[1:])


def read_set(path: str, state_feature: str, most: int) -> EpisodeTable:
    """
    A dataset's state and action, cut down evenly to at most `most` episodes.

    Episodes of several tasks are interleaved, as when tasks are recorded in turn: a block of episodes that is a whole
    task could not be distinguished from the task.

    Raises:
        InputError: the dataset cannot be read, lacks a feature, or has fewer than eight episodes.
    """
    table = read_dataset(path, features=[*state_feature.split(","), ACTION])
    if table.num_episodes < 8:
        raise InputError(
            f"dataset {path!r} has {table.num_episodes} episodes; faults are planted in sets of 8 or more"
        )
    kept = np.unique(np.linspace(0, table.num_episodes - 1, min(most, table.num_episodes)).round().astype(int))
    tasks = table.task_index[table.starts[kept]]
    turn = np.array([(tasks[:place] == task).sum() for place, task in enumerate(tasks)])
    table = table.select(table.episode_index[kept[np.argsort(turn, kind="stable")]].tolist())
    columns = {STATE: table.feature(state_feature), ACTION: table.feature(ACTION)}
    table.require_finite([state_feature, ACTION])
    features = {
        name: {"dtype": "float32", "shape": [column.shape[1]], "names": None} for name, column in columns.items()
    }
    return dataclasses.replace(table, columns=columns, features=features, videos={}, episode_index=_numbers(table))


def _numbers(table: EpisodeTable) -> np.ndarray:
    return np.arange(table.num_episodes)


def plant(
    table: EpisodeTable, fault: str, part: str, seed: int, carriers: int, kind: Kind | None = None
) -> Planted | None:
    """
    A copy of a dataset in which `carriers` episodes carry a fault, or a harmless peculiarity.

    Args:
        table: from [`read_set`][].
        fault: name in `FAULTS` or `CONTROLS`, or `untouched`.
        part: `whole` or `part`.
        seed: chooses carriers and amounts, together with the fault and the part.
        carriers: number of carriers.
        kind: the kind of a fault that is not one of the atlas.

    Returns:
        None if fewer episodes than that can have the fault.
    """
    count = table.num_episodes
    nothing = np.zeros(count, dtype=bool)
    if fault == UNTOUCHED:
        return Planted(table, fault, part, table, nothing, {}, nothing)
    key = [seed, zlib.crc32(f"{fault}/{part}/{carriers}".encode())]
    rng = np.random.default_rng(key)
    if kind is None:
        kind = FAULTS[fault] if fault in FAULTS else CONTROLS[fault]
    material = material_of(table)
    states, actions = material.states, material.actions
    planted: dict[int, Altered] = {}
    for number in _order(count, carriers, kind.block, rng):
        if len(planted) == carriers:
            break
        originals = {altered.partner for altered in planted.values()}
        if number in originals:
            continue
        made = kind.plant(
            states[number], actions[number], number, material, np.random.default_rng(key) if kind.block else rng
        )
        if made is None:
            continue
        altered = Altered(*made)
        # A copy whose original is replaced as well is nobody's copy.
        if altered.partner in planted:
            continue
        planted[number] = (
            _in_part(states[number], actions[number], altered, material, rng) if part == PART else altered
        )
    if len(planted) < carriers:
        return None
    chosen, aside = nothing.copy(), nothing.copy()
    chosen[list(planted)] = True
    aside[[altered.partner for altered in planted.values() if altered.partner is not None]] = True
    frames = {number: altered.frames for number, altered in planted.items() if altered.frames is not None}
    return Planted(table, fault, part, _rebuilt(table, planted), chosen, frames, aside & ~chosen)


def material_of(table: EpisodeTable) -> Material:
    """The material of a table from [`read_set`][]."""
    states, actions = (
        [values.astype(np.float64) for values in np.split(table.columns[name], table.starts[1:])]
        for name in (STATE, ACTION)
    )
    instructions = [table.tasks[number] for number in table.task_index[table.starts].tolist()]
    return Material.of(states, actions, np.split(table.seconds, table.starts[1:]), instructions, table.fps)


def _order(count: int, carriers: int, block: bool, rng: np.random.Generator) -> list[int]:
    """Candidates for carriers: at random, or for a block consecutive ones, half of the time up to the last."""
    if not block:
        return rng.permutation(count).tolist()
    last = count - carriers
    first = last if rng.random() < 0.5 else int(rng.integers(last + 1))
    return list(range(first, first + carriers))


def _in_part(
    state: np.ndarray, action: np.ndarray, faulty: Altered, material: Material, rng: np.random.Generator
) -> Altered:
    """The fault in 15 to 25 % of the episode, cross-faded over a tenth of a second."""
    length = len(state)
    n = max(8, int(rng.uniform(*EXTENT) * length))
    # Where the robot moves: a fault where nothing moves cannot be seen by anyone.
    moving = material.action_unit > 0
    speed = np.abs(np.diff(action, axis=0, prepend=action[:1]))[:, moving] / material.action_unit[moving]
    busy = np.convolve(speed.mean(axis=1), np.ones(n), mode="valid")
    first = int(rng.choice(np.flatnonzero(busy >= np.median(busy))))
    mask = np.zeros(length)
    mask[first : first + n] = 1
    ramp = max(1, round(SEAM * material.fps))
    share = np.convolve(np.pad(mask, ramp, mode="edge"), np.ones(2 * ramp + 1) / (2 * ramp + 1), mode="valid")[:, None]
    return Altered(state * (1 - share) + faulty.state * share, action * (1 - share) + faulty.action * share, mask > 0)


def _rebuilt(table: EpisodeTable, planted: dict[int, Altered]) -> EpisodeTable:
    """The table with some episodes altered, which may have other lengths and times."""
    states, actions, tasks, seconds, stretch, lengths = [], [], [], [], [], []
    numbers = {instruction: number for number, instruction in enumerate(table.tasks)}
    for number, (start, length) in enumerate(zip(table.starts.tolist(), table.lengths.tolist(), strict=True)):
        rows = slice(start, start + length)
        altered = planted.get(number, Altered(table.columns[STATE][rows], table.columns[ACTION][rows]))
        instruction = altered.instruction
        task = table.task_index[start] if instruction is None else numbers.setdefault(instruction, len(numbers))
        states.append(altered.state)
        actions.append(altered.action)
        size = len(altered.state)
        lengths.append(size)
        tasks.append(np.full(size, task))
        regular = np.arange(size) / table.fps
        recorded_or_regular = table.seconds[rows] if size == length else regular
        seconds.append(recorded_or_regular if altered.seconds is None else altered.seconds)
        same = size == length and altered.seconds is None
        stretch.append(table.stretch[rows] if same else np.zeros(size, dtype=np.int64))
    columns = {STATE: np.concatenate(states), ACTION: np.concatenate(actions)}
    return EpisodeTable(
        columns={name: column.astype(np.float32) for name, column in columns.items()},
        task_index=np.concatenate(tasks),
        tasks=tuple(numbers),
        starts=np.cumsum(lengths) - lengths,
        lengths=np.array(lengths),
        episode_index=table.episode_index,
        frame_id=np.arange(sum(lengths)),
        fps=table.fps,
        robot_type=table.robot_type,
        source=table.source,
        features=table.features,
        seconds=np.concatenate(seconds),
        stretch=np.concatenate(stretch),
    )
