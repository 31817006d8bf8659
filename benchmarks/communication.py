"""Collectives of an optimiser step on two processes, by purpose: number and bytes, counted in real runs.

    python -m benchmarks.communication

SFT and PTR of the demo's policy and of a tiny PI0 with LoRA, on CPU with Gloo: DDP and FSDP2, with and without
accumulation. Every call that PyTorch dispatches to a process group is counted, with its tensors; torch's profiler
counts the same calls a second time. Writes the tables of `docs/distributed_costs.md`.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainerCallback

from benchmarks.measurement import command_parser, results_file, run, write_results
from benchmarks.ranks import results_of_ranks
from benchmarks.sharded import fsdp2
from benchmarks.tiny_pi0 import saved_pi0
from benchmarks.tiny_runs import TASKS, overrides_of, recipe_of
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.memory import kept_bytes
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.training.ptr_trainer import PTRTrainer

PROCESSES = 2
KINDS, ARMS, PARTS = (("native", "ddp"), ("native", "fsdp2"), ("pi0", "ddp")), ("sft", "ptr"), (1, 4)
# Chunks of each process in a step.
CHUNKS = 32
# The first steps of DDP differ: it arranges its buckets then. The last step is logged.
STEPS = 4
ORDINARY, LOGGED = STEPS - 1, STEPS
# The purpose of a collective by the innermost of these functions that has called it.
CALLERS = {
    "draw_negatives": "targets",
    "step_totals": "sums",
    "all_reduce_max": "stop signal",
    "_sync_buffers": "buffers",
    "foreach_all_gather": "parameters",
    "clip_grad_norm_": "gradient norm",
    "_engine_run_backward": "gradients",
    "adapt": "controller",
    "log": "metrics",
    "_nested_gather": "metrics",
}
# Functional operations that exchange nothing.
LOCAL = ("wait_", "_wrap_")
# Operations of PyTorch's profiler for one collective by Gloo.
RECORDED = "gloo:"


class Collectives(TorchDispatchMode):
    """Counts the collectives that are dispatched inside the context, by purpose and operation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            # A sharded tensor calls collectives of plain tensors.
            return NotImplemented
        name = function.__name__
        if function.namespace in ("c10d", "_c10d_functional") and not name.startswith(LOCAL):
            sent = _sent(name, args)
            key = f"{_purpose(sent)}: {name.partition('.')[0].strip('_')}"
            self.calls[key] += 1
            self.bytes[key] += sum(tensor.nbytes for tensor in sent)
        return function(*args, **(kwargs or {}))

    def take(self) -> dict[str, list[int]]:
        """Calls and bytes by purpose since the last time."""
        found = {key: [calls, self.bytes[key]] for key, calls in sorted(self.calls.items())}
        self.calls.clear()
        self.bytes.clear()
        return found


def _sent(name: str, args: Any) -> list[torch.Tensor]:
    """The tensors that this process contributes: of gathers the input, which follows the output."""
    inputs = args[1] if name.startswith(("allgather", "_allgather", "_reduce_scatter")) else args[0]
    return [each for each in tree_leaves(inputs) if isinstance(each, torch.Tensor)]


def _purpose(sent: list[torch.Tensor]) -> str:
    frame = sys._getframe(2)
    while frame is not None:
        purpose = CALLERS.get(frame.f_code.co_name)
        if purpose is not None:
            # DDP also exchanges which parameters a step has used, as integers.
            indices = purpose == "gradients" and not sent[0].is_floating_point()
            return "used parameters" if indices else purpose
        frame = frame.f_back
    return "other"


