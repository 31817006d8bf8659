"""Small networks that peers train on the data which they score: inputs, training and evaluation in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from hf_ptr.data.episodes import EpisodeTable

# Frames of an action chunk.
CHUNK = 16
WIDTH, STEPS, BATCH, LEARNING_RATE = 128, 1500, 256, 1e-3


def standardized(table: EpisodeTable, features: Sequence[str]) -> np.ndarray:
    """`(F, d)` float32: concatenated features in standard deviations, clipped at ±10; constant dimensions are 0."""
    columns = np.concatenate([table.feature(name) for name in features], axis=1).astype(np.float64)
    mean, std = columns.mean(axis=0), columns.std(axis=0)
    constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
    scaled = np.where(constant, 0.0, (columns - mean) / np.where(constant, 1.0, std))
    return scaled.clip(-10.0, 10.0).astype(np.float32)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """A network with two hidden layers of `WIDTH`, from `(N, inputs)` to `(N, outputs)`."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, outputs)
    )


def fit(
    module: nn.Module,
    predict: Callable[..., torch.Tensor],
    batches: Iterable[tuple[torch.Tensor | np.ndarray, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """One pass of AdamW over `batches` of (input of `predict`, labels), with the learning rate decaying to zero."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    for given, label in batches:
        optimizer.zero_grad()
        loss(predict(given), label).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def in_blocks(predict: Callable[[np.ndarray], torch.Tensor], rows: np.ndarray) -> torch.Tensor:
    """`predict` for all rows, in blocks of a few thousand, so that memory does not grow with the table."""
    return torch.cat([predict(block) for block in np.array_split(rows, len(rows) // 4096 + 1)])
