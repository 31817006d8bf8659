"""Negative controls: calibrated weights of recordings without a fault, where different may look faulty.

    python -m benchmarks.negative_controls [--seeds 3] [--real ../shared/data/g1_bottle] [--small]

*Harmless operators* change some episodes of a simulated and a real dataset (`benchmarks.harmless_operators`): tremor,
speed, pauses, held commands, joints at rest, another path, a rare task, instructions that mean the same, few episodes.
*Uneven recordings* are recorded with operators of different skill. Datasets are recorded or read, and scored as by
`hf-ptr score`; no policy is trained. Lines that are recorded for the same behaviour of the score are not measured
again: rerun an interrupted command to resume it. Results in `benchmarks/results/negative_controls.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harmless_operators import (
    Change,
    alike_instructions,
    held,
    other_path,
    pausing,
    slower,
    take_episodes,
    tremor,
    with_faults,
    with_resting_dimensions,
)
from benchmarks.measurement import command_parser, results_file, run
from benchmarks.robustness.behaviour import versions
from benchmarks.robustness.report import harmless_operators_table, negative_controls_table
from benchmarks.robustness.results import checkout
from benchmarks.robustness.suites import SUITES, WORK
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.faults import position_dimensions
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.envs.metaworld.tasks import DEFAULT_TASKS
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.utils.atomic_files import write_json

# Frames after a slip or pause that count as the recovery from it.
RECOVERY = 24
SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "mixed skill": (40, ("expert", "expert", "expert", "hesitant", "clumsy")),
    "two modes": (40, ("expert", "expert", "expert", "slow")),
    "five a task": (5, ("expert",)),
}
# The simulated dataset of the harmless operators: tasks, demonstrations of each, and seed of the recording, which is
# one of the tuning seeds.
TASKS, PER_TASK, RECORDING_SEED = SUITES["mt10-state"].tasks, 16, 10
# The rare task, and the demonstrations that are left of it.
RARE, LEFT = 7, 3
FEW = 12
# A table, and which of its episodes are judged, `(E,)` bool.
Control = Callable[[EpisodeTable], tuple[EpisodeTable, np.ndarray]]


def recorded(name: str, seed: int) -> Path:
    """The dataset of a set, recorded once."""
    episodes, operators = SETS[name]
    folder = WORK / "negative_controls" / f"{name.replace(' ', '-')}-{seed}"
    return (
        folder
        if folder.exists()
        else record_metaworld(DEFAULT_TASKS, episodes, folder, seed=seed, operators=operators)
    )


def operated(change: Change, share: float) -> Control:
    """A control that changes a share of the episodes, at least one, and judges those."""

    def control(table: EpisodeTable) -> tuple[EpisodeTable, np.ndarray]:
        count = max(1, round(share * table.num_episodes))
        episodes = np.random.default_rng(1).permutation(table.num_episodes)[:count]
        changed = change(table, episodes, np.random.default_rng(2))
        return changed, np.isin(np.arange(table.num_episodes), episodes)

    return control


def changed_as_a_whole(change: Change, table: EpisodeTable) -> tuple[EpisodeTable, np.ndarray]:
    """A control that changes all episodes, and judges all."""
    every = np.arange(table.num_episodes)
    return change(table, every, np.random.default_rng(2)), np.ones(table.num_episodes, dtype=bool)


def unchanged(table: EpisodeTable) -> tuple[EpisodeTable, np.ndarray]:
    """The data as they are."""
    return table, np.ones(table.num_episodes, dtype=bool)


def few(table: EpisodeTable, among: int, seed: int) -> EpisodeTable:
    """Twelve of the first episodes."""
    among = min(among, table.num_episodes)
    return take_episodes(table, np.sort(np.random.default_rng(seed).permutation(among)[:FEW]))


def few_with_faults(seed: int, among: int, table: EpisodeTable) -> tuple[EpisodeTable, np.ndarray]:
    """Twelve episodes of which three are faulty; the good ones are judged."""
    faulty, which = with_faults(few(table, among, 3 + seed), np.random.default_rng(seed))
    return faulty, ~which


def rare_task(table: EpisodeTable) -> tuple[EpisodeTable, np.ndarray]:
    """A task with a few demonstrations among tasks with many; these few are judged."""
    task = table.task_index[table.starts]
    kept = take_episodes(
        table, np.sort(np.concatenate((np.flatnonzero(task != RARE), np.flatnonzero(task == RARE)[:LEFT])))
    )
    return kept, kept.task_index[kept.starts] == RARE


def controls_of(table: EpisodeTable, real: bool) -> dict[str, Control]:
    """The controls that apply to a dataset, by name."""
    # Few episodes are of one task where there are several, and those with faults of three.
    one, three = (table.num_episodes,) * 2 if real else (PER_TASK, 3 * PER_TASK)
    found: dict[str, Control] = {"unchanged": unchanged}
    for size in (0.05, 0.1):
        for share in (0.04, 0.4):
            found[f"tremor of {size} standard deviations, {share:.0%} of the episodes"] = operated(tremor(size), share)
    found |= {
        "half speed, 10 % of the episodes": operated(slower(2.0), 0.1),
        "a pause of 1 to 2 s, 10 %": operated(pausing((1.0, 2.0)), 0.1),
        "commands held for two frames, 10 %": operated(held(2), 0.1),
        "fourteen joints at rest": partial(changed_as_a_whole, with_resting_dimensions),
        "three instructions that mean the same": partial(changed_as_a_whole, alike_instructions),
        "twelve episodes": lambda all_of_it: unchanged(few(all_of_it, one, 3)),
    }
    for seed in range(3):
        found[f"good ones of twelve, three faulty ({seed + 1})"] = partial(few_with_faults, seed, three)
    if position_dimensions(table).any():
        found["another path, 10 %"] = operated(other_path(1.0), 0.1)
    if table.task_index.max() >= RARE:
        found["a rare task (three demonstrations)"] = rare_task
    return found


def weights_of(table: EpisodeTable, observation: str, config: ScoreConfig) -> np.ndarray:
    """The calibrated weight of every frame."""
    chunks = ChunkDataset(table, observation_features=[observation])
    return fit_scores(chunks, config, progress=False).frame()["weight"].to_numpy()


def judged(weight: np.ndarray, table: EpisodeTable, which: np.ndarray) -> dict[str, Any]:
    """The weights of the judged episodes and of the others, by their means."""
    sums = np.bincount(table.episode_of_row, weight, table.num_episodes)
    mean = sums / np.maximum(table.lengths, 1)
    figures = {
        "episodes": int(which.sum()),
        "mean weight": float(mean[which].mean()),
        "share below 2": float((mean[which] < 2).mean()),
        "share below 1": float((mean[which] < 1).mean()),
    }
    return figures if which.all() else {**figures, "mean weight of the others": float(mean[~which].mean())}


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


class Recorded:
    """The results so far, written after every fit."""

    def __init__(self, file: Path):
        self._file, self._version = file, versions(("calibrated",))["calibrated"]
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.sets: dict[str, list[dict[str, Any]]] = content.get("sets", {})
        self.harmless: list[dict[str, Any]] = content.get("harmless", [])

    def run(self, place: list[dict[str, Any]], cell: dict[str, Any], figures: Callable[[], dict[str, Any]]) -> None:
        """Adds the line of a cell, unless it is there for the present behaviour of the score."""
        cell = {**cell, "version": self._version}
        if not any(cell.items() <= old.items() for old in place):
            place.append({**cell, "commit": checkout(), **figures()})
            print(place[-1], flush=True)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            content = {"command": "python -m benchmarks.negative_controls --real DIR"}
            write_json({**content, "sets": self.sets, "harmless": self.harmless}, self._file)


def harmless_operators(results: Recorded, data: str, folder: Path, *, small: bool) -> None:
    """Adds the lines of the harmless operators on one dataset, with the default settings."""
    table = read_dataset(folder)
    observation = "observation.state" if data == "real" else "observation.environment_state"
    config = ScoreConfig(steps=1, max_steps=1, rounds=1) if small else ScoreConfig()
    for name, control in controls_of(table, data == "real").items():

        def figures(control: Control = control) -> dict[str, Any]:
            changed, which = control(table)
            return judged(weights_of(changed, observation, config), changed, which)

        results.run(results.harmless, {"data": data, "control": name}, figures)


def uneven_recordings(results: Recorded, seeds: int) -> None:
    """Adds the lines of the uneven recordings."""
    for name in SETS:
        for seed in range(seeds):

            def figures(name: str = name, seed: int = seed) -> dict[str, Any]:
                folder = recorded(name, seed)
                table = read_dataset(folder)
                weight = weights_of(table, "observation.environment_state", ScoreConfig(seed=seed))
                return line(weight, parts_of(table, folder))

            results.run(results.sets.setdefault(name, []), {"seed": seed}, figures)


def main() -> None:
    parser = command_parser("negative_controls", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="recordings of every uneven set; 0 for none")
    parser.add_argument("--real", type=Path, help="folder of a real dataset, observed by its state")
    options = parser.parse_args()
    file = results_file("negative_controls", options.small)
    if options.small:
        file.unlink(missing_ok=True)
    results = Recorded(file)
    tasks, per_task = (TASKS[:2], 6) if options.small else (TASKS, PER_TASK)
    simulated = WORK / "negative_controls" / f"{len(tasks)}-tasks-{per_task}-{RECORDING_SEED}"
    if not simulated.exists():
        record_metaworld(tasks, per_task, simulated, seed=RECORDING_SEED)
    harmless_operators(results, "simulated", simulated, small=options.small)
    if options.real:
        harmless_operators(results, "real", options.real, small=options.small)
    if not options.small:
        uneven_recordings(results, options.seeds)
    print(harmless_operators_table(results.harmless))
    print(negative_controls_table(results.sets))


if __name__ == "__main__":
    run("negative_controls", main)
