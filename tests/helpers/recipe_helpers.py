"""Shared by the tests: recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def recipe(folder: Path, dataset: Path, **settings: Any) -> Path:
    lines = {
        "dataset": dataset,
        "observation_features": "[observation.environment_state]",
        "max_steps": 3,
        "per_device_train_batch_size": 16,
        "warmup_steps": 1,
        "logging_steps": 1,
        "save_strategy": "'no'",
        "alpha": 0.0,
        "belief_tokens": 0,
        "expert_size": 16,
        **settings,
    }
    path = folder / "recipe.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path
