"""One training run killed by SIGKILL again and again, compared with the same run left alone.

    python -m benchmarks.soak [--kills 30] [--seed 0] [--processes 1]

Each attempt is one or several processes that run the recipe as `hf-ptr train` does, resuming from the newest complete
checkpoint. They are killed at a random moment: during start-up, a step or a save. At the end, every file of the last
checkpoint (optimiser, queue, random numbers and log included) must equal that of the undisturbed run. The library is
imported once; attempts are forked before anything is computed.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import torch
import yaml

from benchmarks.measurement import command_parser, results_file, run, summary, write_results
from benchmarks.ranks import start_ranks
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.runs.run import DONE_FILE, run_recipe
from hf_ptr.training.checkpointing import STAGING_FOLDER, last_complete_checkpoint
from hf_ptr.utils.safetensors_io import read_tensors

TASKS = ("reach-v3", "button-press-topdown-v3")
STEPS = 600
SAVE_STEPS = 4
# The share of the run that the killed attempts complete together.
SHARE = 0.6
RECIPE = {
    "observation_features": ["observation.environment_state"],
    "hidden_size": 16,
    "action_size": 8,
    "encoder_size": 16,
    "expert_size": 32,
    "num_expert_layers": 1,
    "save_steps": SAVE_STEPS,
    "save_total_limit": 1,
    "logging_steps": 7,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "queue_size": 128,
    "nce_warmup_steps": 20,
    "warmup_steps": 10,
    "dropout": 0.1,
    "disable_tqdm": True,
    "use_cpu": True,
}


def attempt(recipe: Path, folder: Path, log: Path, processes: int, seconds: float | None = None) -> tuple[bool, float]:
    """
    Runs the recipe in processes of its own and kills them after some seconds.

    Returns:
        Whether the run finished, and the seconds until it had saved its first checkpoint.
    """
    left = set(start_ranks(lambda _: run_recipe(recipe, [f"output_dir={folder}"]), processes, log))
    start, first, before = time.monotonic(), math.inf, step_of(folder)
    while True:
        passed = time.monotonic() - start
        if first == math.inf and step_of(folder) > before:
            first = passed
        for child in list(left):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            left.remove(child)
            if code := os.waitstatus_to_exitcode(status):
                kill(left)
                sys.exit(f"an attempt ended with {code}; see {log}:\n{log.read_text()[-3000:]}")
        if not left:
            return True, first
        if seconds is not None and passed >= seconds:
            kill(left)
            return False, first
        time.sleep(0.002)


def kill(children: Collection[int]) -> None:
    """Kills processes at once and waits for their end."""
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def step_of(folder: Path) -> int:
    """The step of the newest complete checkpoint, 0 without one."""
    found = last_complete_checkpoint(folder)
    return 0 if found is None else int(found.rpartition("-")[2])


def differences(left: Path, right: Path) -> list[str]:
    """The files that differ between two checkpoints, except the settings, which name the folder."""
    names = sorted(
        {str(path.relative_to(root)) for root in (left, right) for path in root.rglob("*") if path.is_file()}
    )
    return [name for name in names if not _same(left / name, right / name)]


def _same(left: Path, right: Path) -> bool:
    if not (left.is_file() and right.is_file()):
        return False
    if left.name == "training_args.json":
        return True
    if left.name == "trainer_state.json":
        logs = [json.loads(path.read_text())["log_history"] for path in (left, right)]
        return logs[0] == logs[1]
    if left.suffix == ".safetensors":
        (metadata, tensors), (other_metadata, others) = (read_tensors(path) for path in (left, right))
        same = tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
        return same and metadata == other_metadata
    return left.read_bytes() == right.read_bytes()


def main() -> None:
    parser = command_parser("soak", __doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    name = "soak" if options.processes == 1 else f"soak_{options.processes}_processes"
    steps, demonstrations = STEPS, 4
    if options.small:
        # Two kills, so that both lie before the last saves.
        steps, demonstrations, options.kills = 120, 1, 2
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = record_metaworld(TASKS, demonstrations, folder / "data", seed=0, workers=1)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({**RECIPE, "max_steps": steps, "dataset": str(dataset)}))
        start = time.monotonic()
        _, starting = attempt(recipe, folder / "straight", folder / "straight.log", options.processes)
        alone = time.monotonic() - start
        longest = starting + 2 * SHARE * (alone - starting) / options.kills
        broken, where, gained = folder / "broken", {"starting": 0, "a step": 0, "a save": 0}, []
        start = time.monotonic()
        while sum(where.values()) < options.kills:
            before = step_of(broken)
            if attempt(recipe, broken, folder / "broken.log", options.processes, chance.uniform(0.0, longest))[0]:
                if longest < starting / 8:
                    sys.exit(f"the run ended after {sum(where.values())} kills; give it more STEPS")
                # The machine is faster than when the undisturbed run was timed: begin again, with earlier kills.
                shutil.rmtree(broken)
                longest, where, gained = longest / 2, dict.fromkeys(where, 0), []
                continue
            saving = (broken / STAGING_FOLDER).exists()
            after = step_of(broken)
            where["a save" if saving else "a step" if after > before else "starting"] += 1
            gained.append(float(after - before))
            print(f"kill {sum(where.values())}: {'in a save, ' if saving else ''}at step {after}", flush=True)
        attempt(recipe, broken, folder / "broken.log", options.processes)
        checkpoints = [each / f"checkpoint-{steps}" for each in (folder / "straight", broken)]
        differing = differences(*checkpoints)
        compared = sum(1 for path in checkpoints[0].rglob("*") if path.is_file())
        result = {
            "what": "one run killed by SIGKILL at random moments, against the same run left alone",
            "command": f"python -m benchmarks.soak --kills {options.kills} --seed {options.seed}"
            + (f" --processes {options.processes}" if options.processes > 1 else ""),
            "kills": {"n": sum(where.values()), "in": where},
            "steps": {"n": steps, "between_saves": SAVE_STEPS, "gained_by_an_attempt": summary(gained)},
            "identical": not differing and (broken / DONE_FILE).exists(),
            "files": {"n": compared, "differing": differing},
            "seconds": {"undisturbed": round(alone, 1), "with_kills": round(time.monotonic() - start, 1)},
        }
    print(json.dumps(result, indent=2))
    write_results(result, results_file(name, options.small))
    if not result["identical"]:
        sys.exit(1)


if __name__ == "__main__":
    run("benchmarks.soak", main)
