"""Strict loading: damaged, pickled and newer checkpoints are refused by every loader, with the name of the error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_helpers import tiny_config, tiny_model, tiny_policy
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from hf_ptr import PTRModel, VLAPolicy, __version__
from hf_ptr.errors import InputError
from hf_ptr.utils.pickle_guard import refuse_pickles

PARTS = ("", "scorer", "belief_tokenizer", "target_encoder")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_model().save_pretrained(folder)
    return folder


def tampered(saved: Path, folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    shutil.copytree(saved, folder)
    file = folder / part / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})
    return folder


def loaders(folder: Path, part: str) -> list[Callable[[], object]]:
    """Every loader of a part: with the whole model, and on its own."""
    ways: list[Callable[[], object]] = [lambda: PTRModel.from_pretrained(folder)]
    if part in ("scorer", "belief_tokenizer"):
        ways.append(lambda: AutoModel.from_pretrained(folder, subfolder=part))
    if part in ("", "belief_tokenizer"):
        ways.append(lambda: AutoModel.from_pretrained(folder))
    return ways


@pytest.mark.parametrize("part", PARTS)
def test_unexpected_missing_and_mis_shaped_tensors_are_named(saved: Path, tmp_path: Path, part: str) -> None:
    name = min(load_file(saved / part / "model.safetensors"))
    changes: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
        "has an unexpected tensor stranger": lambda state: state.update(stranger=torch.zeros(2)),
        f"lacks the tensor {name}": lambda state: state.pop(name),
        rf"tensor {name} has shape \(77,\) in the checkpoint": lambda state: state.update({name: torch.zeros(77)}),
    }
    for number, (message, change) in enumerate(changes.items()):
        folder = tampered(saved, tmp_path / str(number), part, change)
        for load in loaders(folder, part):
            with pytest.raises(InputError, match=message) as caught:
                load()
            assert str(folder / part) in str(caught.value)


def test_mismatched_sizes_can_be_ignored_on_request(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    changed = tiny_config(action_dim=3)
    with pytest.raises(InputError, match="in the configuration"):
        VLAPolicy.from_pretrained(tmp_path, config=changed)
    policy = VLAPolicy.from_pretrained(tmp_path, config=changed, ignore_mismatched_sizes=True)
    assert policy.config.action_dim == 3


@pytest.mark.parametrize("name", ["pytorch_model.bin", "scorer/pytorch_model.bin", "policy.pkl"])
def test_a_pickle_is_refused_and_never_opened(saved: Path, tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    torch.save({"trap": Trap()}, folder / name)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    for load in (AutoModel.from_pretrained, PTRModel.from_pretrained):
        with pytest.raises(InputError, match=f"holds {name}, a pickle"):
            load(folder)
    assert not (tmp_path / "opened").exists()


def test_state_files_of_trainer_are_not_model_weights() -> None:
    refuse_pickles(["optimizer.pt", "rng_state_0.pth", "training_args.bin", "scheduler.pt"], "run")


@pytest.mark.parametrize("part", ["", "scorer", "belief_tokenizer", "ptr"])
def test_a_configuration_from_a_newer_version_is_refused(saved: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    file = folder / part / "config.json"
    config = json.loads(file.read_text())
    assert config["hf_ptr_version"] == __version__
    for version, refused in (("9.1.0", True), ("0.0.9", False), ("0.1.7", False)):
        file.write_text(json.dumps({**config, "hf_ptr_version": version}))
        if not refused:
            PTRModel.from_pretrained(folder)
            continue
        with pytest.raises(InputError, match=r"was saved by hf-ptr 9\.1\.0.*pip install --upgrade hf-ptr"):
            PTRModel.from_pretrained(folder)
        with pytest.raises(InputError, match=r"was saved by hf-ptr 9\.1\.0"):
            AutoConfig.from_pretrained(folder / part)
