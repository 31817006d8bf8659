"""Policies with cameras: vision towers of several kinds, the policy contract, and images from dataset to rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camera_helpers import camera_table
from data_helpers import write_v21
from dataset_kinds import reaching, with_cameras
from huggingface_hub.errors import StrictDataclassError
from model_helpers import losses_of
from page_helpers import ROOT, blocks
from policy_contract import assert_other_shapes_are_one_line
from torch import nn
from transformers import (
    AutoModel,
    SiglipVisionModel,
)
from vision_helpers import CAMERAS, TOWERS, images_batch, seeing

from hf_ptr import PTRModel, VLAPolicy, VLAPolicyConfig
from hf_ptr.data import ChunkDataset, read_dataset
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.policies import policy_from_dataset
from hf_ptr.policies.vla.sizes import SIZES, for_image_size
from hf_ptr.policies.vla.vision import CameraTower
from hf_ptr.training.micro_batches import model_inputs
from hf_ptr.training.ptr_model import build_ptr_model
from hf_ptr.vision.towers import as_tokens, first_layers, layers_of


@pytest.mark.parametrize("tower", TOWERS)
def test_every_tower_is_trained_and_tracked_by_the_target(tower: str) -> None:
    model = build_ptr_model(seeing(tower), with_scorer=True, belief_tokens=2, target_decay=0.5)
    batch = images_batch()
    losses = losses_of(model, batch)
    assert losses.output.query.shape == losses.output.target.shape == (6, 16)
    losses.total.backward()
    dry = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert dry == []
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    optimizer.step()
    for _ in range(40):
        model.update_target()
    tower_now = model.policy.observation_tower().eval()
    expected = nn.functional.normalize(tower_now(batch["observation"]), dim=-1)
    torch.testing.assert_close(model.target_encoder(batch["observation"]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", TOWERS)
def test_the_target_is_the_output_of_its_layer(tower: str) -> None:
    policy = seeing(tower).eval()
    assert isinstance(policy.tower, CameraTower)
    found: list[Any] = []
    layers_of(policy.tower.model)[1][1].register_forward_hook(lambda module, given, output: found.append(output))
    images = images_batch()["observation"]
    with torch.no_grad():
        policy.tower(images)
        features = policy.observation_tower().eval()(images)
    whole = as_tokens(found[0]).mean(dim=1).reshape(6, -1)
    torch.testing.assert_close(features, whole)
    short = first_layers(policy.tower.model, 2)
    assert len(layers_of(short)[1]) == 2 and len(layers_of(policy.tower.model)[1]) == 3


def test_images_of_another_size_are_scaled_and_cameras_distinguished() -> None:
    policy = seeing().eval()
    images = images_batch()["observation"]
    large = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        seen = policy.tower(images)
        torch.testing.assert_close(policy.tower(large), seen)
        assert (policy.tower(images.flip(1)) - seen).abs().max() > 0.1


def test_a_saved_policy_gives_the_same_outputs(tmp_path: Path) -> None:
    model = build_ptr_model(seeing(), with_scorer=True, belief_tokens=2)
    model.save_pretrained(tmp_path)
    batch = images_batch()
    whole, plain = PTRModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert isinstance(plain, VLAPolicy) and plain.config.vision_config.model_type == "siglip_vision_model"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    inputs = {name: batch[name] for name in ("observation", "state", "instruction_ids", "instruction_mask")}
    acted = []
    for policy in (model.policy.eval(), plain):
        policy.reset()
        acted.append(policy.predict_action_chunk(inputs, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(*acted)


@pytest.mark.parametrize("group_norm", [True, False])
def test_the_loss_of_an_image_does_not_depend_on_the_rest_of_the_batch(group_norm: bool) -> None:
    """Batch normalisation would couple samples, and micro-batches would not be equivalent to one batch."""
    policy = seeing("resnet", group_norm=group_norm).train()
    images = images_batch()["observation"]
    with torch.no_grad():
        torch.testing.assert_close(policy.tower(images[:2]), policy.tower(images)[:2], rtol=0, atol=1e-5)
        kinds = {type(module) for module in policy.tower.modules()}
    assert (nn.GroupNorm in kinds) == group_norm and (nn.BatchNorm2d in kinds) != group_norm


def test_inference_does_not_read_the_next_observation() -> None:
    """Random values in the next observation change neither actions, nor the policy's loss, nor the context."""
    model = build_ptr_model(seeing(), with_scorer=True, belief_tokens=2).eval()
    batch = images_batch()
    outputs = []
    for after in (batch["next_observation"], torch.full_like(batch["next_observation"], 255)):
        torch.manual_seed(0)
        outputs.append(model(**model_inputs({**batch, "next_observation": after})))
    assert torch.equal(outputs[0].action_loss, outputs[1].action_loss)
    assert torch.equal(outputs[0].query, outputs[1].query)
    assert torch.equal(outputs[0].belief_tokens, outputs[1].belief_tokens)
    assert not torch.equal(outputs[0].target, outputs[1].target)


