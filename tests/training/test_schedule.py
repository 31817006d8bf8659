"""A short run with `schedule: scaled` passes through the regime of the published 60,000 steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import history, make

from hf_ptr import PTRConfig
from hf_ptr.ptr import AdaptiveScaleController
from hf_ptr.training.time_constants import PUBLISHED_STEPS, TimeConstants

PUBLISHED = {"target_decay": 0.999, "nce_warmup_steps": 3000, "controller_steps": 50}


def settings(folder: Path, **given: Any) -> PTRConfig:
    return PTRConfig(output_dir=str(folder), use_cpu=True, report_to="none", **given)


@pytest.mark.parametrize("schedule", ["published", "scaled"])
def test_the_published_run_has_the_published_constants(schedule: str) -> None:
    found = TimeConstants.of(schedule, PUBLISHED_STEPS, **PUBLISHED)
    assert found == TimeConstants(0.999, 3000, 50, 1.0)


@pytest.mark.parametrize("steps", [12, 600, 2500, 30_000, 120_000])
def test_totals_over_a_scaled_run_are_those_of_the_published_run(steps: int) -> None:
    found = TimeConstants.of("scaled", steps, **PUBLISHED)
    # The share of the initial weights in the target encoder at the end.
    assert found.target_decay**steps == pytest.approx(0.999**PUBLISHED_STEPS, rel=1e-6)
    assert found.controller_steps >= 1
    updates = steps / found.controller_steps
    assert updates * found.controller_stride == pytest.approx(PUBLISHED_STEPS / 50)
    assert 0 <= found.nce_warmup_steps - steps / 20 < 1


def test_the_warm_ups_are_scaled_and_shares_stay_shares(tmp_path: Path) -> None:
    given = settings(tmp_path, max_steps=2500, schedule="scaled")
    assert (given.time_constants.nce_warmup_steps, given.get_warmup_steps(2500)) == (125, 84)
    share = settings(tmp_path, max_steps=2500, schedule="scaled", warmup_steps=0.04)
    assert share.get_warmup_steps(2500) == 100
    plain = settings(tmp_path, max_steps=2500)
    assert (plain.time_constants.nce_warmup_steps, plain.get_warmup_steps(2500)) == (3000, 2000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "scaled", "max_steps": -1}, "schedule is scaled, which needs the number of steps"),
        ({"schedule": "short"}, "schedule is 'short'; known: published, scaled"),
        ({"controller_steps": 0}, "controller_steps is 0; it must be an integer of at least 1"),
        ({"controller_steps": 1.5}, "controller_steps is 1.5; it must be an integer of at least 1"),
    ],
)
def test_unusable_values_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **given)


def reached(schedule: str, steps: int) -> AdaptiveScaleController:
    """The controller at the end of a run in which the match is always identified, by a wide margin."""
    constants = TimeConstants.of(schedule, steps, **PUBLISHED)
    controller = AdaptiveScaleController(stride=constants.controller_stride)
    for _ in range(steps // constants.controller_steps):
        controller.update(accuracy=0.9, margin=2.0, score=3.0, valid_ratio=1.0)
    return controller


def test_the_scales_reach_the_ends_of_the_published_run() -> None:
    published, scaled, short = reached("published", 60_000), reached("scaled", 2500), reached("published", 2500)
    assert (published.temperature, published.beta) == (0.03, 0.5)
    assert (scaled.temperature, scaled.beta) == (0.03, 0.5)
    # Fifty updates by a factor of 0.995 are the most that 2,500 steps of the published schedule can make.
    assert short.temperature == pytest.approx(0.12 * 0.995**50)


def test_the_scales_are_those_of_the_published_run_on_the_way() -> None:
    # An eighth of either run: 150 published updates.
    published = reached("published", 7500)
    constants = TimeConstants.of("scaled", 2400, **PUBLISHED)
    scaled = AdaptiveScaleController(stride=constants.controller_stride)
    for _ in range(300 // constants.controller_steps):
        scaled.update(accuracy=0.9, margin=2.0, score=3.0, valid_ratio=1.0)
    assert scaled.temperature == pytest.approx(published.temperature) == pytest.approx(0.12 * 0.995**150)
    assert scaled.beta == pytest.approx(published.beta)


@pytest.mark.parametrize(("schedule", "share"), [("scaled", 0.99999**60_000), ("published", 0.99999**12)])
def test_the_target_encoder_keeps_the_published_share_of_its_initial_weights(
    schedule: str, share: float, metaworld_dataset: Path, tmp_path: Path
) -> None:
    trainer = make(
        metaworld_dataset, tmp_path, max_steps=12, learning_rate=0.0, target_decay=0.99999, schedule=schedule
    )
    encoder, tower = trainer.model.target_encoder, trainer.model.adapter.observation_tower()
    assert encoder is not None
    with torch.no_grad():
        for parameter in encoder.tower.parameters():
            parameter.add_(1.0)
    trainer.train()
    # The policy stands still, so what is left of the added 1 is the share of the initial weights.
    for mine, theirs in zip(encoder.tower.parameters(), tower.parameters(), strict=True):
        torch.testing.assert_close(mine - theirs, torch.full_like(mine, share), rtol=0, atol=1e-4)


@pytest.mark.parametrize("logging_steps", [1, 3, 100])
def test_the_controller_does_not_depend_on_what_is_logged(
    logging_steps: int, metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(metaworld_dataset, tmp_path, max_steps=6, logging_steps=logging_steps, controller_steps=2)
    seen: list[tuple[int, float]] = []
    update = type(trainer.identification.controller).update

    def spied(controller: AdaptiveScaleController, **means: float) -> None:
        seen.append((trainer.state.global_step, means["score"]))
        update(controller, **means)

    monkeypatch.setattr(AdaptiveScaleController, "update", spied)
    trainer.train()
    assert [step for step, _ in seen] == [2, 4, 6]
    if logging_steps == 1:
        logged = history(trainer, "ptr_score")
        for step, score in seen:
            assert score == pytest.approx(sum(logged[step - 2 : step]) / 2, abs=1e-6)
