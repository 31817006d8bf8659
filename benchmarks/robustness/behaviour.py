"""Which recorded results the present code would reproduce: reference figures of small runs, versioned by part.

    python -m benchmarks.robustness.behaviour [--update [--raised PART,...]]

A part is one of the recipes (`sft`, `ptr`, ...), one way of making weights (`oracle`, `length`, ...), or `robots`, the
shared action space. Each recipe and weighting runs on a small synthetic dataset and is reduced to a few figures:
losses, and quantiles of scores and weights. `benchmarks/results/behaviour.json` holds the figures with a version and
the commit that measured them. Every line of the results states the versions of the parts it depends on. A line thus
stays current while the code is rearranged, and becomes outdated when a part behaves differently.

A test compares the present code with the file. After an intended change of behaviour, `--update` measures again and
raises the version of the parts whose figures changed. Simulation, rendering and most kinds of recorded faults are not
covered: where a change to them affects results, `--raised` names the parts, for example `sft`, or
`calibrated,findings,drop-findings` after a change of what is found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.robustness.arms import RECIPES, Arm, arm_of
from benchmarks.robustness.peers import policy_loss
from benchmarks.robustness.planting import Truth
from benchmarks.robustness.results import checkout
from benchmarks.robustness.selecting import EXTERNAL
from benchmarks.robustness.suites import EMBODIMENTS, RESULTS, ROOT
from benchmarks.robustness.weighting import WEIGHTINGS, score_file
from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.score_file import SCORES_FILE
from hf_ptr.embodiment import UnifiedActionSpace
from hf_ptr.policies import load_policy
from hf_ptr.runs.run import DONE_FILE, run_recipe
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.utils.atomic_files import write_json

REFERENCE = RESULTS.with_name("behaviour.json")
# The shared action space of several robots, which only suites with several control modes use.
ROBOTS = "robots"
# Other checkers run in an environment of their own; their results depend on the pinned version instead.
PARTS = (*RECIPES, *(name for name in WEIGHTINGS if name not in EXTERNAL), ROBOTS)
# Arithmetic differs between machines in the last digits, and a few optimiser steps amplify that.
RELATIVE, ABSOLUTE = 1e-3, 1e-5
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
CORRUPTION = "hard"
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
SETTINGS = (
    "max_steps=8",
    "warmup_steps=2",
    "nce_warmup_steps=2",
    "logging_steps=4",
    # A run of 8 steps would end before the first update of the published interval.
    "controller_steps=4",
    "expert_size=64",
    "num_expert_layers=2",
    "per_device_train_batch_size=64",
    "save_strategy=no",
    "disable_tqdm=true",
    "use_cpu=true",
    f"corruption={CORRUPTION}",
    "corruption_seed=0",
)

Figures = dict[str, Any]


def parts_of(arm: Arm, *, several_robots: bool = False) -> tuple[str, ...]:
    """The parts that an arm's results depend on: its recipe, its weighting, and the recipe of the arm it needs."""
    needed = () if arm.needs is None else (arm_of(arm.needs).recipe,)
    weighting = () if arm.weighting is None or arm.weighting in EXTERNAL else (arm.weighting,)
    robots = (ROBOTS,) if several_robots else ()
    return tuple(dict.fromkeys((arm.recipe, *weighting, *needed, *robots)))


def versions(parts: Iterable[str]) -> dict[str, int]:
    """The present version of each part, as a line of the results states it."""
    return {part: _reference()["parts"][part]["version"] for part in parts}


def is_current(line: Mapping[str, Any], parts: Iterable[str]) -> bool:
    """
    Whether the present code would reproduce a line of the results.

    Lines from before versions were introduced state a hash of the source code instead. The reference file lists the
    hashes of the code that the first versions were measured with.
    """
    now = versions(parts)
    if "behaviour" in line:
        return bool(line["behaviour"] == now)
    return set(now.values()) == {1} and line.get("code_hash") in _reference()["code_hashes_of_version_1"]


def measure(part: str, folder: Path) -> Figures:
    """
    The figures of a part with the present code.

    Args:
        part: one of `PARTS`.
        folder: for the dataset and the runs; parts that share it share those.
    """
    if part == ROBOTS:
        space = UnifiedActionSpace()
        return {
            f"{name} {kind}": space.mask(name, kind).nonzero().flatten().tolist()
            for name in EMBODIMENTS.values()
            for kind in ("state", "action")
        }
    data = folder / "data"
    if not data.exists():
        write_table(synthetic_table(), data)
    table, truth = corrupt(read_dataset(data), CORRUPTION, 0)
    if part in RECIPES:
        run = _run(part, data, folder)
        if (run / SCORES_FILE).exists():
            scores = pd.read_parquet(run / SCORES_FILE)
        else:
            scores = score_dataset(run, table, seed=0) if (run / "scorer").is_dir() else None
        return {
            "train_loss": json.loads((run / DONE_FILE).read_text())["train_loss"],
            "action_loss": -float(policy_loss(*load_policy(str(run)), table, draws=1, seed=0).mean()),
            **({} if scores is None else _distribution(scores)),
        }
    needs = WEIGHTINGS[part]
    other = None if needs is None else _run(needs, data, folder)
    truths = Truth.of_episodes(table, truth)
    return _distribution(score_file(part, table, truths, 0, observation_features=[ENVIRONMENT], other=other))


