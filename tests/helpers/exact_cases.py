"""Runs whose steps must not depend on the division of chunks into micro-batches and processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from trainer_helpers import BELIEF, SFT, make
from transformers import TrainerCallback

from hf_ptr import PTRTrainer, TransitionScorer
from hf_ptr.data.score_file import score_file_keys
from hf_ptr.detection.detect import Detection
from hf_ptr.policies import action_loss
from hf_ptr.policies.vla import heads, modeling_vla
from hf_ptr.training import calibrated_weights as calibrating

WEIGHTS = "weights"
CASES: dict[str, dict[str, Any]] = {
    "sft": SFT,
    "belief": BELIEF,
    "ptr": {"hard_negatives": "state"},
    "ptr_without_belief": {"belief_tokens": 0, "discount": 0.5, "discount_weight": True},
    "per_step": {"belief_tokens": 0, "loss_unit": "step", "missing_target_weight": "mean"},
    "noised_features": {"belief_tokens": 0, "policy_settings": {"pooled_actions": "noised"}},
    WEIGHTS: SFT,
    "calibrated": {"scoring": "calibrated"},
    "lora": {"peft_config": LoraConfig(r=4, target_modules="all-linear", lora_alpha=8)},
}
STEPS, BATCH, BLOCK = 2, 16, 4
LIMIT = 0.05


def uneven(frames: int) -> np.ndarray:
    """Weights between 0 and 20, most of them small."""
    return np.random.default_rng(3).random(frames) ** 6 * 20.0


class Fitted:
    """Weights for tests that do not fit a score."""

    def __init__(self, chunks: Any) -> None:
        self.table = chunks.table

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({**score_file_keys(self.table), "weight": uneven(self.table.num_frames)})


def fitted(chunks: Any, *_: Any, **__: Any) -> tuple[Fitted, Detection]:
    """Weights and no findings."""
    return Fitted(chunks), Detection((), None, {}, np.zeros(chunks.table.num_episodes), ())


@contextlib.contextmanager
def alike() -> Iterator[None]:
    """Noise and mismatched actions depend on the sample alone, not on its micro-batch."""
    forward, content = modeling_vla.VLAPolicy.forward, []

    class OfTheSample:
        def __init__(self, *_: Any, **__: Any):
            pass

        def sample(self, shape: tuple[int]) -> torch.Tensor:
            assert shape == content[0].shape
            return 0.5 + 0.4 * content[0].sin()

    def spied(policy: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        content[:] = [(batch["state"] * 1e3).sum(dim=1)]
        return forward(policy, batch, *args, **kwargs)

    def blocks(scorer: TransitionScorer, context: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rolled = torch.cat([block.roll(1, dims=0) for block in action.split(BLOCK)])
        return scorer(context, action), scorer(context, rolled)

    with (
        mock.patch.object(action_loss, "Beta", OfTheSample),
        mock.patch.object(heads.torch, "randn_like", lambda clean: (clean * 50.0 + 1.0).sin()),
        mock.patch.object(modeling_vla.VLAPolicy, "forward", spied),
        mock.patch.object(TransitionScorer, "with_permuted", blocks),
        mock.patch.object(calibrating, "detected_scores", fitted),
    ):
        yield


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of one that may be sharded over the ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def target_of(trainer: PTRTrainer) -> dict[str, torch.Tensor]:
    """The EMA target; empty without a scorer."""
    encoder = trainer.model.target_encoder
    return {} if encoder is None else {f"target.{n}": whole(t).clone() for n, t in encoder.state_dict().items()}


class Keep(TrainerCallback):
    """The gradients as the optimiser gets them: clipped."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.found[f"{state.global_step}.{name}"] = whole(parameter.grad).clone()


def trained(
    case: str, dataset: Path, folder: Path, *, batch: int, parts: int, steps: int = STEPS, **changes: Any
) -> tuple[PTRTrainer, dict[str, torch.Tensor]]:
    """The trainer after a few steps, with the gradients of each, and the EMA target."""
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": parts,
        "max_grad_norm": LIMIT,
        "nce_warmup_steps": 0,
        # The whole queue is drawn, because ranks fill it in another order than one process.
        "queue_size": BATCH,
        "queue_negatives": BATCH,
        "beta": 0.5,
        "target_decay": 0.5,
        "use_cpu": True,
        **CASES[case],
        **changes,
    }
    # Calibrated weights are fitted when the trainer is made.
    with mock.patch.object(calibrating, "detected_scores", fitted):
        trainer = make(dataset, folder, **settings)
    if case == WEIGHTS:
        trainer.train_dataset = trainer.train_dataset.with_weights(uneven(trainer.train_dataset.table.num_frames))
    keep = Keep()
    trainer.add_callback(keep)
    with alike():
        trainer.train()
    return trainer, {**keep.found, **target_of(trainer)}


def losses_of(trainer: PTRTrainer) -> list[dict[str, float]]:
    """The logged metrics of each step, without times and rates."""
    excluded = {"epoch", "step", "learning_rate"}
    return [
        {name: value for name, value in entry.items() if name not in excluded}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and len(found) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6, msg=lambda text, name=name: name + text)


def assert_same_log(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-6)
        # The test is meaningful only with clipped gradients and unequal weights.
        assert mine["grad_norm"] > 2 * LIMIT
        assert mine.get("weight_std", 1.0) > 0.05
