"""The configuration of the label-free score: values out of range are refused in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hf_ptr.errors import InputError
from hf_ptr.scoring.config import CHECKS, ScoreConfig, frames_at, parse_settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"width": 0.0}, "width is 0.0; it must be above 0"),
        ({"width": "x"}, "width is 'x'; it must be a number"),
        ({"guard": -1}, "guard is -1; it must be at least 0"),
        ({"own_share": 1.5}, "own_share is 1.5; it must be at most 1"),
        ({"w_min": 5.0}, "w_min 5.0 is above w_max 4.0"),
        ({"full_reliability": 1.5}, "full_reliability is 1.5; it must be at most 1"),
        ({"min_std": -0.1}, "min_std is -0.1; it must be at least 0"),
        ({"cross_fit": 1}, "cross_fit is 1; it must be true or false"),
        ({"checks": ("action",)}, "'action' is not a check; choose from"),
        ({"checks": ()}, "it must be a list with at least one value"),
        ({"shifts": (-4, 0, 4)}, "leave out 0"),
        ({"planted_shift": (8, 4)}, "write the least and the most frames"),
        ({"folds": 1}, "folds is 1; it must be at least 2"),
        ({"min_episodes": 3}, "min_episodes is 3; it must be at least 4"),
        ({"seed": 2**32}, "it must be below 2**32"),
        ({"final_learning_rate": 2.0}, "final_learning_rate is 2.0; it must be at most 1"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be finite"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; it must be at least 0"),
        ({"shifts": ("4", 8)}, "shifts contains '4'; it must be a list of whole numbers"),
        ({"shifts": (True, 8)}, "shifts contains True; it must be a list of whole numbers"),
        ({"shifts": (4, 8, 4)}, "shifts contains 4 twice; keep one"),
        ({"planted_shift": [4.5, 8.2]}, "planted_shift contains 4.5; it must be a list of whole numbers"),
        ({"vision_model": 5}, "vision_model is 5; it must be a name"),
        ({"image_side": 0}, "image_side is 0; it must be at least 1"),
        ({"checks": (1,)}, "checks contains 1; it must be a list of names"),
        ({"checks": ("action/pool", "action/pool")}, "checks contains 'action/pool' twice; keep one"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ScoreConfig(**changes)
    assert message in str(caught.value)


def test_a_config_is_frozen_and_equal_by_value() -> None:
    config = ScoreConfig(shifts=[-4, 4])  # type: ignore[arg-type]  # as YAML has it
    assert config == ScoreConfig(shifts=(-4, 4)) != ScoreConfig() and config.checks == CHECKS
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rounds = 3  # type: ignore[misc]  # what is refused


def test_settings_are_yaml_values_of_known_fields() -> None:
    texts = ["rounds=1", "cross_fit=false", "checks=[action/pool]", "w_max=2", "learning_rate=1e-3"]
    settings = parse_settings(texts, {})
    assert settings == {
        "rounds": 1, "cross_fit": False, "checks": ["action/pool"], "w_max": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    assert ScoreConfig(**settings).checks == ("action/pool",)


def test_a_field_that_another_option_sets_is_refused() -> None:
    with pytest.raises(InputError, match=r"'seed=5' is not a setting here; use --seed$"):
        parse_settings(["rounds=1", "seed=5"], {"seed": "--seed"})


@pytest.mark.parametrize(
    ("fps", "shifts"),
    [
        # The tuned rates, and what lies between them.
        (30.0, (-16, -12, -10, -8, -6, -4, 4, 6, 8, 10, 12, 16)),
        (50.0, (-16, -12, -10, -8, -6, -4, 4, 6, 8, 10, 12, 16)),
        (80.0, (-16, -12, -10, -8, -6, -4, 4, 6, 8, 10, 12, 16)),
        # As many seconds as at 30, and at 80, frames a second.
        (15.0, (-8, -6, -5, -4, -3, -2, 2, 3, 4, 5, 6, 8)),
        (160.0, (-32, -24, -20, -16, -12, -8, 8, 12, 16, 20, 24, 32)),
        # No shift twice, and none of 0.
        (5.0, (-3, -2, -1, 1, 2, 3)),
    ],
)
def test_frames_follow_the_frame_rate_outside_the_tuned_rates(fps: float, shifts: tuple[int, ...]) -> None:
    config = ScoreConfig().at_rate(fps)
    assert config.shifts == shifts
    assert config.guard == min(abs(shift) for shift in shifts)
    assert config.planted_shift == (config.guard, frames_at(fps, 8))
    # Converted once, where the rate is known.
    assert ScoreConfig(guard=0).at_rate(fps).guard == 0


@pytest.mark.parametrize(("chunks", "steps"), [(100, 120), (30_720, 120), (51_200, 200), (10_000_000, 480)])
def test_steps_follow_the_size_of_the_data_within_bounds(chunks: int, steps: int) -> None:
    assert ScoreConfig().training_steps(chunks) == steps
    assert ScoreConfig(steps=3, max_steps=3).training_steps(chunks) == 3
