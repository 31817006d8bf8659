"""Faults put into good demonstrations, with the ground truth of where they are (PTR Sec. 10).

Training data only: nothing here touches an evaluation. A corrupted table is a view: it shares with the original the
columns that no fault changes, and has new ones where one does; the original is never altered.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot_writer import write_table
from hf_ptr.errors import InputError, nearest

TRUTH_FILE = "corruption.json"


@dataclass(frozen=True)
class Fault:
    """One kind of fault, on a share of the episodes.

    Attributes:
        name: a key of `FAULTS`.
        share: share of the episodes that carry it, in [0, 1].
        severity: what the fault's function takes: a standard deviation, a number of frames, or nothing.
    """

    name: str
    share: float
    severity: float = 0.0


# Shares and severities of the paper ("ani", "tt", "ln", "combined"), each also milder and more severe, and of the
# project's own faults and mixtures. Every fault draws its episodes by itself: of "hard", 1 - 0.7³, two thirds, carry
# one or more.
RECIPES: dict[str, tuple[Fault, ...]] = {
    "clean": (),
    "ani-mild": (Fault("noise", 0.30, 0.05),),
    "ani": (Fault("noise", 0.30, 0.1),),
    "ani-severe": (Fault("noise", 0.30, 0.5),),
    "tt-mild": (Fault("truncation", 0.125),),
    "tt": (Fault("truncation", 0.25),),
    "tt-severe": (Fault("truncation", 0.50),),
    "ln-mild": (Fault("instruction", 0.10),),
    "ln": (Fault("instruction", 0.20),),
    "ln-severe": (Fault("instruction", 0.40),),
    "combined-mild": (Fault("noise", 0.30, 0.05), Fault("truncation", 0.125), Fault("instruction", 0.10)),
    "combined": (Fault("noise", 0.30, 0.1), Fault("truncation", 0.25), Fault("instruction", 0.20)),
    "combined-severe": (Fault("noise", 0.30, 0.5), Fault("truncation", 0.50), Fault("instruction", 0.40)),
    "foreign": (Fault("foreign_actions", 0.30),),
    "hard": (Fault("foreign_actions", 0.30), Fault("noise", 0.30, 0.5), Fault("instruction", 0.30)),
    "misaligned-mild": (Fault("misalignment", 0.30, 3),),
    "misaligned": (Fault("misalignment", 0.30, 6),),
    "misaligned-severe": (Fault("misalignment", 0.30, 9),),
    "wrong-goal": (Fault("wrong_goal", 0.30),),
}


@dataclass(frozen=True, eq=False)
class CorruptionTruth:
    """Which episodes of a corrupted table carry which fault.

    Attributes:
        recipe: the recipe's name.
        seed: its seed.
        episode_index: `(E,)` int64, the episodes' ids, in the table's order.
        faults: for every fault of the recipe, `(E,)` bool.
    """

    recipe: str
    seed: int
    episode_index: np.ndarray
    faults: dict[str, np.ndarray]

    @property
    def any(self) -> np.ndarray:
        """`(E,)` bool: the episode carries at least one fault."""
        none = np.zeros(len(self.episode_index), dtype=bool)
        return np.logical_or.reduce([none, *self.faults.values()])

    def to_frame(self) -> pd.DataFrame:
        """One row an episode: `episode_index`, a column a fault, and `any`."""
        return pd.DataFrame({"episode_index": self.episode_index, **self.faults, "any": self.any})

    def to_dict(self) -> dict[str, Any]:
        """What `meta/corruption.json` holds."""
        return {
            "recipe": self.recipe,
            "seed": self.seed,
            "episode_index": self.episode_index.tolist(),
            "faults": {name: carries.tolist() for name, carries in self.faults.items()},
        }

    @classmethod
    def load(cls, dataset: str | Path) -> CorruptionTruth:
        """Read the truth back from the folder of a corrupted dataset.

        Raises:
            InputError: the dataset has no truth, or it is damaged.
        """
        path = Path(dataset) / "meta" / TRUTH_FILE
        if not path.is_file():
            raise InputError(f"{dataset} holds no meta/{TRUTH_FILE}; only a corrupted copy has a ground truth")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            episodes = np.array(content["episode_index"], dtype=np.int64)
            faults = {name: np.array(carries, dtype=bool) for name, carries in content["faults"].items()}
            truth = cls(str(content["recipe"]), int(content["seed"]), episodes, faults)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged; write the corrupted copy again") from error
        if any(carries.shape != episodes.shape for carries in faults.values()):
            raise InputError(f"{path} is damaged; write the corrupted copy again")
        return truth


def corrupt(table: EpisodeTable, recipe: str, seed: int) -> tuple[EpisodeTable, CorruptionTruth]:
    """A corrupted view of a table, and the truth about it.

    Of `E` episodes each fault hits `round(share * E)`, drawn without replacement from a stream of its own: which
    episodes are noisy does not depend on what else the recipe does. Frames keep their `frame_id`.

    Args:
        table: the good episodes; not altered.
        recipe: a key of `RECIPES`.
        seed: the same seed gives the same faults.

    Returns:
        The corrupted table, episodes in the same order, and its truth.

    Raises:
        InputError: an unknown recipe (the nearest name is suggested), no action, or data that a fault needs and that
            are not there (a second task, a second episode).
    """
    if recipe not in RECIPES:
        raise InputError(
            f"no corruption recipe {recipe!r}; there are: {', '.join(RECIPES)}.{nearest(recipe, RECIPES)}"
        )
    if seed < 0:
        raise InputError(f"seed is {seed}; it must not be negative")
    table.feature("action")
    count = table.num_episodes
    corrupted = table
    faults: dict[str, np.ndarray] = {}
    for fault in RECIPES[recipe]:
        rng = np.random.default_rng([seed, zlib.crc32(fault.name.encode())])
        carries = np.zeros(count, dtype=bool)
        carries[rng.permutation(count)[: round(fault.share * count)]] = True
        corrupted = FAULTS[fault.name](corrupted, np.flatnonzero(carries), fault.severity, rng)
        faults[fault.name] = carries
    return corrupted, CorruptionTruth(recipe, seed, table.episode_index.copy(), faults)


def write_corrupted(table: EpisodeTable, truth: CorruptionTruth, out: str | Path) -> Path:
    """Write a corrupted table as a dataset, its truth in `meta/corruption.json`.

    The written copy numbers its episodes and frames anew, from 0; the truth is written with the copy's ids.

    Raises:
        InputError: as `write_table`.
    """
    renumbered = dataclasses.replace(truth, episode_index=np.arange(table.num_episodes))
    return write_table(table, out, meta={TRUTH_FILE: renumbered.to_dict()})


def _noise(table: EpisodeTable, episodes: np.ndarray, sigma: float, rng: np.random.Generator) -> EpisodeTable:
    """Gaussian noise on the actions, its standard deviation in the raw units of the action.

    The paper's and the study's actions lie in [-1, 1], so 0.1 is a twentieth of their range; actions in other units
    get the same number, not the same share. Noisy actions are not clipped to the range: clipping would mark exactly
    the faulty samples by values at its bounds.
    """
    action = table.feature("action").copy()
    for episode in episodes:
        rows = _rows(table, episode)
        action[rows] += rng.normal(0.0, sigma, action[rows].shape).astype(action.dtype)
    return _with_action(table, action)


def _foreign_actions(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The actions of another episode, of any task, at their own pace.

    A longer donor is cut, a shorter one starts again from its beginning, so every action is one that a robot executed
    and nothing but its place is wrong. Donors give the actions that they had before this fault.
    """
    if len(episodes) and table.num_episodes < 2:
        raise InputError(f"dataset {table.source!r} has one episode; the actions of another need a second one")
    source = table.feature("action")
    action = source.copy()
    for episode in episodes:
        donor = (episode + rng.integers(1, table.num_episodes)) % table.num_episodes
        action[_rows(table, episode)] = np.resize(
            source[_rows(table, donor)], (table.lengths[episode], source.shape[1])
        )
    return _with_action(table, action)


