"""Faults put into good demonstrations, with the ground truth of where they are (PTR Sec. 10).

Training data only: nothing here touches an evaluation. A corrupted table is a view: it shares with the original the
columns that no fault changes, and has new ones where one does; the original is never altered.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.fault_kinds import FAULTS
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError, nearest

TRUTH_FILE = "corruption.json"


@dataclass(frozen=True)
class Fault:
    """One kind of fault, on a share of the episodes.

    Attributes:
        name: a key of `FAULTS`.
        share: share of the episodes that carry it, in [0, 1].
        severity: what the fault's function takes: a standard deviation, a number of frames, a share of the episode,
            or nothing.
    """

    name: str
    share: float
    severity: float = 0.0

    def scaled(self, factor: float) -> Fault:
        """The fault so many times as severe; one that knows no degree, on so many times as many episodes."""
        if self.severity:
            return dataclasses.replace(self, severity=factor * self.severity)
        return dataclasses.replace(self, share=min(1.0, factor * self.share))


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
    "frozen-camera": (Fault("frozen_camera", 0.30, 0.5),),
    "hesitation": (Fault("hesitation", 0.30, 12),),
}


@dataclass(frozen=True, eq=False)
class CorruptionTruth:
    """Which episodes of a corrupted table carry which fault.

    Attributes:
        recipe: the recipe's name.
        seed: its seed.
        episode_index: `(E,)` int64, the episodes' ids, in the table's order.
        faults: for every fault of the recipe, `(E,)` bool.
        severity: how many times as severe as the recipe says.
    """

    recipe: str
    seed: int
    episode_index: np.ndarray
    faults: dict[str, np.ndarray]
    severity: float = 1.0

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
            "severity": self.severity,
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
            severity = float(content.get("severity", 1.0))
            truth = cls(str(content["recipe"]), int(content["seed"]), episodes, faults, severity)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged; write the corrupted copy again") from error
        if any(carries.shape != episodes.shape for carries in faults.values()):
            raise InputError(f"{path} is damaged; write the corrupted copy again")
        return truth


def corrupt(
    table: EpisodeTable, recipe: str, seed: int, severity: float = 1.0
) -> tuple[EpisodeTable, CorruptionTruth]:
    """A corrupted view of a table, and the truth about it.

    Of `E` episodes each fault hits `round(share * E)`, drawn without replacement from a stream of its own: which
    episodes are noisy does not depend on what else the recipe does. Frames keep their `frame_id`.

    Args:
        table: the good episodes; not altered.
        recipe: a key of `RECIPES`.
        seed: the same seed gives the same faults.
        severity: how many times as severe as the recipe says, see `Fault.scaled`; 0 leaves all as it is.

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
    if not (np.isfinite(severity) and severity >= 0):
        raise InputError(f"severity is {severity}; it must be 0 or more, 1 is what the recipe says")
    if RECIPES[recipe]:
        table.feature("action")
    count = table.num_episodes
    corrupted = table
    faults: dict[str, np.ndarray] = {}
    for fault in (fault.scaled(severity) for fault in RECIPES[recipe]):
        rng = np.random.default_rng([seed, zlib.crc32(fault.name.encode())])
        carries = np.zeros(count, dtype=bool)
        carries[rng.permutation(count)[: round(fault.share * count) if severity else 0]] = True
        corrupted = FAULTS[fault.name](corrupted, np.flatnonzero(carries), fault.severity, rng)
        faults[fault.name] = carries
    return corrupted, CorruptionTruth(recipe, seed, table.episode_index.copy(), faults, severity)


def write_corrupted(table: EpisodeTable, truth: CorruptionTruth, out: str | Path) -> Path:
    """Write a corrupted table as a dataset, its truth in `meta/corruption.json`.

    The written copy numbers its episodes and frames anew, from 0; the truth is written with the copy's ids.

    Raises:
        InputError: as `write_table`, or the faults are in pictures, which are not copied.
    """
    if not np.array_equal(table.video_frame, table.frame_index) and "frozen_camera" in truth.faults:
        raise InputError(
            "a corrupted copy holds no pictures; freeze the camera in a run's recipe (corruption: frozen-camera)"
        )
    renumbered = dataclasses.replace(truth, episode_index=np.arange(table.num_episodes))
    return write_table(table, out, meta={TRUTH_FILE: renumbered.to_dict()})
