"""Modules of `packages/lerobot_policy_hf_ptr` that need no LeRobot, and weight files for them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

PLUGIN = Path(__file__).resolve().parents[2] / "packages" / "lerobot_policy_hf_ptr"


def plugin_module(name: str) -> ModuleType:
    """One module by itself: the package extends LeRobot when it is imported."""
    full = f"plugin_{name}"
    spec = importlib.util.spec_from_file_location(full, PLUGIN / "src" / PLUGIN.name / f"{name}.py")
    assert spec is not None and spec.loader is not None
    sys.modules[full] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weight_rows(frames: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """A weight between 0 and 4 for each frame, in another order than the frames."""
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"index": np.arange(frames), "weight": random.uniform(0, 4, frames), **columns})
    return rows.sample(frac=1, random_state=seed)
