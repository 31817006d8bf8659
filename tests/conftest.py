"""Fixtures that several test files share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

# Before huggingface_hub is imported, which reads them once: every test has this Hub and no other, and an empty cache.
HUB = HubServer()
HOME = tempfile.TemporaryDirectory(prefix="hf-ptr-tests-")
os.environ.update(HF_ENDPOINT=HUB.url, HF_HUB_DISABLE_XET="1", HF_HOME=HOME.name)
os.environ.pop("HF_TOKEN", None)

from hf_ptr.data.recording import record_metaworld  # noqa: E402 (the Hub must be set first)

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
