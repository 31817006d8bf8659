"""Means of metrics over steps: exact across a resume, whatever metrics come together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_ptr.training.step_means import StepMeans


def alone(tensor: torch.Tensor, reduction: str) -> torch.Tensor:
    assert reduction == "mean"
    return tensor


def added(means: StepMeans, steps: range) -> StepMeans:
    for step in steps:
        means.steps += 1
        means.add({"loss": torch.tensor(0.1 * step, requires_grad=True), "score": torch.tensor(1.0 / step)}, factor=2)
        # The second micro-batch has no metric of the first but one.
        means.add({"loss": torch.tensor(1e-3)})
    return means


def test_a_metric_that_comes_with_others_and_alone_is_summed() -> None:
    means = added(StepMeans(), range(1, 3)).take(alone)
    assert list(means) == ["loss", "score"]
    assert means == {"loss": pytest.approx(0.3 + 1e-3), "score": pytest.approx(1.5)}


def test_sums_are_constants_and_taking_them_starts_anew() -> None:
    means = added(StepMeans(), range(1, 3))
    assert not any(value.requires_grad for value in means.state_dict().values())
    means.take(alone)
    assert means.take(alone) == {} and means.steps == 0


def test_a_restored_mean_is_that_of_an_uninterrupted_run_to_the_bit() -> None:
    first, rest = added(StepMeans(), range(1, 8)), StepMeans()
    rest.load_state_dict(first.state_dict())
    assert added(rest, range(8, 20)).take(alone) == added(first, range(8, 20)).take(alone)


def test_checkpoints_with_a_scalar_for_each_name_are_read() -> None:
    means = StepMeans()
    state: dict[str, Any] = {"means.loss": torch.tensor(6.0), "means.score": torch.tensor(1.0), "steps": 2}
    means.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    means.steps += 1
    means.add({"loss": torch.tensor(3.0), "score": torch.tensor(2.0)})
    assert means.take(alone) == pytest.approx({"loss": 3.0, "score": 1.0})