def differences(part: str, measured: Figures) -> list[str]:
    """Where measured figures differ from the reference of a part, one line each; none if it behaves the same."""
    recorded = _reference()["parts"].get(part, {"figures": {}})["figures"]
    found = []
    for name in sorted({*recorded, *measured}):
        values = [np.atleast_1d(figures.get(name, np.nan)) for figures in (recorded, measured)]
        if values[0].shape != values[1].shape or not np.allclose(*values, rtol=RELATIVE, atol=ABSOLUTE):
            found.append(f"{part}: {name} is {measured.get(name)}, was {recorded.get(name)}")
    return found


def synthetic_table() -> EpisodeTable:
    """24 episodes of two tasks: a point follows the task's curve, and each action is the next step of the state."""
    rng = np.random.default_rng(0)
    lengths = 40 + rng.integers(-4, 5, 24)
    starts = np.cumsum(lengths) - lengths
    frames = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    task = np.repeat(np.arange(24) % 2, lengths)
    offset = np.repeat(rng.normal(0.0, 0.1, (24, 3)), lengths, axis=0)

    def position(phase: np.ndarray) -> np.ndarray:
        turn = np.where(task == 0, 1.0, -1.0)
        return np.stack([4.0 * phase, np.sin(3.0 * phase) * turn, np.cos(5.0 * phase + task)], axis=1) + offset

    phase = frames / np.repeat(lengths, lengths)
    state = position(phase)
    step = 40.0 * (position(phase + 1.0 / 40.0) - state)
    columns = {
        STATE: state,
        ENVIRONMENT: np.concatenate([state, offset], axis=1),
        "action": np.concatenate([step, (phase > 0.5)[:, None]], axis=1),
    }
    return EpisodeTable(
        columns={name: values.astype(np.float32) for name, values in columns.items()},
        task_index=task.astype(np.int64),
        tasks=("follow the curve to the left", "follow the curve to the right"),
        starts=starts.astype(np.int64),
        lengths=lengths.astype(np.int64),
        episode_index=np.arange(24, dtype=np.int64),
        frame_id=np.arange(len(frames), dtype=np.int64),
        fps=20.0,
        robot_type="synthetic",
        source="synthetic",
        features={
            name: {"dtype": "float32", "shape": [values.shape[1]], "names": None} for name, values in columns.items()
        },
    )


def _run(recipe: str, data: Path, folder: Path) -> Path:
    out = folder / recipe
    if not (out / DONE_FILE).exists():
        file = ROOT / "recipes" / "vla" / "metaworld_state" / f"{recipe}.yaml"
        run_recipe(file, [f"dataset={data}", f"output_dir={out}", *SETTINGS])
    return out


def _distribution(scores: pd.DataFrame) -> Figures:
    """Quantiles and mean of the scores and weights of a score file, and a mean that depends on their order."""
    found: Figures = {}
    for name in ("score", "weight"):
        values = scores[name].to_numpy(np.float64)[scores["valid"].to_numpy(bool)]
        found[name] = [
            *np.quantile(values, QUANTILES),
            values.mean(),
            (values * np.linspace(-1, 1, len(values))).mean(),
        ]
    return found


def _rounded(figures: Figures) -> Figures:
    return {
        name: np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist() for name, values in figures.items()
    }


@cache
def _reference() -> dict[str, Any]:
    return dict(json.loads(REFERENCE.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="raise the version of the parts that changed")
    parser.add_argument("--raised", default="", help="comma-separated parts whose version is raised all the same")
    options = parser.parse_args()
    raised = [part for part in options.raised.split(",") if part]
    if unknown := set(raised) - set(PARTS):
        parser.error(f"no part {unknown.pop()!r}; there are: {', '.join(PARTS)}")
    if raised and not options.update:
        parser.error("--raised goes with --update")
    with tempfile.TemporaryDirectory() as scratch:
        measured = {part: measure(part, Path(scratch)) for part in PARTS}
    changed = {part: found for part in PARTS if (found := differences(part, measured[part]))}
    for line in (line for found in changed.values() for line in found):
        print(line)
    print(f"{len(changed)} of {len(PARTS)} parts behave differently")
    if not options.update:
        raise SystemExit(1 if changed else 0)
    reference = _reference()
    for part in dict.fromkeys([*changed, *raised]):
        version = reference["parts"].get(part, {"version": 0})["version"] + 1
        figures = _rounded(measured[part])
        reference["parts"][part] = {"version": version, "measured_at": checkout(), "figures": figures}
    write_json(reference, REFERENCE)


if __name__ == "__main__":
    main()
