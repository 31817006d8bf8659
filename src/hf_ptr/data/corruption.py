"""Planted faults in good demonstrations, with ground truth (PTR Sec. 10).

For training data only; evaluation never uses corrupted data. A corrupted table is a view: it shares unchanged columns
with the original, which is never modified.
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
from hf_ptr.data.faults import FAULTS
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError, nearest

TRUTH_FILE = "corruption.json"


@dataclass(frozen=True)
class Fault:
    """One kind of fault, planted in a share of the episodes.

    Attributes:
        name: a key of `FAULTS`.
        share: share of the episodes with the fault, in [0, 1].
        severity: parameter of the fault: a standard deviation, a number of frames, or a share of the episode; 0 for
            faults without a severity.
    """

    name: str
    share: float
    severity: float = 0.0

    def scaled(self, factor: float) -> Fault:
        """The fault with its severity multiplied by `factor`; without a severity, the share is multiplied."""
        if self.severity:
            return dataclasses.replace(self, severity=factor * self.severity)
        return dataclasses.replace(self, share=min(1.0, factor * self.share))


# Shares and severities of the paper ("ani", "tt", "ln", "combined"), each also milder and more severe, and of faults
# and combinations added by this project. Faults draw their episodes independently: with "hard", a share of 1 - 0.7³ =
# 0.66 of the episodes has at least one fault.
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
    """The faulty episodes of a corrupted table, by fault.

    Attributes:
        recipe: name of the recipe.
        seed: seed of the draws.
        episode_index: `(E,)` int64, the episodes' ids, in the table's order.
        faults: for every fault of the recipe, `(E,)` bool.
        severity: factor on the recipe's severities.
    """

    recipe: str
    seed: int
    episode_index: np.ndarray
    faults: dict[str, np.ndarray]
    severity: float = 1.0

    @property
    def any(self) -> np.ndarray:
        """`(E,)` bool: the episode has at least one fault."""
        none = np.zeros(len(self.episode_index), dtype=bool)
        return np.logical_or.reduce([none, *self.faults.values()])

    def to_frame(self) -> pd.DataFrame:
        """One row per episode: `episode_index`, one column per fault, and `any`."""
        return pd.DataFrame({"episode_index": self.episode_index, **self.faults, "any": self.any})

    def to_dict(self) -> dict[str, Any]:
        """The content of `meta/corruption.json`."""
        return {
            "recipe": self.recipe,
            "seed": self.seed,
            "severity": self.severity,
            "episode_index": self.episode_index.tolist(),
            "faults": {name: episodes.tolist() for name, episodes in self.faults.items()},
        }

    @classmethod
    def load(cls, dataset: str | Path) -> CorruptionTruth:
        """Read the ground truth from the folder of a corrupted dataset.

        Raises:
            InputError: the dataset has no ground truth, or it is damaged.
        """
        path = Path(dataset) / "meta" / TRUTH_FILE
        if not path.is_file():
            raise InputError(f"{dataset} has no meta/{TRUTH_FILE}; only a corrupted copy has a ground truth")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            episodes = np.array(content["episode_index"], dtype=np.int64)
            faults = {name: np.array(affected, dtype=bool) for name, affected in content["faults"].items()}
            severity = float(content.get("severity", 1.0))
            truth = cls(str(content["recipe"]), int(content["seed"]), episodes, faults, severity)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged; write the corrupted copy again") from error
        if any(affected.shape != episodes.shape for affected in faults.values()):
            raise InputError(f"{path} is damaged; write the corrupted copy again")
        return truth


def corrupt(
    table: EpisodeTable, recipe: str, seed: int, severity: float = 1.0
) -> tuple[EpisodeTable, CorruptionTruth]:
    """Plant faults in a table.

    Each fault affects `round(share * E)` of `E` episodes, drawn without replacement from a separate random stream.
    The noisy episodes therefore do not depend on other faults of the recipe. Frames keep their `frame_id`.

    Args:
        table: the good episodes; not modified.
        recipe: a key of `RECIPES`.
        seed: seed of the draws; equal seeds give equal faults.
        severity: factor on the recipe's severities, see `Fault.scaled`; 0 plants no fault.

    Returns:
        The corrupted table, episodes in the same order, and its ground truth.

    Raises:
        InputError: an unknown recipe (the nearest name is suggested), no action, or a fault needs data that the table
            does not have (a second task, a second episode).
    """
    if recipe not in RECIPES:
        raise InputError(
            f"unknown corruption recipe {recipe!r}; known: {', '.join(RECIPES)}.{nearest(recipe, RECIPES)}"
        )
    if seed < 0:
        raise InputError(f"seed is {seed}; it must not be negative")
    if not (np.isfinite(severity) and severity >= 0):
        raise InputError(f"severity is {severity}; it must be 0 or more (1 is the recipe's own severity)")
    if RECIPES[recipe]:
        table.feature("action")
    count = table.num_episodes
    corrupted = table
    faults: dict[str, np.ndarray] = {}
    for fault in (fault.scaled(severity) for fault in RECIPES[recipe]):
        rng = np.random.default_rng([seed, zlib.crc32(fault.name.encode())])
        affected = np.zeros(count, dtype=bool)
        affected[rng.permutation(count)[: round(fault.share * count) if severity else 0]] = True
        corrupted = FAULTS[fault.name](corrupted, np.flatnonzero(affected), fault.severity, rng)
        faults[fault.name] = affected
    return corrupted, CorruptionTruth(recipe, seed, table.episode_index.copy(), faults, severity)


def write_corrupted(table: EpisodeTable, truth: CorruptionTruth, out: str | Path) -> Path:
    """Write a corrupted table as a dataset, with its ground truth in `meta/corruption.json`.

    The copy renumbers episodes and frames from 0; the ground truth uses the new ids.

    Raises:
        InputError: as for `write_table`, or the faults are in images, which are not copied.
    """
    if not np.array_equal(table.video_frame, table.frame_index) and "frozen_camera" in truth.faults:
        raise InputError(
            "a corrupted copy has no images; freeze the camera in a training recipe (corruption: frozen-camera)"
        )
    renumbered = dataclasses.replace(truth, episode_index=np.arange(table.num_episodes))
    return write_table(table, out, meta={TRUTH_FILE: renumbered.to_dict()})
