"""The state of training in files without pickles: restored to the bit, and refused if it is damaged."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainer_helpers import SFT, make

from hf_ptr.errors import InputError
from hf_ptr.training.training_state import (
    load_content,
    load_progress,
    load_random_state,
    save_content,
    save_progress,
    save_random_state,
)

CPU = torch.device("cpu")


def assert_same(left: Any, right: Any) -> None:
    """The same values in the same types, to the bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for mine, other in zip(left, right, strict=True):
            assert_same(mine, other)
    else:
        assert left == right


def test_content_is_restored(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    content = {
        "state": {0: {"step": torch.tensor(3.0)}, 10: {"step": torch.tensor(3.0)}, "0": None},
        "a.b": shared,
        "a": {"b": shared.T},
        "groups": [{"betas": (0.9, 0.999), "lr": 1e-4, "fused": None, "params": [0, 10]}, {}],
        "best": float("inf"),
        "flag": True,
        "empty": (torch.empty(0), [], ()),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "view": shared[1],
    }
    save_content(content, tmp_path / "file.safetensors")
    assert_same(load_content(tmp_path / "file.safetensors"), content)


def test_content_that_needs_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has a set at state\.0\.seen, which cannot be saved without a pickle"):
        save_content({"state": {0: {"seen": {1}}}}, tmp_path / "file.safetensors")
    assert not (tmp_path / "file.safetensors").exists()
    for content in (b"", b"\x80\x04K\x01.", b"PK\x03\x04"):
        (tmp_path / "file.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"file\.safetensors is missing or damaged"):
            load_content(tmp_path / "file.safetensors")
    with pytest.raises(InputError, match=r"none\.safetensors is missing or damaged"):
        load_content(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.AdamW, {"lr": 0.1, "foreach": True}),
        (torch.optim.AdamW, {"lr": torch.tensor(0.1), "amsgrad": True, "capturable": False, "foreach": False}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adafactor, {"lr": 0.1}),
    ],
    ids=["adamw", "amsgrad", "sgd", "adafactor"],
)
def test_an_optimiser_and_its_schedule_resume_to_the_bit(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    def made() -> tuple[nn.Module, Any, Any]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = kind(model.parameters(), **copy.deepcopy(settings))
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)

    def step(model: nn.Module, optimizer: Any, scheduler: Any) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        scheduler.step()

    uninterrupted, interrupted = made(), made()
    for _ in range(3):
        step(*uninterrupted)
        step(*interrupted)
    save_progress(tmp_path, interrupted[1], interrupted[2])
    resumed = made()
    resumed[0].load_state_dict(interrupted[0].state_dict())
    load_progress(tmp_path, resumed[1], resumed[2])
    assert_same(resumed[2].state_dict(), uninterrupted[2].state_dict())
    for _ in range(3):
        step(*uninterrupted)
        step(*resumed)
    assert_same(dict(resumed[0].state_dict()), dict(uninterrupted[0].state_dict()))


def test_all_random_states_resume(tmp_path: Path) -> None:
    def draw() -> list[Any]:
        return [random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), np.random.randn(), torch.rand(3)]

    # Python and NumPy keep a second normal number for the next call.
    draw()
    save_random_state(tmp_path, 3, CPU)
    expected = draw()
    draw()
    load_random_state(tmp_path, 3, CPU)
    assert_same(draw(), expected)
    assert (tmp_path / "rng_state_3.safetensors").is_file()


@pytest.fixture(scope="module")
def checkpoint(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumable")
    trainer = make(metaworld_dataset, folder, save_strategy="steps", save_steps=2, max_steps=2, **SFT)
    trainer.train()
    return folder / "checkpoint-2"


def test_a_checkpoint_contains_no_pickle(checkpoint: Path) -> None:
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    # The first bytes of a pickle, and of a file of torch.save.
    assert not any(path.read_bytes()[:2].startswith((b"\x80", b"PK")) for path in files)
    assert {"optimizer.safetensors", "scheduler.safetensors", "rng_state.safetensors"} < {path.name for path in files}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "optimizer.pt").touch(), r"contains optimizer\.pt, a pickle, which hf-ptr neither"),
        (lambda folder: (folder / "rng_state.pth").touch(), r"contains rng_state\.pth, a pickle"),
        (lambda folder: (folder / "scheduler.safetensors").unlink(), r"has no scheduler\.safetensors: it was saved w"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), r"optimizer\.safetensors is missing or damaged"),
        (lambda folder: (folder / "rng_state.safetensors").write_bytes(b"0"), r"rng_state\.safetensors is missing or"),
        (lambda folder: shutil.rmtree(folder), "is neither a folder nor a repo id on the Hub"),
    ],
    ids=["optimizer.pt", "rng_state.pth", "save_only_model", "no optimizer", "damaged", "missing"],
)
def test_a_checkpoint_that_cannot_be_resumed_is_refused(
    change: Any, message: str, checkpoint: Path, metaworld_dataset: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    change(folder)
    trainer = make(metaworld_dataset, tmp_path, max_steps=4, **SFT)
    with pytest.raises(InputError, match=message) as caught:
        trainer.train(resume_from_checkpoint=str(folder))
    assert "\n" not in str(caught.value)
