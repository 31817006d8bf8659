"""Memory of training runs against the estimate that `hf-ptr train --dry-run` prints.

    python -m benchmarks.step_memory

Each run is a process of its own. Its peak of resident memory during training, above the level before training, is
compared with the estimate without the weights, which exist before. The weights of both are added. Writes a table of
`docs/distributed_costs.md`.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import process_memory
from benchmarks.measurement import command_parser, results_file, run, write_results
from benchmarks.ranks import results_of_ranks
from benchmarks.tiny_pi0 import saved_pi0
from benchmarks.tiny_runs import TASKS, overrides_of, recipe_of
from benchmarks.training_costs import fill_costs
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.memory import kept_bytes, step_bytes
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.training.ptr_trainer import PTRTrainer
from hf_ptr.utils.malloc import return_freed_memory

# Policy, arm, chunks of a micro-batch, micro-batches of a step.
# So many that the tens of megabytes of the process itself, which grow with nothing, are a small share.
RUNS = (("native", "sft", 1024, 1), ("native", "ptr", 1024, 1), ("native", "ptr", 512, 2), ("pi0", "ptr", 1024, 1))
SMALL_RUNS = (("native", "ptr", 64, 1),)
STEPS = 2


def measured(policy: str, arm: str, chunks: int, parts: int, scratch: Path) -> dict[str, Any]:
    """Bytes of a run in this process: measured, and estimated beforehand."""

    def made(rows: int, micro_batches: int) -> PTRTrainer:
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}
        overrides = overrides_of(policy, arm, scratch, max_steps=STEPS, output_dir=scratch / "run", **settings)
        return build_trainer(load_recipe(recipe_of(policy, arm), overrides))

    # Otherwise glibc keeps what the steps free, and the figure is that of its fragments.
    return_freed_memory()
    # What the first run of a process loads is no part of a step.
    first = made(2, 1)
    first.train()
    del first
    trainer = made(chunks, parts)
    few = trainer.data_collator(trainer.train_dataset.__getitems__([0, 1]))
    kept, step = kept_bytes(trainer.model), step_bytes(trainer.model, few, chunks, parts)
    assert step is not None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = process_memory.resident()
    process_memory.reset_peak()
    trainer.train()
    return {
        "policy": policy,
        "arm": arm,
        "chunks": chunks,
        "micro_batches": parts,
        "estimated": kept.weights + kept.moments + step,
        "measured": kept.weights + process_memory.peak() - before,
    }


def main() -> None:
    parser = command_parser("step_memory", __doc__)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        # About 1,400 chunks.
        record_metaworld(TASKS, 2 if options.small else 12, scratch / "data", seed=0, workers=1, pixels=64)
        saved_pi0(scratch / "pi0")
        for case in SMALL_RUNS if options.small else RUNS:
            (figures,) = results_of_ranks(lambda case=case: measured(*case, scratch), 1, scratch)
            found.append({**figures, "ratio": round(figures["estimated"] / figures["measured"], 3)})
            print(found[-1], flush=True)
    result = {
        "what": "bytes of a training process above its level before training, and the estimate of a dry run",
        "command": "python -m benchmarks.step_memory",
        "runs": found,
    }
    write_results(result, results_file("step_memory", options.small))
    if not options.small:
        fill_costs()


if __name__ == "__main__":
    run("benchmarks.step_memory", main)
