"""Is PTR worse than SFT where nothing is wrong? Both arms on clean Meta-World demonstrations, several seeds.

    python -m benchmarks.clean [--seeds 3] [--rollouts 20] [--jobs 2]

Every seed has its own demonstrations, training and evaluation; the arms of a seed share all three. A finished run is a
line of `benchmarks/results/clean.jsonl`, and is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "clean"
RUNS = ROOT / "benchmarks" / "results" / "clean.jsonl"
SUMMARY = ROOT / "benchmarks" / "results" / "clean.json"
RECIPES = ROOT / "recipes" / "vla" / "metaworld_state"
ARMS = ("sft", "ptr")
DEMONSTRATIONS = 40


def run(seed: int, arm: str, rollouts: int, commit: str) -> dict[str, Any]:
    """One arm of one seed: train, evaluate, and what the weights did in the last tenth of the training."""
    from hf_ptr.envs.tasks import DEFAULT_TASKS
    from hf_ptr.evaluation.rollouts import evaluate_metaworld
    from hf_ptr.training.run import run_recipe

    start = time.monotonic()
    folder = WORK / f"{arm}-{seed}"
    overrides = [f"dataset={WORK / f'data-{seed}'}", f"output_dir={folder}", f"seed={seed}", "disable_tqdm=true"]
    run_recipe(RECIPES / f"{arm}.yaml", overrides)
    success = evaluate_metaworld(folder, DEFAULT_TASKS, rollouts, seed=seed, workers=1, cache=WORK / "rollouts")
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    late = [entry for entry in log if "loss_action" in entry][-len(log) // 10 :]
    names = ("loss_action", "weight_mean", "weight_std", "weight_clip_high", "ess", "ptr_score", "beta")
    return {
        "seed": seed,
        "arm": arm,
        **success.to_dict(),
        "late": {name: float(np.mean([entry[name] for entry in late])) for name in names if name in late[0]},
        "seconds": round(time.monotonic() - start, 1),
        "commit": commit,
    }


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Both arms, and their difference with a bootstrap interval over the cells (seed, task), which are paired."""
    by_key = {(line["seed"], line["arm"]): line for line in lines}
    seeds = sorted({seed for seed, _ in by_key if all((seed, arm) in by_key for arm in ARMS)})
    tasks = list(by_key[seeds[0], "sft"]["tasks"])
    rate = {
        arm: np.array([[by_key[seed, arm]["tasks"][task]["success"] for task in tasks] for seed in seeds])
        for arm in ARMS
    }
    difference = (rate["ptr"] - rate["sft"]).ravel()
    rng = np.random.default_rng(0)
    means = rng.choice(difference, (10_000, len(difference))).mean(axis=1)
    return {
        "what": "success on clean demonstrations, PTR (scoring=paper) against SFT",
        "command": "python -m benchmarks.clean",
        "seeds": seeds,
        "episodes_per_arm": sum(by_key[seed, "sft"]["episodes"] for seed in seeds),
        "success": {arm: {"mean": float(r.mean()), "by_seed": r.mean(axis=1).tolist()} for arm, r in rate.items()},
        "ptr_minus_sft": {
            "mean": float(difference.mean()),
            "interval": np.quantile(means, [0.025, 0.975]).tolist(),
            "method": f"paired bootstrap over {len(difference)} cells (seed, task), taken as independent",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from hf_ptr.data.recording import record_metaworld
    from hf_ptr.envs.tasks import DEFAULT_TASKS

    lines = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    done = {(line["seed"], line["arm"]) for line in lines}
    missing = [(seed, arm) for seed in range(options.seeds) for arm in ARMS if (seed, arm) not in done]
    for seed in sorted({seed for seed, _ in missing}):
        if not (WORK / f"data-{seed}").exists():
            record_metaworld(DEFAULT_TASKS, DEMONSTRATIONS, WORK / f"data-{seed}", seed=seed, workers=options.jobs)
    # What the code is now: by the time a run ends it may have moved on.
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run, seed, arm, options.rollouts, commit) for seed, arm in missing]
        for future in as_completed(jobs):
            line = future.result()
            with RUNS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(f"seed {line['seed']} {line['arm']}: {line['success']:.1%} in {line['seconds']:.0f} s", flush=True)
    summary = summarize(lines)
    SUMMARY.write_text(json.dumps(summary, indent=2) + "\n")
    low, high = summary["ptr_minus_sft"]["interval"]
    print(f"PTR - SFT: {summary['ptr_minus_sft']['mean']:+.1%} ({low:+.1%} to {high:+.1%})")


if __name__ == "__main__":
    main()
