"""The `evaluate` modules: loaded without network, and equal to the statistics of trainer and command line."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from hub_server import HubServer
from model_helpers import losses_of, tiny_batch, tiny_model, trainer_of

from hf_ptr import functional as F
from hf_ptr.errors import InputError
from hf_ptr.metrics import METRICS, metric_folder
from hf_ptr.metrics.success import SuccessRate
from hf_ptr.training.micro_batches import candidates_of


def compute(name: str, **given: Any) -> dict[str, Any]:
    return evaluate.load(metric_folder(name)).compute(**given)


def test_every_metric_loads_without_a_hub_request(hub: HubServer) -> None:
    for name in METRICS:
        metric = evaluate.load(metric_folder(name))
        assert metric.name == name and metric.description and metric.inputs_description
    assert hub.requests == []


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'auroc'"):
        metric_folder("auroc_")


def test_identification_accuracy_equals_the_logged_metric() -> None:
    model, batch = tiny_model(), tiny_batch(24)
    trainer = trainer_of(model)
    losses_of(model, batch, trainer)
    # The queue changes with every step: its state before the one that is looked at.
    before = trainer.identification.pool.state_dict()
    losses = losses_of(model, batch, trainer)
    logged = losses.metrics["nce_acc"]
    trainer.identification.pool.load_state_dict(before)
    candidates = candidates_of(model.adapter, batch, losses.output)
    (negatives,) = trainer.identification.draw_negatives([candidates], step=0)
    logits, _ = trainer.identification.logits(losses.output, negatives)
    logits = logits[batch["has_target"]].detach()
    result = compute("identification_accuracy", predictions=logits.numpy(), references=[0] * len(logits))
    assert result["identification_accuracy"] == pytest.approx(float(logged)) and 0 < float(logged) < 1
    assert result["chance"] == 1 / logits.shape[1]


def test_the_match_may_be_in_any_column() -> None:
    logits = [[1.0, 2.0, 0.0], [3.0, 2.0, 1.0], [0.0, 1.0, 5.0], [2.0, 2.0, 1.0]]
    result = compute("identification_accuracy", predictions=logits, references=[1, 0, 0, 0])
    assert result["identification_accuracy"] == 0.5


def test_success_rate_equals_that_of_the_command_line() -> None:
    solved = [True] * 43 + [False] * 57
    result = compute("success_rate", predictions=solved)
    assert result == SuccessRate(43, 100).to_dict() and result["interval"][0] == pytest.approx(0.3373, abs=1e-3)


def test_effective_sample_size() -> None:
    result = compute("effective_sample_size", predictions=[1.0, 1.0, 2.0, 0.0])
    assert result == {"effective_sample_size": pytest.approx(16 / 6), "share": pytest.approx(4 / 6)}
    assert float(F.effective_sample_size(torch.tensor([1.0, 1.0, 2.0, 0.0]))) == pytest.approx(16 / 6)


def test_auroc() -> None:
    assert compute("auroc", predictions=[0.9, 0.8, 0.3, 0.8], references=[1, 1, 0, 0])["auroc"] == 0.875
    assert compute("auroc", predictions=[0.9], references=[1])["auroc"] is None


def test_action_mse() -> None:
    rng = np.random.default_rng(0)
    actions, recorded = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    result = compute("action_mse", predictions=actions, references=recorded)["action_mse"]
    assert result == pytest.approx(np.square(actions - recorded).mean(), rel=1e-6)
    with pytest.raises(ValueError, match="must have equal shapes"):
        compute("action_mse", predictions=[[1.0, 2.0]], references=[[1.0]])
