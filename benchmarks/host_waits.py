"""Where the host waits for an NVIDIA GPU in the training steps of a recipe, with the callers.

    python -m benchmarks.host_waits recipes/vla/metaworld_state/ptr.yaml dataset=data/mt10

A step that waits leaves the device idle until the host has caught up. Logs and saves must wait and are not counted.
"""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.measurement import command_parser, run
from hf_ptr.errors import InputError
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.recipe import load_recipe

# Steps of the warm-up, in which everything is set up, and steps that are observed.
WARM_UP, STEPS = 10, 10
CALLERS = 5


class SyncCounter(TrainerCallback):
    """Makes PyTorch warn wherever the host waits, and counts the warnings by call site."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._counted = ExitStack()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the waits of the steps inside."""
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self._seen
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM_UP:
            self._counted.enter_context(self.counting())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM_UP + STEPS:
            self._counted.close()

    def _seen(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" not in str(message):
            return
        calls = [call for call in traceback.extract_stack() if call.filename not in (__file__, warnings.__file__)]
        # The first warning is about the switch itself.
        if calls[-1].name != "set_sync_debug_mode":
            sites = [f"{call.filename.split('site-packages/')[-1]}:{call.lineno} {call.name}" for call in calls]
            self.found[" < ".join(sites[::-1][:CALLERS])] += 1


def main() -> None:
    parser = command_parser("host_waits", __doc__, small=False)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key=value")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError("no NVIDIA GPU found; only its driver reports where the host waits")
    with tempfile.TemporaryDirectory() as folder:
        steps = WARM_UP + STEPS + 1
        # Weights from the fifth step on; no log in between, since a log must wait.
        settings = [
            "save_strategy=no",
            "disable_tqdm=true",
            f"max_steps={steps}",
            "warmup_steps=2",
            "logging_steps=1000",
        ]
        given = [*options.overrides, *settings, "nce_warmup_steps=4", f"output_dir={folder}"]
        trainer = build_trainer(load_recipe(options.recipe, given))
        counter = SyncCounter()
        trainer.add_callback(counter)
        trainer.train()
    print(f"{sum(counter.found.values()) / STEPS:.1f} waits a step, {torch.cuda.get_device_name()}")
    for site, count in counter.found.most_common():
        print(f"{count / STEPS:6.1f} {site}")


if __name__ == "__main__":
    run("benchmarks.host_waits", main)
