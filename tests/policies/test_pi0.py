"""PI0 of transformers: the contract, outputs equal to its own forward pass, and conversion back to PI0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from camera_helpers import CAMERAS, camera_table
from data_helpers import coded_table
from model_helpers import INSTRUCTIONS, Batch
from peft import LoraConfig
from pi0_helpers import batch_of, fitted
from policy_contract import ACTING, PolicyContract, assert_other_shapes_are_one_line
from transformers import PI0ForConditionalGeneration

from benchmarks.tiny_pi0 import IMAGE_TOKEN, pi0_tokenizer, saved_pi0, tiny_pi0
from hf_ptr import PTRConfig, PTRModel, PTRTrainer
from hf_ptr.data import read_dataset
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.policies import adapter_of, load_policy
from hf_ptr.policies.loading import load_for_training
from hf_ptr.policies.lora import with_adapter
from hf_ptr.policies.pi0 import PI0Adapter, PI0TextProcessor
from hf_ptr.runs.run import run_recipe
from hf_ptr.training.micro_batches import model_inputs
from hf_ptr.training.ptr_model import build_ptr_model


class TestPI0(PolicyContract):
    lora_targets = r".*(vlm\.language_model|dit)\.layers\.\d+\.self_attn\.(q|v)_proj"
    # Parameters that PI0 never uses: the word embeddings of its action expert.
    unreached = ("dit.embed_tokens.weight",)

    def policy(self) -> Any:
        return fitted()

    def batch(self, seed: int = 0) -> Batch:
        return batch_of(seed)

    def save_processor(self, folder: Path) -> None:
        PI0TextProcessor(pi0_tokenizer()).save_pretrained(folder)


def own_inputs(model: PI0ForConditionalGeneration, batch: Batch) -> dict[str, torch.Tensor]:
    """The inputs that PI0's own processor makes of a batch."""
    adapter = PI0Adapter(model)
    rows = len(batch["state"])
    pixels = torch.zeros(rows, 2, 3, 16, 16)
    scaled = (batch["observation"].float() / 255 - 0.5) / 0.5
    pixels[..., :12, :] = scaled.permute(0, 1, 4, 2, 3)
    image_tokens = torch.full((rows, 2 * 4), IMAGE_TOKEN)
    mask = torch.cat((torch.ones_like(image_tokens), batch["instruction_mask"].long()), dim=1)
    state = torch.nn.functional.pad(adapter.normalized_state(batch["state"]), (0, 5))
    return {
        "input_ids": torch.cat((image_tokens, batch["instruction_ids"]), dim=1),
        "attention_mask": mask,
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(rows, 2, dtype=torch.bool),
        "state": state,
    }


def test_the_loss_is_that_of_pi0() -> None:
    model, batch = fitted(), batch_of()
    batch["action_mask"][:] = True
    adapter = adapter_of(model)
    config = adapter.config
    clean = (batch["actions"] - torch.tensor(config.action_mean)) / torch.tensor(config.action_std)
    clean = torch.nn.functional.pad(clean, (0, 4))
    torch.manual_seed(3)
    passed = adapter.forward({name: batch[name] for name in (*ACTING, "actions", "action_mask")})
    torch.manual_seed(3)
    beta = torch.distributions.Beta(torch.tensor(1.5), torch.tensor(1.0))
    time = beta.sample((6,)) * 0.999 + 0.001
    noise = torch.randn_like(clean)
    own = model(**own_inputs(model, batch), actions=clean, noise=noise, timestep=time)
    expected = own.loss[..., :4].mean(dim=(1, 2))
    torch.testing.assert_close(passed.action_loss, expected, rtol=0, atol=1e-6)


