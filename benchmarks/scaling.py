"""How the cost of a training step grows, and what the scoring pool costs beside a policy of 20 M parameters.

    python -m benchmarks.scaling [--rounds 5] [--steps 12]

One knob is turned at a time: batch, queue, candidates a sample, chunk length, chunks of a segment, and processes
(gloo, one thread each). For each value the seconds of an optimiser step, in rounds in which the values take turns, and
the most memory that its process held, which is one forked for it. `grows` is the slope of the logarithm of the seconds
over that of the knob: 0 is free, 1 is in proportion.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from benchmarks.overhead import RESULTS as OVERHEAD
from benchmarks.overhead import ROOT, StepClock, side
from hf_ptr import functional as F
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.policies.vla import VLAPolicy, VLAPolicyConfig
from hf_ptr.ptr import CandidatePool, Candidates
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.runs.run import build_trainer

RESULTS = OVERHEAD.with_name("scaling.json")
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
# The line of the specification: samples, queue negatives, embedding width, parameters of the policy, its share.
POOL = {"batch": 1024, "queue_negatives": 64, "width": 256, "parameters": 20e6, "limit": 0.03}


def seconds_a_step(dataset: Path, folder: Path, steps: int, **settings: Any) -> float:
    """Of one run, after a warm-up that fills the queue."""
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
    clock = StepClock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def forked(work: Callable[[], float]) -> tuple[float, float]:
    """What `work` gives in a process of its own, and the most memory in MiB that it held beyond what it began with."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                before = _resident()
                result = work()
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
            os.write(write, json.dumps([result, most - before]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a measurement failed; see its message above")
    result, memory = json.loads(said)
    return result, memory


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _rank(rank: int, port: int, count: int, dataset: Path, folder: Path, steps: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
    }
    torch.set_num_threads(1)
    # Twice the processes share the same global batch.
    size = BASE["per_device_train_batch_size"] // count
    found = seconds_a_step(dataset, folder, steps, per_device_train_batch_size=size)
    if rank == 0:
        (folder / "seconds").write_text(str(found))
    if count > 1:
        dist.destroy_process_group()


def with_processes(count: int, dataset: Path, folder: Path, steps: int) -> float:
    """Seconds of a step of the same global batch on so many processes of one thread."""
    folder.mkdir()
    port = 29600 + os.getpid() % 300
    spawn(_rank, args=(port, count, dataset, folder, steps), nprocs=count)
    return float((folder / "seconds").read_text())


def growth(values: dict[int, list[float]]) -> float:
    """Slope of log seconds over log knob, by least squares on the medians."""
    points = [(math.log(value), math.log(statistics.median(times))) for value, times in values.items()]
    mean = [statistics.fmean(axis) for axis in zip(*points, strict=True)]
    above = sum((x - mean[0]) * (y - mean[1]) for x, y in points)
    return above / sum((x - mean[0]) ** 2 for x, _ in points)


# ---- the scoring pool beside a policy of 20 M parameters


def policy_of(parameters: float, width: int) -> VLAPolicy:
    """A native policy of about that many parameters, whose observation features have that width."""
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


def pool_against_policy(rounds: int) -> dict[str, Any]:
    """Seconds of everything that the pool does in a step, and of the policy's own step, taking turns."""
    rows, width = int(POOL["batch"]), int(POOL["width"])
    torch.manual_seed(0)
    policy = policy_of(POOL["parameters"], width)
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
    ratios = {
        f"{name} / policy": [a / b for a, b in zip(seconds[name], seconds["policy"], strict=True)]
        for name in list(seconds)[1:]
    }
    return {
        **POOL,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "seconds": {name: side(values) for name, values in seconds.items()},
        "ratios": {name: side(values) for name, values in ratios.items()},
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    seconds: dict[str, dict[int, list[float]]] = {knob: {value: [] for value in KNOBS[knob]} for knob in KNOBS}
    memory: dict[str, dict[int, list[float]]] = {knob: {value: [] for value in KNOBS[knob]} for knob in KNOBS}
    processes: dict[int, list[float]] = {count: [] for count in PROCESSES}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = record_metaworld(("reach-v3", "button-press-topdown-v3"), 12, Path(scratch) / "data", seed=0)
        for turn in range(options.rounds):
            for knob, values in KNOBS.items():
                for value in values:
                    folder = Path(scratch) / f"{knob}-{value}-{turn}"
                    found, most = forked(
                        lambda folder=folder, knob=knob, value=value: seconds_a_step(
                            dataset, folder, options.steps, **{knob: value}
                        )
                    )
                    seconds[knob][value].append(found)
                    memory[knob][value].append(most)
            for count in PROCESSES:
                folder = Path(scratch) / f"processes-{count}-{turn}"
                processes[count].append(with_processes(count, dataset, folder, options.steps))
            print(f"round {turn + 1} of {options.rounds}", flush=True)
    against = pool_against_policy(max(options.rounds, 5))
    result = {
        "what": "seconds and memory of a training step of PTR as one knob is turned, and the pool beside a policy",
        "command": f"python -m benchmarks.scaling --rounds {options.rounds} --steps {options.steps}",
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version()},
        "base": BASE,
        "knobs": {
            knob: {
                "grows": round(growth(seconds[knob]), 3),
                "seconds": {str(value): side(times) for value, times in seconds[knob].items()},
                "mebibytes": {str(value): side(sizes) for value, sizes in memory[knob].items()},
            }
            for knob in KNOBS
        },
        "processes": {
            "seconds": {str(count): side(times) for count, times in processes.items()},
            "ratios": {"2/1": side([b / a for a, b in zip(processes[1], processes[2], strict=True)])},
        },
        "pool": against,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    report(result)
    print(f"written to {RESULTS.relative_to(ROOT)}")


def report(result: dict[str, Any]) -> None:
    """How each cost grows, a line a knob."""
    for knob, found in result["knobs"].items():
        times = ", ".join(f"{value}: {each['median'] * 1e3:.1f} ms" for value, each in found["seconds"].items())
        most = ", ".join(f"{each['median']:.0f}" for each in found["mebibytes"].values())
        print(f"{knob}: {times}; grows as its power {found['grows']:.2f}; {most} MiB")
    ratio = result["processes"]["ratios"]["2/1"]
    print(f"two processes / one, same global batch: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    pool = result["pool"]
    for name, each in pool["ratios"].items():
        print(
            f"{name} of {pool['parameters'] / 1e6:.1f} M parameters, B = {pool['batch']}: "
            f"{each['median']:.2%} ({each['min']:.2%} to {each['max']:.2%}, n = {each['n']})"
        )


if __name__ == "__main__":
    main()
