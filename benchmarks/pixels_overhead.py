"""Cost of a step of PTR relative to SFT for a policy with camera input: time, memory and operations, in one run.

    python -m benchmarks.pixels_overhead [--size small] [--batch 8] [--rounds 7] [--cameras 1]

The batch is prepared beforehand, so a step includes everything but the loading of data: forward pass, loss, gradients,
optimiser and target encoder. The arms alternate, and the ratio is formed within each round. Memory is the peak of a
separate process for each arm. Torch counts the operations of one step, which do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from benchmarks import process_memory
from benchmarks.measurement import (
    ROOT,
    command_parser,
    machine,
    ratio,
    ratio_text,
    results_file,
    run,
    summary,
    write_results,
)
from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.policies import VLAPolicy, VLAPolicyConfig
from hf_ptr.policies.vla.sizes import for_image_size, size_settings

# As in the 26-dimensional humanoid data.
STATE = ACTION = 26
ARMS: dict[str, dict[str, Any]] = {
    "sft": {"alpha": 0.0, "belief_tokens": 0},
    "ptr": {"alpha": 1.0, "belief_tokens": 4},
}


def stepper(arm: str, options: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """A function that makes one training step on noise images; policy and noise are the same for every arm."""
    set_seed(0)
    settings = size_settings(options.size)
    settings["vision_config"] = for_image_size(settings["vision_config"], settings["image_size"])
    config = VLAPolicyConfig(
        observation_dim=0,
        observation_features=[f"observation.images.camera{number}" for number in range(options.cameras)],
        state_dim=STATE,
        action_dim=ACTION,
        num_instructions=8,
        **settings,
    )
    settings = {"disable_tqdm": True, "report_to": "none", "nce_warmup_steps": 0, **ARMS[arm]}
    args = PTRConfig(output_dir=str(folder), use_cpu=True, **settings)
    # Without a dataset: the batch is given to the loss directly.
    trainer = PTRTrainer(VLAPolicy(config), args, data_collator=lambda chunks: chunks)
    batch, (height, width) = options.batch, config.image_resolution
    given = {
        "index": torch.arange(batch),
        "previous_index": torch.full((batch,), -1),
        "observation": torch.randint(256, (batch, options.cameras, height, width, 3), dtype=torch.uint8),
        "next_observation": torch.randint(256, (batch, options.cameras, height, width, 3), dtype=torch.uint8),
        "state": torch.randn(batch, STATE),
        "actions": torch.randn(batch, config.chunk_size, ACTION),
        "action_mask": torch.ones(batch, config.chunk_size, dtype=torch.bool),
        "instruction_ids": torch.randint(1, 9, (batch, 1)),
        "instruction_mask": torch.ones(batch, 1, dtype=torch.bool),
        "task_index": torch.randint(8, (batch,)),
        "has_target": torch.ones(batch, dtype=torch.bool),
        "target_index": torch.arange(batch),
    }
    optimizer = torch.optim.AdamW([value for value in trainer.model.parameters() if value.requires_grad], lr=1e-4)

    def step() -> None:
        # Frames not seen before, so that the queue of candidates grows as in a run.
        given["index"], given["target_index"] = given["index"] + batch, given["target_index"] + batch
        trainer.compute_loss(trainer.model, dict(given)).backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.state.global_step += 1
        # Updates the target encoder and the queue.
        trainer.callback_handler.on_step_end(args, trainer.state, trainer.control)

    return step


def peak_memory(arm: str, options: argparse.Namespace) -> float:
    """Peak memory of a process that makes three steps, in MiB."""
    command = [sys.executable, "-m", "benchmarks.pixels_overhead", "--alone", arm, "--size", options.size]
    command += ["--batch", str(options.batch), "--cameras", str(options.cameras)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def operations(step: Callable[[], None]) -> int:
    """Floating-point operations of a step, as counted by torch."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def main() -> None:
    parser = command_parser("pixels_overhead", __doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--alone", choices=tuple(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:
        options.size, options.batch, options.rounds = "tiny", 2, 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.alone is not None:
            step = stepper(options.alone, options, folder)
            for _ in range(3):
                step()
            print(json.dumps({"peak_mib": process_memory.peak() / 2**20}))
            return
        flops = {arm: operations(stepper(arm, options, folder)) for arm in ARMS}
        memory = {arm: peak_memory(arm, options) for arm in ARMS}
        steps = {arm: stepper(arm, options, folder) for arm in ARMS}
        for step in steps.values():
            step()
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for turn in range(options.rounds):
            for arm, step in steps.items():
                start = time.perf_counter()
                step()
                step()
                seconds[arm].append((time.perf_counter() - start) / 2)
            print(turn, {arm: f"{values[-1] * 1e3:.0f} ms" for arm, values in seconds.items()}, flush=True)
    times = ratio(seconds["ptr"], seconds["sft"])
    result = {
        "what": f"a step of {options.batch} chunks at size {options.size}, {options.cameras} camera(s)",
        "command": f"python -m benchmarks.pixels_overhead --size {options.size} --batch {options.batch} "
        f"--rounds {options.rounds} --cameras {options.cameras}",
        "machine": machine(),
        "seconds": {arm: summary(values) for arm, values in seconds.items()},
        "peak_mib": memory,
        "gigaflops": {arm: count / 1e9 for arm, count in flops.items()},
        "ratios": {
            "ptr/sft, time": times,
            "ptr/sft, peak memory": memory["ptr"] / memory["sft"],
            "ptr/sft, operations": flops["ptr"] / flops["sft"],
        },
    }
    print(f"time {ratio_text(times)}")
    print(f"peak memory {memory['ptr'] / memory['sft']:.3f}; operations {flops['ptr'] / flops['sft']:.3f}")
    write_results(result, results_file("pixels_overhead", options.small))


if __name__ == "__main__":
    run("benchmarks.pixels_overhead", main)