def test_it_acts_as_pi0_does() -> None:
    model, batch = fitted(), batch_of()
    adapter = adapter_of(model)
    noise = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    own = model.sample_actions(**own_inputs(model, batch), noise=noise)[..., :4]
    own = own * torch.tensor(adapter.config.action_std) + torch.tensor(adapter.config.action_mean)
    acted = adapter.predict_action_chunk(
        {name: batch[name] for name in ACTING}, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(acted, own, rtol=0, atol=1e-5)


def test_a_round_trip_at_learning_rate_0_gives_identical_outputs(tmp_path: Path) -> None:
    """Through our trainer and back to a plain PI0, bit for bit."""
    model, batch = fitted(), batch_of()
    inputs = own_inputs(model, batch)
    noise = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    before = model.sample_actions(**inputs, noise=noise)
    given = {name: value for name, value in batch.items() if name not in ("instruction_ids", "instruction_mask")}
    rows = [{name: value[row] for name, value in given.items()} for row in range(6)]
    args = PTRConfig(
        output_dir=str(tmp_path / "run"),
        learning_rate=0.0,
        max_steps=2,
        per_device_train_batch_size=6,
        warmup_steps=0,
        nce_warmup_steps=0,
        belief_tokens=0,
        alpha=0.0,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    class Rows(torch.utils.data.Dataset):
        tasks = INSTRUCTIONS

        def __len__(self) -> int:
            return 6

        def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
            return rows[row]

    processor = PI0TextProcessor(pi0_tokenizer())
    trainer = PTRTrainer(model, args, train_dataset=Rows(), processing_class=processor)
    trainer.train()
    trainer.save_model()
    again = PI0ForConditionalGeneration.from_pretrained(tmp_path / "run").eval()
    for name, tensor in fitted().state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(again.sample_actions(**inputs, noise=noise), before)
    assert isinstance(PTRModel.from_pretrained(tmp_path / "run").policy, PI0ForConditionalGeneration)


def test_in_half_precision_it_trains_and_acts() -> None:
    model, batch = fitted().to(torch.bfloat16), batch_of()
    adapter = adapter_of(model)
    inputs = {name: batch[name] for name in (*ACTING, "actions", "action_mask")}
    loss = adapter.forward(inputs, torch.zeros(6, 2, 16), for_scoring=True).action_loss
    assert loss.dtype == torch.float32 and bool(torch.isfinite(loss).all())
    acted = adapter.predict_action_chunk({name: batch[name] for name in ACTING})
    assert acted.dtype == torch.float32 and bool(torch.isfinite(acted).all())


def test_activations_of_the_vision_tower_can_be_recomputed() -> None:
    model = build_ptr_model(fitted(), with_scorer=True, belief_tokens=2).train()
    model.activation_checkpointing_enable()
    torch.manual_seed(0)
    model(**model_inputs(batch_of())).action_loss.sum().backward()


def test_a_damaged_binding_is_one_line() -> None:
    for damage in ({"foo": 1}, {"state_std": [0.0] * 3}, {"state_mean": [0.0] * 99}):
        model = fitted()
        kept = {**model.config.hf_ptr, **damage} if "foo" not in damage else damage
        model.config.hf_ptr = kept
        with pytest.raises(InputError, match="'hf_ptr' in the configuration of this PI0 is damaged"):
            PI0Adapter(model)


def test_without_belief_tokens_the_outputs_equal_pi0s() -> None:
    """They lie at the end of the prefix; none, an empty row of them, and some."""
    model, batch = fitted(), batch_of()
    adapter = adapter_of(model)
    inputs = {name: batch[name] for name in (*ACTING, "actions", "action_mask")}
    some_tokens = torch.randn(6, 2, 16)
    losses = []
    for tokens in (None, torch.zeros(6, 0, 16), some_tokens):
        torch.manual_seed(0)
        losses.append(adapter.forward(inputs, tokens).action_loss)
    none, empty, some = losses
    torch.testing.assert_close(empty, none, rtol=0, atol=1e-7)
    assert (some - none).abs().max() > 1e-4


def test_an_adapter_on_a_pretrained_pi0_keeps_the_binding_to_the_dataset(tmp_path: Path) -> None:
    """A PI0 that was saved before it saw a dataset: peft saves no configuration, and ours must not be lost."""
    tiny_pi0().save_pretrained(tmp_path / "base")
    PI0TextProcessor(pi0_tokenizer()).save_pretrained(tmp_path / "base")
    policy, actor, _ = load_for_training(str(tmp_path / "base"))
    assert actor.needs_dataset
    actor.fit_to(camera_table())
    assert actor.config.observation_features == CAMERAS and not actor.needs_dataset
    adapted = with_adapter(policy, LoraConfig(r=2, target_modules=TestPI0.lora_targets))
    model = build_ptr_model(adapted, with_scorer=True, belief_tokens=2)
    model.save_pretrained(tmp_path / "run")
    PI0TextProcessor(pi0_tokenizer()).save_pretrained(tmp_path / "run")
    again, batch = load_policy(str(tmp_path / "run"))[0], batch_of()
    assert again.config == model.adapter.config
    acted = []
    for found in (model.eval().adapter, again):
        found.reset()
        inputs = {name: batch[name] for name in ACTING}
        acted.append(found.predict_action_chunk(inputs, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(acted[0], acted[1], rtol=0, atol=1e-6)


def test_unsuitable_data_are_one_line(tmp_path: Path) -> None:
    assert_other_shapes_are_one_line(build_ptr_model(fitted(), with_scorer=False, belief_tokens=0), batch_of())
    adapter = PI0Adapter(tiny_pi0())
    with pytest.raises(InputError, match="is not bound to a dataset yet"):
        _ = adapter.config
    with pytest.raises(InputError, match=r"no camera 'observation.images.frond'.*front"):
        adapter.fit_to(camera_table(), observation_features=["observation.images.frond"])
    wide = coded_table([8, 8])
    wide.columns["action"] = torch.randn(16, 9).numpy()
    wide = replace(wide, videos=camera_table().videos, features=camera_table().features)
    with pytest.raises(InputError, match="'action' of 'coded' has 9 dimensions, this PI0 at most 8"):
        adapter.fit_to(wide, observation_features=CAMERAS)
    with pytest.raises(InputError, match="has no tokenizer"):
        PI0TextProcessor.from_tokenizer(str(tmp_path))


def test_a_recipe_trains_a_pretrained_pi0(tmp_path: Path) -> None:
    """From a PI0 without a dataset to an evaluated adapter."""
    dataset = record_metaworld(["drawer-close"], 3, tmp_path / "data", pixels=32, workers=1)
    recipe = Path(__file__).parents[2] / "recipes" / "pi0" / "g1" / "ptr_lora.yaml"
    changes = {
        "policy": saved_pi0(tmp_path / "pi0"),
        "dataset": dataset,
        "output_dir": tmp_path / "run",
        "episodes": "0:2",
        "eval_episodes": "2:3",
        "max_steps": 2,
        "warmup_steps": 0,
        "nce_warmup_steps": 0,
        "target_offset": 4,
        "bf16": "false",
        "disable_tqdm": "true",
        "save_strategy": "no",
    }
    folder = run_recipe(recipe, [f"{key}={value}" for key, value in changes.items()])
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    policy, _ = load_policy(str(folder))
    assert policy.config.observation_features == ["observation.images.corner2"] and policy.config.belief_tokens == 4
    table = read_dataset(dataset, episodes=[2])
    assert bool((evaluate_dataset(folder, table).policy > 0).all())
    with pytest.raises(InputError, match="chunk_size cannot be set with policy"):
        run_recipe(recipe, [*(f"{key}={value}" for key, value in changes.items()), "chunk_size=8", "output_dir=x"])
