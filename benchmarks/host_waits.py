"""Where the host waits for an NVIDIA GPU in the training steps of a recipe, with its callers.

    python -m benchmarks.host_waits recipes/vla/metaworld_state/ptr.yaml dataset=data/mt10

A step that waits leaves the device idle until the host has caught up. Logs and saves wait, and are not looked at.
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
import warnings
from collections import Counter
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.command import run
from hf_ptr.errors import InputError
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.runs.run import build_trainer

# Steps before, in which everything is set up, and steps that are looked at.
BEFORE, STEPS = 10, 10
CALLERS = 5


class Looking(TrainerCallback):
    """Has PyTorch warn wherever the host waits, and counts by place."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == BEFORE:
            warnings.simplefilter("always")
            warnings.showwarning = self._seen
            torch.cuda.set_sync_debug_mode("warn")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == BEFORE + STEPS:
            torch.cuda.set_sync_debug_mode("default")

    def _seen(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" not in str(message):
            return
        calls = [call for call in traceback.extract_stack() if call.filename not in (__file__, warnings.__file__)]
        # To begin with, PyTorch warns of its own switch.
        if calls[-1].name != "set_sync_debug_mode":
            places = [f"{call.filename.split('site-packages/')[-1]}:{call.lineno} {call.name}" for call in calls]
            self.found[" < ".join(places[::-1][:CALLERS])] += 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_waits", description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key=value")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError("there is no NVIDIA GPU here; only its driver tells where the host waits")
    with tempfile.TemporaryDirectory() as folder:
        steps = BEFORE + STEPS + 1
        # Weights from the fifth step on, and no log in between: what a log waits for is meant.
        quiet = ["save_strategy=no", "disable_tqdm=true", f"max_steps={steps}", "warmup_steps=2", "logging_steps=1000"]
        given = [*options.overrides, *quiet, "nce_warmup_steps=4", f"output_dir={folder}"]
        trainer = build_trainer(load_recipe(options.recipe, given))
        looking = Looking()
        trainer.add_callback(looking)
        trainer.train()
    print(f"{sum(looking.found.values()) / STEPS:.1f} waits a step, {torch.cuda.get_device_name()}")
    for place, count in looking.found.most_common():
        print(f"{count / STEPS:6.1f} {place}")


if __name__ == "__main__":
    run("benchmarks.host_waits", main)