def _misalignment(table: EpisodeTable, episodes: np.ndarray, steps: float, _: np.random.Generator) -> EpisodeTable:
    """Actions recorded late: frame `t` gets the action of frame `t - steps`, the first frames the first action."""
    action = table.feature("action").copy()
    for episode in episodes:
        rows = _rows(table, episode)
        late = np.maximum(np.arange(table.lengths[episode]) - int(steps), 0)
        action[rows] = action[rows][late]
    return _with_action(table, action)


def _truncation(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """Episodes cut to 40-70 % of their length, the start kept, never to less than a frame."""
    lengths = table.lengths.copy()
    shares = rng.uniform(0.4, 0.7, len(episodes))
    lengths[episodes] = np.maximum(1, np.round(shares * lengths[episodes]).astype(np.int64))
    rows = np.flatnonzero(table.frame_index < np.repeat(lengths, table.lengths))
    return table.take_rows(rows, lengths, table.episode_index)


def _instruction(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The instruction of another task, drawn from the tasks that the table's frames have."""
    present = np.unique(table.task_index)
    task_index = table.task_index.copy()
    for episode in episodes:
        rows = _rows(table, episode)
        others = np.setdiff1d(present, table.task_index[rows])
        if len(others) == 0:
            raise InputError(
                f"dataset {table.source!r} has no task but that of episode {table.episode_index[episode]}; "
                f"exchanging instructions needs another, choose a recipe without it (ani, tt, misaligned)"
            )
        task_index[rows] = rng.choice(others)
    return dataclasses.replace(table, task_index=task_index)


def _wrong_goal(table: EpisodeTable, episodes: np.ndarray, _: float, rng: np.random.Generator) -> EpisodeTable:
    """The observed goal of another episode of the same task: what was done is well done, and not what was asked.

    A goal is every dimension of an observation whose name begins with `goal`, as it was in the donor's first frame.
    """
    goals = {
        name: np.flatnonzero(_is_goal(table.features.get(name, {}).get("names"))[: column.shape[1]])
        for name, column in table.columns.items()
    }
    goals = {name: places for name, places in goals.items() if len(places) and name.startswith("observation.")}
    if not goals:
        raise InputError(
            f"dataset {table.source!r} names no dimension of an observation goal…; a wrong goal needs one, choose "
            "another recipe"
        )
    task = table.task_index[table.starts]
    columns = {name: table.feature(name).copy() for name in goals}
    for episode in episodes:
        others = np.flatnonzero(task == task[episode])
        others = others[others != episode]
        if not len(others):
            raise InputError(
                f"dataset {table.source!r} has one episode of task {table.tasks[task[episode]]!r}; the goal of "
                "another needs a second one"
            )
        donor = int(rng.choice(others))
        for name, places in goals.items():
            columns[name][_rows(table, episode), places] = table.columns[name][table.starts[donor], places]
    return dataclasses.replace(table, columns={**table.columns, **columns})


def _is_goal(names: Any) -> np.ndarray:
    """Which dimensions are a goal's, by their names: a list, or as LeRobot v2.1 also has it, a list in a list."""
    listed = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list) else names
    return np.array([str(name).startswith("goal") for name in listed] if isinstance(listed, list) else [], dtype=bool)


FAULTS: dict[str, Callable[[EpisodeTable, np.ndarray, float, np.random.Generator], EpisodeTable]] = {
    "noise": _noise,
    "foreign_actions": _foreign_actions,
    "misalignment": _misalignment,
    "truncation": _truncation,
    "instruction": _instruction,
    "wrong_goal": _wrong_goal,
}


def _rows(table: EpisodeTable, episode: int) -> slice:
    start = int(table.starts[episode])
    return slice(start, start + int(table.lengths[episode]))


def _with_action(table: EpisodeTable, action: np.ndarray) -> EpisodeTable:
    return dataclasses.replace(table, columns={**table.columns, "action": action})
