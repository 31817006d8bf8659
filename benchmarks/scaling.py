"""Growth of the cost of a training step, and cost of the candidate pool next to a policy of 20 M parameters.

    python -m benchmarks.scaling [--rounds 5] [--steps 12]

One setting varies at a time: batch size, queue size, candidates per sample, chunk length, chunks per segment, and
processes (gloo, one thread each). Each value is measured in a process of its own: seconds per optimiser step, in
rounds in which the values alternate, and peak memory. `grows` is the slope of log seconds over log value: 0 is
constant, 1 is proportional.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import process_memory
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
from benchmarks.ranks import results_of_ranks
from hf_ptr import functional as F
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.policies.vla import VLAPolicy, VLAPolicyConfig
from hf_ptr.ptr import CandidatePool, Candidates
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.recipe import load_recipe

RECIPE = ROOT / "recipes" / "vla" / "metaworld_state" / "ptr.yaml"
WARM_UP = 10
BASE = {
    "per_device_train_batch_size": 64,
    "queue_size": 1024,
    "queue_negatives": 64,
    "chunk_size": 16,
    "segment_chunks": 4,
}
KNOBS: dict[str, tuple[int, ...]] = {
    "per_device_train_batch_size": (32, 64, 128, 256),
    "queue_size": (256, 1024, 4096, 16384),
    "queue_negatives": (16, 64, 256, 1024),
    "chunk_size": (8, 16, 32),
    "segment_chunks": (1, 2, 4, 8),
    "gradient_accumulation_steps": (1, 2, 4),
}
PROCESSES = (1, 2)
# The requirement: samples, queue negatives, embedding width, parameters of the policy, and the largest share of its
# step that the pool may take.
POOL = {"batch": 1024, "queue_negatives": 64, "width": 256, "parameters": 20e6, "limit": 0.03}


def seconds_per_step(dataset: Path, folder: Path, steps: int, **settings: Any) -> float:
    """Seconds per optimiser step of one run, after a warm-up that fills the queue."""
    overrides = {
        "dataset": dataset,
        "output_dir": folder,
        "max_steps": WARM_UP + steps,
        "save_strategy": "no",
        "disable_tqdm": "true",
        "use_cpu": "true",
        "nce_warmup_steps": 0,
        "logging_steps": 1000,
        **BASE,
        **settings,
    }
    trainer = build_trainer(load_recipe(RECIPE, [f"{name}={value}" for name, value in overrides.items()]))
    clock = StepClock(WARM_UP)
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def forked(work: Callable[[], float]) -> tuple[float, float]:
    """The result of `work` in a process of its own, and the growth of its memory in MiB from start to peak."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                before = process_memory.resident()
                result = work()
            os.write(write, json.dumps([result, (process_memory.peak() - before) / 2**20]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        written = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a measurement failed; see its message above")
    result, memory = json.loads(written)
    return result, memory


def with_processes(count: int, dataset: Path, folder: Path, steps: int) -> float:
    """Seconds per step with the same global batch on `count` processes of one thread each."""
    folder.mkdir()
    size = BASE["per_device_train_batch_size"] // count
    found = results_of_ranks(
        lambda: seconds_per_step(dataset, folder, steps, per_device_train_batch_size=size), count, folder
    )
    return float(found[0])


def growth(values: dict[int, list[float]]) -> float:
    """Slope of log seconds over log knob, by least squares on the medians."""
    points = [(math.log(value), math.log(statistics.median(times))) for value, times in values.items()]
    mean = [statistics.fmean(axis) for axis in zip(*points, strict=True)]
    above = sum((x - mean[0]) * (y - mean[1]) for x, y in points)
    return above / sum((x - mean[0]) ** 2 for x, _ in points)


# ---- the candidate pool next to a policy of 20 M parameters


def policy_of(parameters: float, width: int) -> VLAPolicy:
    """The smallest native policy with at least that many parameters and the given width of observation features."""
    for size in range(256, 8192, 64):
        config = VLAPolicyConfig(
            observation_dim=39,
            state_dim=4,
            action_dim=4,
            num_instructions=10,
            hidden_size=width,
            action_size=width,
            encoder_size=512,
            expert_size=size,
            num_expert_layers=3,
        )
        policy = VLAPolicy(config)
        if sum(parameter.numel() for parameter in policy.parameters()) >= parameters:
            return policy
    raise SystemExit(f"no policy of {parameters:g} parameters was found")


def pool_against_policy(rounds: int, parameters: float) -> dict[str, Any]:
    """Seconds of the pool's work in a step and of the policy's own step, alternating."""
    rows, width = int(POOL["batch"]), int(POOL["width"])
    torch.manual_seed(0)
    policy = policy_of(parameters, width)
    config = policy.config
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    batch = {
        "observation": torch.randn(rows, config.observation_dim),
        "state": torch.randn(rows, config.state_dim),
        "instruction_ids": torch.randint(1, 10, (rows, 1)),
        "instruction_mask": torch.ones(rows, 1, dtype=torch.bool),
        "actions": torch.randn(rows, config.chunk_size, config.action_dim),
        "action_mask": torch.ones(rows, config.chunk_size, dtype=torch.bool),
    }
    pool = CandidatePool(1024, int(POOL["queue_negatives"]))
    drawn = _candidates(rows, width)
    pool.push(_candidates(1024, width))
    query = torch.nn.functional.normalize(torch.randn(rows, width), dim=1).requires_grad_()

    def policy_step() -> None:
        policy(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def pool_step() -> None:
        with F.unchecked():
            negatives, mask = pool.negatives(drawn, drawn, 0.5)
            pool.push(drawn)
        assert mask.shape == (rows, len(negatives))

    def scoring_step() -> None:
        with F.unchecked():
            negatives, mask = pool.negatives(drawn, drawn, 0.5)
            logits = F.identification_logits(
                query, drawn.target, negatives, temperature=0.12, negative_mask=mask, normalized=True
            )
            score = F.ptr_score(logits.detach())
            F.conservative_weight(score, beta=1.5, valid=drawn.valid)
            F.identification_loss(logits).backward()
            pool.push(drawn)

    seconds: dict[str, list[float]] = {"policy": [], "pool": [], "pool, logits, weights and L_id": []}
    steps = dict(zip(seconds, (policy_step, pool_step, scoring_step), strict=True))
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ratios = {f"{name} / policy": ratio(seconds[name], seconds["policy"]) for name in list(seconds)[1:]}
    return {
        **POOL,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ratios": ratios,
    }


def _candidates(rows: int, width: int) -> Candidates:
    return Candidates(
        target=torch.nn.functional.normalize(torch.randn(rows, width), dim=1),
        target_id=torch.randint(0, 100_000, (rows,)),
        task=torch.randint(0, 10, (rows,)),
        state=torch.randn(rows, 4),
        valid=torch.rand(rows) < 0.9,
    )


def main() -> None:
    parser = command_parser("scaling", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help=f"measured steps of each run, after {WARM_UP}")
    options = parser.parse_args()
    knobs, parameters, demonstrations = KNOBS, POOL["parameters"], 12
    if options.small:
        # Two values of one setting are enough for a slope.
        knobs, parameters, demonstrations = {"per_device_train_batch_size": (8, 16)}, 1e6, 2
        options.rounds, options.steps = 1, 1
    seconds: dict[str, dict[int, list[float]]] = {knob: {value: [] for value in knobs[knob]} for knob in knobs}
    memory: dict[str, dict[int, list[float]]] = {knob: {value: [] for value in knobs[knob]} for knob in knobs}
    processes: dict[int, list[float]] = {count: [] for count in PROCESSES}
    with tempfile.TemporaryDirectory() as scratch:
        tasks = ("reach-v3", "button-press-topdown-v3")
        dataset = record_metaworld(tasks, demonstrations, Path(scratch) / "data", seed=0)
        for turn in range(options.rounds):
            for knob, values in knobs.items():
                for value in values:
                    folder = Path(scratch) / f"{knob}-{value}-{turn}"
                    found, most = forked(
                        lambda folder=folder, knob=knob, value=value: seconds_per_step(
                            dataset, folder, options.steps, **{knob: value}
                        )
                    )
                    seconds[knob][value].append(found)
                    memory[knob][value].append(most)
            for count in PROCESSES:
                folder = Path(scratch) / f"processes-{count}-{turn}"
                processes[count].append(with_processes(count, dataset, folder, options.steps))
            print(f"round {turn + 1} of {options.rounds}", flush=True)
    against = pool_against_policy(1 if options.small else max(options.rounds, 5), parameters)
    result = {
        "what": "seconds and memory of a training step of PTR by setting, and of the pool next to a policy",
        "command": f"python -m benchmarks.scaling --rounds {options.rounds} --steps {options.steps}",
        "machine": machine(),
        "base": BASE,
        "knobs": {
            knob: {
                "grows": round(growth(seconds[knob]), 3),
                "seconds": {str(value): summary(times) for value, times in seconds[knob].items()},
                "mebibytes": {str(value): summary(sizes) for value, sizes in memory[knob].items()},
            }
            for knob in knobs
        },
        "processes": {
            "seconds": {str(count): summary(times) for count, times in processes.items()},
            "ratios": {"2/1": ratio(processes[2], processes[1])},
        },
        "pool": against,
    }
    report(result)
    write_results(result, results_file("scaling", options.small))


def report(result: dict[str, Any]) -> None:
    """Prints one line per setting, and the ratios."""
    for knob, found in result["knobs"].items():
        times = ", ".join(f"{value}: {each['median'] * 1e3:.1f} ms" for value, each in found["seconds"].items())
        most = ", ".join(f"{each['median']:.0f}" for each in found["mebibytes"].values())
        print(f"{knob}: {times}; grows as its power {found['grows']:.2f}; {most} MiB")
    print(f"two processes / one, same global batch: {ratio_text(result['processes']['ratios']['2/1'], '.2f')}")
    pool = result["pool"]
    for name, each in pool["ratios"].items():
        print(f"{name} of {pool['parameters'] / 1e6:.1f} M parameters, B = {pool['batch']}: {ratio_text(each, '.2%')}")


if __name__ == "__main__":
    run("benchmarks.scaling", main)
