"""What a training step of PTR costs against one of SFT, on the demo's policy, data and trainer, in one run.

    python -m benchmarks.overhead [--rounds 9] [--steps 60]

The arms take turns, so that a machine whose speed drifts slows both; the ratio is formed within each turn. The
stock `transformers.Trainer` on the same policy is a further side: what is between it and SFT is the library's price.
Calibrated weights cost nothing in a step, and the time to fit them once: their ratio is that of whole runs of the
recipe's length on the demo's 400 demonstrations, fitting included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_ptr.envs.metaworld.tasks import DEFAULT_TASKS
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.ptr.controller import HARD_RATIO_RANGE
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.runs.run import build_trainer
from hf_ptr.training.batch import MODEL_INPUTS
from hf_ptr.training.calibrated_weights import calibrated_chunks

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "overhead.json"
RECIPES = ROOT / "recipes" / "vla" / "metaworld_state"
ARMS = ("sft", "sft_belief", "ptr", "calibrated")
DEMONSTRATIONS = 40
WARM_UP = 10


class StepClock(TrainerCallback):
    """Seconds per optimiser step after the warm-up, data loading included."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.start = time.perf_counter()
        if state.global_step == args.max_steps:
            self.seconds = (time.perf_counter() - self.start) / (args.max_steps - WARM_UP)


class PolicyCollator:
    """What the policy alone takes of a batch: the stock Trainer hands on whatever the collator makes."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, chunks: Any) -> dict[str, Any]:
        batch = self.collator(chunks)
        return {name: batch[name] for name in MODEL_INPUTS if name in batch and name != "next_observation"}


def measure(arm: str, dataset: Path, steps: int, folder: Path) -> tuple[float, float]:
    """Seconds per step of one arm, from a fresh policy, and those before the first step to fit weights."""
    overrides = [
        f"dataset={dataset}",
        f"output_dir={folder}",
        f"max_steps={steps}",
        "save_strategy=no",
        "disable_tqdm=true",
        "nce_warmup_steps=0",
        "adaptive_scale=false",
        "logging_steps=25",
    ]
    recipe = load_recipe(RECIPES / f"{'sft' if arm == 'stock' else arm}.yaml", overrides)
    trainer = build_trainer(recipe)
    # Where the controller ends up in a long run, and what costs most.
    trainer.objective.controller.hard_negative_ratio = HARD_RATIO_RANGE[1]
    clock = StepClock()
    if arm == "stock":
        names = [
            "per_device_train_batch_size",
            "learning_rate",
            "weight_decay",
            "warmup_steps",
            "lr_scheduler_type",
            "max_steps",
            "logging_steps",
            "save_strategy",
            "disable_tqdm",
            "report_to",
            "seed",
            "remove_unused_columns",
        ]
        arguments = TrainingArguments(
            output_dir=str(folder), **{name: getattr(recipe.training, name) for name in names}
        )
        trainer = Trainer(
            trainer.model.policy,
            arguments,
            train_dataset=trainer.train_dataset,
            data_collator=PolicyCollator(trainer.data_collator),
        )
    trainer.add_callback(clock)
    fitting = 0.0
    if arm == "calibrated":
        start = time.perf_counter()
        trainer.train_dataset = calibrated_chunks(trainer.train_dataset, trainer.args, trainer.accelerator)
        fitting = time.perf_counter() - start
        trainer.args.scoring, trainer.args.alpha = "paper", 0.0
    trainer.train()
    return clock.seconds, fitting


def side(values: list[float]) -> dict[str, float | int]:
    """One side of a comparison."""
    return {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def _ratio(mine: list[float], others: list[float]) -> dict[str, float | int]:
    return side([one / other for one, other in zip(mine, others, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {arm: [] for arm in ("stock", *ARMS)}
    fitting: list[float] = []
    length = load_recipe(RECIPES / "ptr.yaml", ["dataset=none"]).training.max_steps
    with tempfile.TemporaryDirectory() as scratch:
        dataset = record_metaworld(DEFAULT_TASKS, DEMONSTRATIONS, Path(scratch) / "data", seed=0)
        for turn in range(options.rounds):
            for arm in seconds:
                a_step, before = measure(arm, dataset, options.steps, Path(scratch) / f"{arm}-{turn}")
                seconds[arm].append(a_step)
                if arm == "calibrated":
                    fitting.append(before)
            print(turn, {arm: f"{values[-1] * 1e3:.1f} ms" for arm, values in seconds.items()}, flush=True)
    pairs = {
        "ptr/sft": ("ptr", "sft"),
        "sft_belief/sft": ("sft_belief", "sft"),
        "calibrated/sft": ("calibrated", "sft"),
        "sft/stock_trainer": ("sft", "stock"),
    }
    runs = {arm: [length * a_step for a_step in values] for arm, values in seconds.items()}
    runs["calibrated"] = [run + once for run, once in zip(runs["calibrated"], fitting, strict=True)]
    result = {
        "what": "seconds of a step on the demo's policy (of fitting: once a run), and ratios within each turn",
        "command": f"python -m benchmarks.overhead --rounds {options.rounds} --steps {options.steps}",
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version()},
        "seconds": {arm: side(values) for arm, values in seconds.items()},
        "fitting": side(fitting),
        "ratios": {
            **{name: _ratio(seconds[a], seconds[b]) for name, (a, b) in pairs.items()},
            f"calibrated/ptr, runs of {length} steps": _ratio(runs["calibrated"], runs["ptr"]),
            f"calibrated/sft, runs of {length} steps": _ratio(runs["calibrated"], runs["sft"]),
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}, n = {ratio['n']})")
    print(f"written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
