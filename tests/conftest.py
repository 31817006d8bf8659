"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

# First: huggingface_hub reads its settings when it is imported.
from local_hub import HUB, HubServer  # isort: skip

from hf_ptr.envs.recording import record_metaworld

TASKS = ("reach-v3", "button-press-topdown-v3")


@pytest.fixture(scope="session")
def metaworld_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real demonstrations of each of two Meta-World tasks."""
    return record_metaworld(TASKS, 4, tmp_path_factory.mktemp("metaworld") / "data", seed=0, workers=1)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The Hub, empty, without anybody logged in."""
    HUB.reset()
    yield HUB
    HUB.let_go.set()
    HUB.reset()


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> HubServer:
    """The Hub, empty, with alice logged in."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    return hub
