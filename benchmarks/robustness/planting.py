"""
Datasets with a kind of the atlas (`benchmarks.atlas`) or of simulated operators in two fifths of the episodes.

Every name that is not a corruption of `hf_ptr.data.corruption` is such a kind. The planted dataset is written as a
folder of its own, because its episodes may have other lengths, and with the truth about each frame.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks import atlas
from benchmarks.atlas.faults import clipped, crosstalk
from benchmarks.atlas.kinds import CONTROLS, FAULTS, Kind
from benchmarks.atlas.material import Altered, Material
from benchmarks.atlas.planted import ACTION, STATE, WHOLE, Planted, material_of, plant, read_set
from hf_ptr.data.corruption import RECIPES, TRUTH_FILE, CorruptionTruth
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError, nearest

# The vector that the policies observe; the state is its first part.
OBSERVED = "observation.environment_state"
# Share of the episodes that can have a fault, and have it.
SHARE = 0.4
# Modules of the atlas that decide what is planted.
PLANTING = ("controls", "faults", "kinds", "material", "planted", "set_faults", "time_faults")
FRAMES_FILE = "faulty_frames.json"
# Operators of the episodes in turn, and those among them whose slips are faults.
OPERATORS: dict[str, tuple[str, ...]] = {
    "clumsy operators": ("clumsy", "expert", "expert", "clumsy", "expert"),
    "mixed operators": ("expert", "slow", "hesitant", "clumsy", "expert"),
}
SLIPPING = "clumsy"


def early_release(state: np.ndarray, action: np.ndarray, number: int, m: Material, rng: np.random.Generator):
    """The last dimension, a gripper that closes once and carries, opens again in the middle of the way."""
    gripper = action[:, -1]
    if np.ptp(gripper) == 0.0:
        return None
    closed = gripper > (gripper.min() + gripper.max()) / 2
    changes = np.flatnonzero(np.diff(closed))
    # A gripper that changes more than once does not carry to the end.
    if len(changes) != 1 or not closed[-1]:
        return None
    first = int(changes[0]) + 1
    release = first + int(rng.uniform(0.3, 0.7) * (len(action) - first))
    action = action.copy()
    action[release:, -1] = gripper[:first].mean()
    return Altered(state, action, np.arange(len(action)) >= release)


OWN = {
    "early release": Kind(early_release),
    "crosstalk 1": Kind(crosstalk(1.0)),
    "clipped 0.3": Kind(clipped(0.3)),
}
KINDS = {**FAULTS, **CONTROLS, **OWN}


@dataclass(frozen=True)
class Truth:
    """
    The truth about a corrupted dataset of F frames.

    Attributes:
        episodes: the faulty episodes, by fault.
        frames: `(F,)` bool, the faulty frames: all of a faulty episode where its fault has no extent.
    """

    episodes: CorruptionTruth
    frames: np.ndarray

    @classmethod
    def of_episodes(cls, table: EpisodeTable, episodes: CorruptionTruth) -> Truth:
        """The truth where every frame of a faulty episode is faulty."""
        return cls(episodes, np.repeat(episodes.any, table.lengths))

    def chunks(self, table: EpisodeTable, size: int) -> np.ndarray:
        """`(F,)` bool, whether the chunk of `size` frames that starts at each frame has a faulty one."""
        before = np.concatenate([[0], np.cumsum(self.frames)])
        first = np.arange(table.num_frames)
        stop = np.minimum(first + size, np.repeat(table.starts + table.lengths, table.lengths))
        return before[stop] > before[first]


def is_planted(corruption: str) -> bool:
    """Whether a corruption is a kind of the atlas or of operators, and not one of `hf_ptr.data.corruption`."""
    return corruption not in RECIPES


@cache
def planting_code() -> str:
    """A digest of the code that plants faults."""
    files = [Path(__file__), *(Path(atlas.__file__).with_name(f"{name}.py") for name in PLANTING)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def write_planted(demonstrations: Path, kind: str, seed: int, folder: Path) -> None:
    """
    Writes the demonstrations with a kind in `SHARE` of those episodes that can have it.

    Args:
        demonstrations: the good ones; for a kind of operators the recording by them.
        kind: a key of `KINDS` or `OPERATORS`.
        seed: seed of the draws.
        folder: where to write; must not exist.

    Raises:
        InputError: the kind is unknown, or no episode can have it.
    """
    if kind in OPERATORS:
        table, episodes, frames = _with_operators(demonstrations, kind, seed)
    elif kind in KINDS:
        planted = _planted(read_set(str(demonstrations), OBSERVED, 1_000_000), kind, seed)
        table = _observed(planted.table, read_dataset(demonstrations))
        episodes, frames = planted.carriers, dict(planted.frames)
    else:
        known = (*KINDS, *OPERATORS)
        raise InputError(f"no corruption {kind!r}.{nearest(kind, known)} See benchmarks/robustness/planting.py")
    truth = CorruptionTruth(kind, seed, np.arange(table.num_episodes), {kind: episodes})
    places = {number: np.flatnonzero(of_episode).tolist() for number, of_episode in frames.items()}
    write_table(table, folder, meta={TRUTH_FILE: truth.to_dict(), FRAMES_FILE: places})


def read_planted(folder: Path) -> tuple[EpisodeTable, Truth]:
    """A planted dataset and the truth about it."""
    table, episodes = read_dataset(folder), CorruptionTruth.load(folder)
    truth = Truth.of_episodes(table, episodes)
    for number, places in json.loads((folder / "meta" / FRAMES_FILE).read_text(encoding="utf-8")).items():
        start, length = int(table.starts[int(number)]), int(table.lengths[int(number)])
        truth.frames[start : start + length] = np.isin(np.arange(length), places)
    return table, truth


def _planted(table: EpisodeTable, kind: str, seed: int) -> Planted:
    material = material_of(table)
    rng = np.random.default_rng(seed)
    able = sum(
        KINDS[kind].plant(state, action, number, material, rng) is not None
        for number, (state, action) in enumerate(zip(material.states, material.actions, strict=True))
    )
    planted = plant(table, kind, WHOLE, seed, round(SHARE * able), KINDS[kind]) if able else None
    if planted is None:
        raise InputError(f"{kind!r} cannot be planted in {table.source!r}: too few episodes can have it")
    return planted


def _observed(planted: EpisodeTable, original: EpisodeTable) -> EpisodeTable:
    """The planted values under the names of the original, whose state is the first part of what is observed."""
    width = original.feature(STATE).shape[1]
    if not np.array_equal(original.feature(STATE), original.feature(OBSERVED)[:, :width]):
        raise InputError(f"{STATE} of {original.source!r} is not the first part of {OBSERVED}; plant in both")
    observed = planted.columns[STATE]
    columns = {STATE: observed[:, :width], OBSERVED: observed, ACTION: planted.columns[ACTION]}
    return dataclasses.replace(planted, columns=columns, features=original.features)


def _with_operators(
    demonstrations: Path, kind: str, seed: int
) -> tuple[EpisodeTable, np.ndarray, dict[int, np.ndarray]]:
    """A recording by several operators, its episodes with slips, and the frames of these."""
    table = read_dataset(demonstrations)
    recorded = json.loads((demonstrations / "meta" / "recording.json").read_text(encoding="utf-8"))["episodes"]
    frames = {}
    for number, episode in enumerate(recorded):
        if episode["operator"] == SLIPPING and episode["incidents"]:
            time = np.arange(int(table.lengths[number]))
            frames[number] = np.any([(first <= time) & (time < last) for first, last in episode["incidents"]], axis=0)
    return table, np.isin(np.arange(table.num_episodes), list(frames)), frames
