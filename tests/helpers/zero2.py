"""Run by test_deepspeed.py under torchrun: a step of DeepSpeed ZeRO 2 on two CPU processes, and a resumed run."""

from __future__ import annotations

import faulthandler
import json
import sys
from pathlib import Path

import exact_cases as cases
import torch
from trainer_helpers import make

from benchmarks.sharded import ZERO2

CASES = ("sft", "belief", "ptr", "lora")


def main() -> None:
    # The first use builds DeepSpeed's operators.
    faulthandler.dump_traceback_later(900, exit=True)
    dataset, folder = Path(sys.argv[1]), Path(sys.argv[2])
    logs = {}
    for case in CASES:
        trainer, _ = cases.trained(case, dataset, folder / case, batch=4, parts=2, deepspeed=ZERO2)
        logs[case] = cases.losses_of(trainer)
    settings = {"use_cpu": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 3, "deepspeed": ZERO2}
    straight = make(dataset, folder / "run", **settings)
    straight.train()
    resumed = make(dataset, folder / "run", **settings)
    resumed.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-3"))
    states = (straight.model.state_dict(), resumed.model.state_dict())
    result = {
        "engine": type(straight.model_wrapped).__name__,
        "processes": straight.args.world_size,
        "logs": logs,
        "same_weights": all(torch.equal(states[0][name], states[1][name]) for name in states[0]),
    }
    (folder / f"rank{straight.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
