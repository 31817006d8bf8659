"""Run by test_trainer.py under torchrun: a few steps of PTR on two CPU processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_trainer import history, make


def main() -> None:
    dataset, folder = Path(sys.argv[1]), Path(sys.argv[2])
    trainer = make(dataset, folder / "run", use_cpu=True)
    seen: list[int] = []
    compute = trainer.compute_loss

    def spy(model, inputs, **kwargs):
        seen.extend(inputs["target_index"][inputs["next_valid"]].tolist())
        return compute(model, inputs, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    rank = trainer.args.process_index
    save_file(trainer.objective.pool.state_dict(), folder / f"queue{rank}.safetensors")
    result = {
        "world_size": trainer.args.world_size,
        "seen": seen,
        "losses": history(trainer, "loss"),
        "checksum": sum(float(parameter.double().sum()) for parameter in trainer.model.parameters()),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