def test_the_page_shows_how_to_act_on_a_frame_of_a_dataset(tmp_path: Path) -> None:
    camera = "observation.images.front"
    table = read_dataset(write_v21(with_cameras(reaching(2, 20), camera), tmp_path / "data"))
    policy, processor = policy_from_dataset(table, observation_features=[camera], size="tiny")
    (shown,) = [block.text for block in blocks(ROOT / "docs" / "policies.md") if "frame = frames[0]" in block.text]
    names = {"table": table, "policy": policy.eval(), "processor": processor}
    exec(shown, names)
    assert names["action"].shape == (1, 3)
    whole = {"instructions": ["reach"], "state": names["frame"]["state"]}
    for image in (torch.zeros((48, 64, 3), dtype=torch.uint8), torch.zeros((2, 1, 48, 64, 3), dtype=torch.uint8)):
        policy.reset()
        with pytest.raises(InputError, match=r"has shape \("):
            policy.select_action(**processor(**whole, observation=image))
        assert policy.select_action(**processor(**whole, observation=names["frame"]["observation"])).shape == (1, 3)


def test_cameras_that_a_new_policy_does_not_observe_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    table = camera_table()
    policy_from_dataset(table, chunk_size=4, n_action_steps=2)
    assert f"no camera; with cameras: policy_from_dataset(table, observation_features={CAMERAS})" in caplog.text
    caplog.clear()
    policy_from_dataset(table, observation_features=["observation.state"], chunk_size=4, n_action_steps=2)
    assert caplog.text == "", "chosen"


def test_the_papers_tower_is_built() -> None:
    settings = {**SIZES["internvl"], "observation_features": CAMERAS}
    settings["vision_config"] = for_image_size(settings["vision_config"], settings["image_size"])
    with torch.device("meta"):
        policy = VLAPolicy(VLAPolicyConfig(observation_dim=0, **settings))
        tower = policy.observation_tower()
    assert 300e6 < sum(value.numel() for value in policy.tower.model.parameters()) < 310e6
    assert len(layers_of(tower.model)[1]) == 12 and policy.feature_sizes().observation == 2 * 1024


def test_unsupported_vision_settings_are_named() -> None:
    model = build_ptr_model(seeing(), with_scorer=True, belief_tokens=0)
    assert_other_shapes_are_one_line(model, images_batch())
    with pytest.raises(ValueError, match=r"target_layer is 4; SiglipVisionModel has layers 1\.\.3"):
        seeing(target_layer=4)
    with pytest.raises(StrictDataclassError, match="cameras has no pixels"):
        seeing(image_size=0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seen") / "data"
    return record_metaworld(["drawer-close"], 2, out, pixels=32, workers=1)


def test_from_a_recording_to_a_rollout(recorded: Path, tmp_path: Path) -> None:
    table = read_dataset(recorded)
    camera = "observation.images.corner2"
    vision = SiglipVisionModel(TOWERS["siglip"])
    vision.save_pretrained(tmp_path / "vision")
    policy, processor = policy_from_dataset(
        table,
        observation_features=[camera],
        vision_model=str(tmp_path / "vision"),
        hidden_size=8,
        num_attention_heads=2,
    )
    # The middle layer of its own three.
    assert policy.tower.target_layer == 2
    with pytest.raises(InputError, match="do not fit"):
        policy_from_dataset(
            table, observation_features=[camera], vision_model=str(tmp_path / "vision"), image_size=32, hidden_size=8
        )
    pretrained = vision.state_dict()
    for name, tensor in policy.tower.model.state_dict().items():
        assert torch.equal(tensor, pretrained[name]), name
    chunks = ChunkDataset(table, observation_features=[camera], image_size=policy.config.image_resolution)
    assert chunks[0]["observation"].shape == (1, 16, 16, 3)
    policy.save_pretrained(tmp_path / "policy")
    processor.save_pretrained(tmp_path / "policy")
    assert (
        evaluate_in(MetaWorld(), tmp_path / "policy", ["drawer-close"], 2, max_steps=12, workers=1).overall.episodes
        == 2
    )
    assert np.isfinite(evaluate_dataset(tmp_path / "policy", table).policy).all()
    with pytest.raises(InputError, match=r"Meta-World has only observation.images.corner2\."):
        policy.config.observation_features = [camera, "observation.images.wrist"]
        policy.config.save_pretrained(tmp_path / "policy")
        evaluate_in(MetaWorld(), tmp_path / "policy", ["drawer-close"], 1, workers=1)
