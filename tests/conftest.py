"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_ptr.data.recording import record_metaworld

TASKS = ("reach-v3", "button-press-topdown-v3")


@pytest.fixture(scope="session")
def metaworld_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real demonstrations of each of two Meta-World tasks."""
    return record_metaworld(TASKS, 4, tmp_path_factory.mktemp("metaworld") / "data", seed=0, workers=1)
