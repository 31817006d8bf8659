"""Cost of a training step of PTR relative to SFT, with the policy, data and trainer of the demo, in one run.

    python -m benchmarks.overhead [--rounds 9] [--steps 60]

`OMP_NUM_THREADS` sets the number of threads; with more than one the results go to a file of their own. The
milliseconds that an arm adds to a step of SFT, next to the ratios, depend less on the size of the policy.

The arms alternate, so that a drift in the machine's speed affects all of them, and ratios are formed within each
round. A further arm is the stock `transformers.Trainer` with the same policy: its distance to SFT is the cost of this
library. Calibrated weights add nothing to a step, but are fitted once before the first. Their ratio is therefore that
of whole runs of the recipe's length on the demo's 400 demonstrations, including the fit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from benchmarks.measurement import (
    ROOT,
    StepClock,
    command_parser,
    machine,
    ratio,
    ratio_text,
    results_file,
    run,
    summary,
    write_results,
)
from hf_ptr.envs.metaworld.tasks import DEFAULT_TASKS
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.ptr.controller import HARD_RATIO_RANGE
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.recipe import load_recipe

RECIPES = ROOT / "recipes" / "vla" / "metaworld_state"
ARMS = ("sft", "sft_belief", "ptr", "calibrated")
DEMONSTRATIONS = 40
WARM_UP = 10
# Settings that the stock trainer shares with the recipe.
STOCK_SETTINGS = (
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
)


class PolicyCollator:
    """A collator for the stock trainer, which passes the items of a batch to the policy as arguments."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, chunks: Any) -> dict[str, Any]:
        return {"batch": self.collator(chunks)}


def measure(arm: str, dataset: Path, steps: int, folder: Path, warm_up: int = WARM_UP) -> StepClock:
    """Trains one arm from a fresh policy; returns the clock of its run. `steps` includes the warm-up."""
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
    clock = StepClock(warm_up)
    trainer = build_trainer(recipe)
    # The value that the controller reaches in a long run, and the most expensive one.
    trainer.identification.controller.hard_negative_ratio = HARD_RATIO_RANGE[1]
    if arm == "stock":
        settings = {name: getattr(recipe.training, name) for name in STOCK_SETTINGS}
        trainer = Trainer(
            trainer.model.policy,
            TrainingArguments(output_dir=str(folder), **settings),
            train_dataset=trainer.train_dataset,
            data_collator=PolicyCollator(trainer.data_collator),
        )
    trainer.add_callback(clock)
    trainer.train()
    return clock


def main() -> None:
    parser = command_parser("overhead", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60, help=f"steps of each run, of which {WARM_UP} are warm-up")
    options = parser.parse_args()
    tasks, demonstrations, warm_up = DEFAULT_TASKS, DEMONSTRATIONS, WARM_UP
    if options.small:
        tasks, demonstrations, warm_up, options.rounds, options.steps = DEFAULT_TASKS[:1], 4, 1, 1, 2
    seconds: dict[str, list[float]] = {arm: [] for arm in ("stock", *ARMS)}
    fitting: list[float] = []
    length = load_recipe(RECIPES / "ptr.yaml", ["dataset=none"]).training.max_steps
    with tempfile.TemporaryDirectory() as scratch:
        dataset = record_metaworld(tasks, demonstrations, Path(scratch) / "data", seed=0)
        for turn in range(options.rounds):
            clocks = {
                arm: measure(arm, dataset, options.steps, Path(scratch) / f"{arm}-{turn}", warm_up) for arm in seconds
            }
            for arm, clock in clocks.items():
                seconds[arm].append(clock.seconds)
            # Both build the same trainer; one of them fits weights, too.
            fitting.append(max(0.0, clocks["calibrated"].before_first_step - clocks["sft"].before_first_step))
            print(turn, {arm: f"{values[-1] * 1e3:.1f} ms" for arm, values in seconds.items()}, flush=True)
    pairs = {
        "ptr/sft": ("ptr", "sft"),
        "sft_belief/sft": ("sft_belief", "sft"),
        "calibrated/sft": ("calibrated", "sft"),
        "sft/stock_trainer": ("sft", "stock"),
    }
    runs = {arm: [length * a_step for a_step in values] for arm, values in seconds.items()}
    runs["calibrated"] = [steps + fit for steps, fit in zip(runs["calibrated"], fitting, strict=True)]
    added = {
        f"{a} - {b}": summary([1e3 * (slow - fast) for slow, fast in zip(seconds[a], seconds[b], strict=True)])
        for a, b in (("ptr", "sft"), ("sft_belief", "sft"))
    }
    result = {
        "what": "seconds of a step on the demo's policy (of fitting: once a run), and ratios within each round",
        "command": f"python -m benchmarks.overhead --rounds {options.rounds} --steps {options.steps}",
        "machine": machine(),
        "seconds": {arm: summary(values) for arm, values in seconds.items()},
        "added_ms": added,
        "fitting": summary(fitting),
        "ratios": {
            **{name: ratio(seconds[a], seconds[b]) for name, (a, b) in pairs.items()},
            f"calibrated/ptr, runs of {length} steps": ratio(runs["calibrated"], runs["ptr"]),
            f"calibrated/sft, runs of {length} steps": ratio(runs["calibrated"], runs["sft"]),
        },
    }
    for name, each in result["ratios"].items():
        print(f"{name}: {ratio_text(each)}")
    for name, each in added.items():
        print(f"{name}: {ratio_text(each, '.1f')} ms")
    threads = torch.get_num_threads()
    write_results(result, results_file("overhead" if threads == 1 else f"overhead_{threads}_threads", options.small))


if __name__ == "__main__":
    run("benchmarks.overhead", main)
