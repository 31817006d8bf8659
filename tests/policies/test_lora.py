"""LoRA by peft: trained parameters, saved files and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import losses_of, tiny_batch, tiny_policy
from peft import LoraConfig
from safetensors import safe_open
from torch import nn
from transformers import AutoModel, AutoProcessor, TrainerCallback, set_seed

from hf_ptr import PTRConfig, PTRModel, PTRTrainer, VLAPolicy
from hf_ptr.data import ChunkDataset, read_dataset
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.errors import InputError
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.policies import policy_from_dataset
from hf_ptr.policies.adapters import load_model
from hf_ptr.policies.lora import load_adapted, merged, with_adapter
from hf_ptr.ptr import TargetEncoder
from hf_ptr.training.ptr_model import build_ptr_model

OBSERVATION = ["observation.environment_state"]


@pytest.fixture(scope="module")
def base(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved policy with its processor."""
    folder = tmp_path_factory.mktemp("lora") / "base"
    size = {"hidden_size": 16, "action_size": 8, "encoder_size": 16, "expert_size": 32, "num_expert_layers": 1}
    set_seed(0)
    policy, processor = policy_from_dataset(read_dataset(metaworld_dataset), observation_features=OBSERVATION, **size)
    policy.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def adapter(**settings: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", **settings})


def trainer_of(
    base: Path | PTRModel, dataset: Path, folder: Path, peft: LoraConfig | None, **settings: Any
) -> PTRTrainer:
    given = {
        "max_steps": 6,
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "nce_warmup_steps": 2,
        "queue_size": 128,
        "disable_tqdm": True,
    }
    # The adapter is drawn when the trainer is made.
    set_seed(0)
    chunks = ChunkDataset(read_dataset(dataset), observation_features=OBSERVATION)
    return PTRTrainer(
        str(base),
        PTRConfig(output_dir=str(folder), **{**given, **settings}),
        train_dataset=chunks,
        processing_class=AutoProcessor.from_pretrained(base),
        peft_config=peft,
    )


def actions_of(policy: Any, processor: Any) -> torch.Tensor:
    """Two chunks one after the other, so that belief tokens count."""
    inputs = processor(["Press the button down from above."], torch.zeros(1, 39), torch.zeros(1, 4))
    policy.eval()
    policy.reset()
    generator = torch.Generator().manual_seed(0)
    return torch.cat([policy.predict_action_chunk(inputs, generator=generator) for _ in range(3)])


def test_only_adapter_scorer_and_belief_change(base: Path, metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = trainer_of(base, metaworld_dataset, tmp_path, adapter())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    followed = {name for name in changed if name.startswith("target_encoder.")}
    assert changed - followed == trained and followed
    parts = {name.partition(".")[0] for name in trained}
    assert parts == {"policy", "scorer", "belief_tokenizer"}
    assert all("lora_" in name for name in trained if name.startswith("policy."))


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.0, "belief_tokens": 0}], ids=["ptr", "sft"])
def test_a_saved_adapter_gives_the_same_actions(
    base: Path, metaworld_dataset: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    trainer = trainer_of(base, metaworld_dataset, tmp_path / "run", adapter(), **settings)
    trainer.train()
    trainer.save_model()
    with safe_open(tmp_path / "run" / "adapter_model.safetensors", "pt") as file:
        assert list(file.keys()) and all("lora_" in name for name in list(file.keys()))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    acted = actions_of(trainer.model.policy, processor)
    assert (acted - actions_of(AutoModel.from_pretrained(base), processor)).abs().max() > 1e-3

    plain = AutoModel.from_pretrained(tmp_path / "run")
    assert isinstance(plain, VLAPolicy)
    whole = PTRModel.from_pretrained(tmp_path / "run")
    folded = merged(PTRModel.from_pretrained(tmp_path / "run").policy)
    folded.save_pretrained(tmp_path / "merged")
    assert isinstance(folded, VLAPolicy) and not (tmp_path / "merged" / "adapter_config.json").exists()
    for policy in (plain, whole.policy, folded, AutoModel.from_pretrained(tmp_path / "merged")):
        torch.testing.assert_close(actions_of(policy, processor), acted, rtol=0, atol=1e-6)
    success = evaluate_in(MetaWorld(), tmp_path / "run", ["button-press-topdown"], 1, max_steps=20, workers=1)
    assert success.overall.episodes == 1


def test_training_resumes_from_the_trained_adapter(base: Path, metaworld_dataset: Path, tmp_path: Path) -> None:
    """lerobot issue 3459: the adapter was wrapped a second time, and what it had learned silently discarded."""
    saving = {"save_strategy": "steps", "save_steps": 5, "max_steps": 8}
    straight = trainer_of(base, metaworld_dataset, tmp_path / "straight", adapter(), **saving)
    straight.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 6

    broken = trainer_of(base, metaworld_dataset, tmp_path / "broken", adapter(), **saving)
    broken.add_callback(Stop())
    broken.train()
    resumed = trainer_of(base, metaworld_dataset, tmp_path / "broken", adapter(), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-5"))
    mine, other = straight.model.state_dict(), resumed.model.state_dict()
    assert mine.keys() == other.keys() and sum("lora_A" in name for name in mine) > 3
    for name, tensor in mine.items():
        assert torch.equal(tensor, other[name]), name


def test_a_run_resumes_with_its_adapter_and_refuses_another(
    base: Path, metaworld_dataset: Path, tmp_path: Path
) -> None:
    first = trainer_of(base, metaworld_dataset, tmp_path / "first", adapter())
    first.train()
    first.save_model()
    for peft in (None, adapter()):
        again = trainer_of(tmp_path / "first", metaworld_dataset, tmp_path / "again", peft)
        assert {name for name, value in again.model.named_parameters() if value.requires_grad} == {
            name for name, value in first.model.named_parameters() if value.requires_grad
        }
        for name, tensor in first.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name]), name
    with pytest.raises(InputError, match="has an adapter with r 4, and peft_config asks for 8"):
        trainer_of(tmp_path / "first", metaworld_dataset, tmp_path / "other", adapter(r=8))