class ByStep(TrainerCallback):
    """The collectives of each step, from the end of the step before."""

    def __init__(self, collectives: Collectives) -> None:
        self.collectives = collectives
        self.found: dict[int, dict[str, list[int]]] = {}
        self.total = 0

    def take(self, step: int) -> None:
        found = self.collectives.take()
        self.total += sum(calls for calls, _ in found.values())
        self.found[step] = found

    def on_step_end(self, args, state, control, **kwargs):
        """Keeps the step; what is logged after it belongs to the next entry."""
        self.take(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        """Keeps what came after the last step."""
        self.take(LOGGED + 1)

    def logged(self) -> dict[str, list[int]]:
        """The collectives of the log after the last step, and of the controller in it."""
        both = {**self.found[LOGGED], **self.found[LOGGED + 1]}
        return {key: each for key, each in both.items() if key.startswith(("metrics", "controller"))}


def measured(policy: str, engine: str, arm: str, parts: int, scratch: Path) -> dict[str, Any]:
    """The figures of one run in this process."""
    more = {
        "per_device_train_batch_size": CHUNKS // parts,
        "gradient_accumulation_steps": parts,
        "max_steps": STEPS,
        "logging_steps": STEPS,
        "controller_steps": STEPS,
        "output_dir": scratch / "run",
    }
    settings = load_recipe(recipe_of(policy, arm), overrides_of(policy, arm, scratch, **more))
    collectives = Collectives()
    by_step = ByStep(collectives)
    with fsdp2() if engine == "fsdp2" else contextlib.nullcontext():
        trainer = build_trainer(settings)
        kept = kept_bytes(trainer.model)
        trainer.add_callback(by_step)
        # The profiler takes longer than the run: a case for each engine is enough.
        checked = arm == "ptr" and parts == 1
        profiler = profile(activities=[ProfilerActivity.CPU]) if checked else None
        with profiler or contextlib.nullcontext(), collectives:
            trainer.train()
    by_step.take(LOGGED + 2)
    recorded = None
    if profiler is not None:
        names = (event.name() for event in profiler.profiler.kineto_results.events())
        recorded = sum(1 for name in names if name.startswith(RECORDED))
    ordinary = by_step.found[ORDINARY]
    return {
        "policy": policy,
        "engine": engine,
        "arm": arm,
        "accumulation": parts,
        "step": ordinary,
        "log": by_step.logged(),
        "computed": computed_bytes(trainer, engine, parts),
        "calls": {"counted": by_step.total, "recorded": recorded},
        "held": held_bytes(trainer),
        "kept": {"parameters": kept.weights, "optimiser": kept.moments},
    }


def computed_bytes(trainer: PTRTrainer, engine: str, parts: int) -> dict[str, int]:
    """Bytes that a process should send in a step for each purpose, from the sizes of the model."""
    parameters = list(trainer.model.parameters())
    found = {
        "gradients": sum(4 * each.numel() for each in parameters if each.requires_grad),
        # Seven sums in float32, and one number of 64 bits on the host.
        "sums": 28,
        "stop signal": 8,
    }
    if engine == "fsdp2":
        # Each process sends its part once in each micro-batch.
        found["parameters"] = parts * sum(4 * each.numel() for each in parameters) // PROCESSES
    if trainer.args.with_scorer:
        # Of Meta-World.
        state = 4
        width = trainer.model.config.scorer_config.embedding_size
        # Target, state, frame, task, and whether there is a target.
        found["targets"] = CHUNKS * (4 * width + 4 * state + 8 + 8 + 1)
    return found


def local_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor in this process."""
    return tensor.to_local().nbytes if isinstance(tensor, DTensor) else tensor.nbytes


def held_bytes(trainer: PTRTrainer) -> dict[str, int]:
    """Bytes of parameters and of the optimiser in this process after the last step."""
    optimizer: Any = trainer.optimizer
    moments = [each for state in optimizer.state.values() for each in state.values() if torch.is_tensor(each)]
    return {
        "parameters": sum(local_bytes(each) for each in trainer.model.parameters()),
        "optimiser": sum(local_bytes(each) for each in moments),
    }


def main() -> None:
    parser = command_parser("communication", __doc__)
    options = parser.parse_args()
    cases = [(*kind, arm, parts) for kind, arm, parts in itertools.product(KINDS, ARMS, PARTS)]
    cases.append(("pi0_lora", "ddp", "ptr", 1))
    if options.small:
        cases = [("native", "ddp", "ptr", 4), ("native", "fsdp2", "ptr", 1), ("pi0", "ddp", "ptr", 1)]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        record_metaworld(TASKS, 2, scratch / "data", seed=0, workers=1, pixels=64)
        saved_pi0(scratch / "pi0")

        def runs() -> list[dict[str, Any]]:
            return [measured(*case, scratch) for case in cases]

        ranks = results_of_ranks(runs, PROCESSES, scratch)
    # Both processes send the same.
    for first, second in zip(*ranks, strict=True):
        if (first["step"], first["log"]) != (second["step"], second["log"]):
            sys.exit(f"the processes differ: {first['step']} and {second['step']}")
    result = {
        "what": "collectives of an optimiser step on two processes: calls, and bytes that each process sends",
        "command": "python -m benchmarks.communication",
        "processes": PROCESSES,
        "chunks": CHUNKS,
        "runs": ranks[0],
    }
    for found in ranks[0]:
        calls, size = (sum(each[place] for each in found["step"].values()) for place in range(2))
        case = " ".join(str(found[key]) for key in ("policy", "engine", "arm", "accumulation"))
        print(f"{case}: {calls} collectives, {size:,} bytes a step; {found['calls']}", flush=True)
    write_results(result, results_file("communication", options.small))


if __name__ == "__main__":
    run("benchmarks.communication", main)
