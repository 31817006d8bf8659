"""Negative controls: calibrated weights of uneven recordings without faults, where rare may look faulty.

Recoveries, hesitation, a minority that solves the task in another way, small datasets, real teleoperation.

    python -m benchmarks.negative_controls [--seeds 3] [--real ../shared/data/g1_bottle]

Datasets are recorded or read, and scored as by `hf-ptr score`; no policy is trained. Results in
`benchmarks/results/negative_controls.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.report import negative_controls_table
from benchmarks.robustness.suites import ROOT, WORK
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.envs.metaworld.tasks import DEFAULT_TASKS
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.utils.atomic_files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "kept.json"
# Frames after a slip or pause that count as the recovery from it.
RECOVERY = 24
SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "mixed skill": (40, ("expert", "expert", "expert", "hesitant", "clumsy")),
    "two modes": (40, ("expert", "expert", "expert", "slow")),
    "five a task": (5, ("expert",)),
}


def recorded(name: str, seed: int) -> Path:
    """The dataset of a set, recorded once."""
    episodes, operators = SETS[name]
    folder = WORK / "negative_controls" / f"{name.replace(' ', '-')}-{seed}"
    return (
        folder
        if folder.exists()
        else record_metaworld(DEFAULT_TASKS, episodes, folder, seed=seed, operators=operators)
    )


def weights_of(table: EpisodeTable, observation: str, seed: int) -> np.ndarray:
    """The calibrated weight of every frame."""
    scores = fit_scores(ChunkDataset(table, observation_features=[observation]), ScoreConfig(seed=seed)).frame()
    return scores["weight"].to_numpy()


def parts_of(table: EpisodeTable, folder: Path) -> dict[str, np.ndarray]:
    """Masks of the frames by operator and by incident: `(F,)` bool each."""
    parts: dict[str, np.ndarray] = {}

    def frames(name: str) -> np.ndarray:
        return parts.setdefault(name, np.zeros(table.num_frames, dtype=bool))

    episodes = json.loads((folder / "meta" / "recording.json").read_text(encoding="utf-8"))["episodes"]
    for start, length, episode in zip(table.starts, table.lengths, episodes, strict=True):
        frames(episode["operator"])[start : start + length] = True
        incident = {"clumsy": "slips", "hesitant": "pauses"}.get(episode["operator"])
        for first, last in episode["incidents"] if incident else ():
            frames(incident)[start + first : start + last] = True
            frames(f"after {incident}")[start + last : start + min(last + RECOVERY, length)] = True
    return parts


def line(weight: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of one set and seed, for all frames and for each part."""
    parts = {"all": np.ones(len(weight), dtype=bool), **parts}
    return {
        "ess": float(weight.sum() ** 2 / (weight**2).sum() / len(weight)),
        "mean weight": {name: float(weight[part].mean()) for name, part in parts.items()},
        "share below 1": {name: float((weight[part] < 1).mean()) for name, part in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--real", type=Path, help="folder of a real dataset, observed by its state")
    options = parser.parse_args()
    # Without --real, the recorded figures of the real dataset stay.
    sets: dict[str, list[dict[str, Any]]] = json.loads(RESULTS.read_text())["sets"] if RESULTS.exists() else {}
    for name in (*SETS, *(["real"] if options.real else [])):
        runs: list[dict[str, Any]] = []
        for seed in range(options.seeds):
            folder = options.real if name == "real" else recorded(name, seed)
            table = read_dataset(folder)
            observation = "observation.state" if name == "real" else "observation.environment_state"
            parts = {} if name == "real" else parts_of(table, folder)
            runs.append(line(weights_of(table, observation, seed), parts))
        # An unfinished set does not replace the recorded one.
        sets[name] = runs
        write_json(
            {"command": f"python -m benchmarks.negative_controls --seeds {options.seeds} --real DIR", "sets": sets},
            RESULTS,
        )
    print(negative_controls_table(sets))


if __name__ == "__main__":
    main()
