"""
Behaviour cloning with the `Trainer` of transformers, the loss of each frame multiplied by its weight.

    python examples/transformers_trainer.py DATASET SCORES [OUTPUT]

Two lines make any trainer of yours a weighted one: the dataset returns the weight of the frame, and `compute_loss`
multiplies the loss per sample by it. [`hf_ptr.PTRTrainer`] does this for policies with chunks, cameras and language.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from hf_ptr import load_dataset, read_weights


class WeightedFrames(Dataset[dict[str, np.ndarray]]):
    """State, action and weight of every frame."""

    def __init__(self, dataset: str, scores: str) -> None:
        table = load_dataset(dataset)
        self.state, self.action = table.feature("observation.state"), table.feature("action")
        self.weight = read_weights(scores, table).astype(np.float32)

    def __len__(self) -> int:
        return len(self.weight)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"state": self.state[row], "labels": self.action[row], "weight": self.weight[row]}


class Policy(nn.Module):
    """Two layers from state to action."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(state_dim, 64), nn.ReLU(), nn.Linear(64, action_dim))

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        return {"action": self.layers(state)}


class WeightedTrainer(Trainer):
    """Takes the mean of the losses per sample, weighted by `weight`."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        outputs = model(state=inputs["state"])
        losses = (outputs["action"] - inputs["labels"]).abs().mean(dim=-1)
        loss = (losses * inputs["weight"]).sum() / inputs["weight"].sum().clamp_min(1e-6)
        return (loss, outputs) if return_outputs else loss


def main(dataset: str, scores: str, output: str = "runs/plain") -> WeightedTrainer:
    torch.manual_seed(0)
    frames = WeightedFrames(dataset, scores)
    arguments = TrainingArguments(
        output,
        max_steps=200,
        per_device_train_batch_size=64,
        learning_rate=1e-3,
        logging_steps=50,
        # The policy has no argument `weight`; without this the trainer would drop that column.
        remove_unused_columns=False,
        report_to=[],
    )
    trainer = WeightedTrainer(Policy(frames.state.shape[1], frames.action.shape[1]), arguments, train_dataset=frames)
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