def test_the_target_encoder_follows_the_effective_weights(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    saved = AutoModel.from_pretrained(tmp_path)
    model = build_ptr_model(with_adapter(saved, adapter()), with_scorer=True, belief_tokens=0, target_decay=0.9)
    assert isinstance(model.target_encoder, TargetEncoder)
    observation = tiny_batch()["next_observation"]

    def features(policy: Any) -> torch.Tensor:
        return nn.functional.normalize(policy.observation_tower()(observation), dim=-1)

    torch.testing.assert_close(model.target_encoder(observation), features(model.policy))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0)
    for _ in range(3):
        losses_of(model, tiny_batch()).total.backward()
        optimizer.step()
    for _ in range(200):
        model.update_target()
    assert (features(model.policy) - features(AutoModel.from_pretrained(tmp_path))).abs().max() > 1e-3
    torch.testing.assert_close(model.target_encoder(observation), features(model.policy), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "bias"])
def test_an_adapter_that_the_target_cannot_track_is_refused_on_the_tower(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    tiny_policy().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its EMA target cannot follow"):
        policy = with_adapter(AutoModel.from_pretrained(tmp_path), adapter(**settings))
        build_ptr_model(policy, with_scorer=True, belief_tokens=0)
    elsewhere = adapter(target_modules=["expert.out"], **settings)
    policy = with_adapter(AutoModel.from_pretrained(tmp_path), elsewhere)
    assert build_ptr_model(policy, with_scorer=True, belief_tokens=0).target_encoder is not None


def test_modules_that_peft_trains_fully_are_tracked_by_the_target(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    config = adapter(target_modules=["expert.out"], modules_to_save=["tower"])
    policy = with_adapter(AutoModel.from_pretrained(tmp_path), config)
    encoder = TargetEncoder(policy.observation_tower(), decay=0.0)
    observation = tiny_batch()["next_observation"]
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    encoder.update(policy.observation_tower())
    expected = nn.functional.normalize(policy.observation_tower()(observation), dim=-1)
    torch.testing.assert_close(encoder(observation), expected)


def test_a_policy_that_cannot_be_adapted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this one is new"):
        with_adapter(tiny_policy(), adapter())
    tiny_policy().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="peft_config does not fit VLAPolicy"):
        with_adapter(AutoModel.from_pretrained(tmp_path), adapter(target_modules=["q_proj"]))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="the adapter in"):
        load_adapted(str(tmp_path / "run"), load_model)
