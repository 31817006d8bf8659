"""What a step of PTR costs against one of SFT on a policy that sees: time, memory and operations, in one run.

    python -m benchmarks.pixels_overhead [--size small] [--batch 8] [--rounds 7] [--cameras 1]

The step is everything but the loading of data: the pass, the objective, the gradients, the optimiser and the target
encoder. The arms take turns, and the ratio is formed within each turn. Memory is the peak of a process of its own for
each arm. The operations are counted by torch in one step, and do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from benchmarks.overhead import ROOT, side
from hf_ptr.policies import VLAPolicy, VLAPolicyConfig
from hf_ptr.policies.vla.sizes import for_image_size, size_settings
from hf_ptr.training.batch import candidates_of, model_inputs
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import build_ptr_model
from hf_ptr.utils.atomic_files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "pixels_overhead.json"
# As in the 26-dimensional humanoid data.
STATE = ACTION = 26
ARMS: dict[str, dict[str, Any]] = {
    "sft": {"alpha": 0.0, "belief_tokens": 0},
    "ptr": {"alpha": 1.0, "belief_tokens": 4},
}


def stepper(arm: str, size: str, batch: int, cameras: int) -> Callable[[], None]:
    """A function that makes one training step on pictures of noise; the same noise for every arm."""
    set_seed(0)
    settings = size_settings(size)
    settings["vision_config"] = for_image_size(settings["vision_config"], settings["image_size"])
    names = [f"observation.images.camera{number}" for number in range(cameras)]
    config = VLAPolicyConfig(
        observation_dim=0,
        observation_features=names,
        state_dim=STATE,
        action_dim=ACTION,
        num_instructions=8,
        **settings,
    )
    args = PTRConfig(output_dir="unused", use_cpu=True, nce_warmup_steps=0, **ARMS[arm])
    model = build_ptr_model(VLAPolicy(config), with_scorer=args.with_scorer, belief_tokens=args.belief_tokens)
    height, width = config.image_resolution
    given = {
        "observation": torch.randint(256, (batch, cameras, height, width, 3), dtype=torch.uint8),
        "next_observation": torch.randint(256, (batch, cameras, height, width, 3), dtype=torch.uint8),
        "state": torch.randn(batch, STATE),
        "actions": torch.randn(batch, config.chunk_size, ACTION),
        "action_mask": torch.ones(batch, config.chunk_size, dtype=torch.bool),
        "instruction_ids": torch.randint(1, 9, (batch, 1)),
        "instruction_mask": torch.ones(batch, 1, dtype=torch.bool),
        "task_index": torch.randint(8, (batch,)),
        "has_target": torch.ones(batch, dtype=torch.bool),
        "target_index": torch.arange(batch),
    }
    objective = PTRObjective(args)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)

    def step() -> None:
        given["target_index"] += batch
        output = model(**model_inputs(given, None, () if args.with_scorer else ("next_observation",)))
        target = output.target
        candidates = None if target is None else candidates_of(model.adapter, given, target)
        objective(output, candidates, None, step=1).total.backward()
        if target is not None:
            objective.remember()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target()

    return step


def peak_memory(arm: str, options: argparse.Namespace) -> float:
    """Peak memory of a process that makes three steps, in MiB."""
    command = [sys.executable, "-m", "benchmarks.pixels_overhead", "--alone", arm, "--size", options.size]
    command += ["--batch", str(options.batch), "--cameras", str(options.cameras)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def high_water() -> float:
    """The most memory that this process has held, in MiB. What `getrusage` says begins with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def operations(arm: str, options: argparse.Namespace) -> int:
    """Floating-point operations of a step, as torch counts them."""
    step = stepper(arm, options.size, options.batch, options.cameras)
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--alone", choices=tuple(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone is not None:
        step = stepper(options.alone, options.size, options.batch, options.cameras)
        for _ in range(3):
            step()
        print(json.dumps({"peak_mib": high_water()}))
        return
    flops = {arm: operations(arm, options) for arm in ARMS}
    memory = {arm: peak_memory(arm, options) for arm in ARMS}
    steps = {arm: stepper(arm, options.size, options.batch, options.cameras) for arm in ARMS}
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
    ratio = side([mine / other for mine, other in zip(seconds["ptr"], seconds["sft"], strict=True)])
    result = {
        "what": f"a step of {options.batch} chunks at size {options.size}, {options.cameras} camera(s)",
        "command": f"python -m benchmarks.pixels_overhead --size {options.size} --batch {options.batch} "
        f"--rounds {options.rounds} --cameras {options.cameras}",
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version()},
        "seconds": {arm: side(values) for arm, values in seconds.items()},
        "peak_mib": memory,
        "gigaflops": {arm: count / 1e9 for arm, count in flops.items()},
        "ratios": {
            "ptr/sft, time": ratio,
            "ptr/sft, peak memory": memory["ptr"] / memory["sft"],
            "ptr/sft, operations": flops["ptr"] / flops["sft"],
        },
    }
    write_json(result, RESULTS)
    print(f"time {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}, n = {ratio['n']})")
    print(f"peak memory {memory['ptr'] / memory['sft']:.3f}; operations {flops['ptr'] / flops['sft']:.3f}")


if __name__ == "__main__":
    main()
