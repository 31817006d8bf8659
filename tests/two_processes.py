"""Run by test_trainer.py under torchrun: a few steps of PTR, and of calibrated weights, on two CPU processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_trainer import history, make

from hf_ptr import PTRTrainer
from hf_ptr.scoring import fitting


def checksum(trainer: PTRTrainer) -> float:
    """Tells models apart."""
    return sum(float(parameter.double().sum()) for parameter in trainer.model.parameters())


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
    fitting.fit_scores.__kwdefaults__["steps"] = 30
    calibrated = make(dataset, folder / "calibrated", use_cpu=True, scoring="calibrated", belief_tokens=0)
    calibrated.train()
    result = {
        "weights": calibrated.train_dataset.weights.tolist(),
        "calibrated_losses": history(calibrated, "loss"),
        "calibrated_checksum": checksum(calibrated),
        "world_size": trainer.args.world_size,
        "seen": seen,
        "losses": history(trainer, "loss"),
        "checksum": checksum(trainer),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
