"""Tests of the policy contract, for the native policy, adapters and users' own policies."""

from __future__ import annotations

import abc
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import Batch, losses_of, trainer_of
from peft import LoraConfig

from hf_ptr import PTRModel
from hf_ptr import functional as F
from hf_ptr.errors import InputError
from hf_ptr.policies import load_policy, merge_adapter
from hf_ptr.policies.lora import with_adapter
from hf_ptr.training.micro_batches import candidates_of, model_inputs
from hf_ptr.training.ptr_model import build_ptr_model

ACTING = ("observation", "state", "instruction_ids", "instruction_mask")


def assert_other_shapes_are_one_line(model: PTRModel, batch: Batch) -> None:
    """Another width of the state, another number of cameras or width of the observation: in training and acting."""
    wider = {**batch, "state": torch.cat((batch["state"], batch["state"]), dim=1)}
    other = {**batch, "observation": torch.cat((batch["observation"], batch["observation"][:, :1]), dim=1)}
    cameras = len(model.adapter.config.cameras)
    seen = f"reads {cameras} cameras" if cameras else "observation has .* same robot"
    for given, message in (
        (wider, "state has .* dimensions and the policy was trained with .* same robot"),
        (other, seen),
    ):
        with pytest.raises(InputError, match=message):
            model(**model_inputs(given))
        with pytest.raises(InputError, match=message):
            model.adapter.predict_action_chunk({name: given[name] for name in ACTING})


class PolicyContract(abc.ABC):
    """
    Inherit from it and define the policy and its batches to run every test of the contract.

    A batch is as [`ChunkDataset`] and the collator make it, with `next_observation` of the observation's kind.
    """

    # Suffixes of the names of layers that LoRA adapts.
    lora_targets: tuple[str, ...] | str = "all-linear"
    # Suffixes of the names of parameters without a gradient; DDP must search for them.
    unreached: tuple[str, ...] = ()
    # Tolerance for actions of order 1 after an adapter is merged into the weights.
    merged_atol: float = 1e-5

    @abc.abstractmethod
    def policy(self) -> Any:
        """A small policy, the same at every call."""

    @abc.abstractmethod
    def batch(self, seed: int = 0) -> Batch:
        """Six chunks, the last without a valid target and with a padded step."""

    @abc.abstractmethod
    def save_processor(self, folder: Path) -> None:
        """Writes the policy's processor, as a run does."""

    def model(self, **settings: Any) -> PTRModel:
        return build_ptr_model(self.policy(), **{"with_scorer": True, "belief_tokens": 2, **settings})

    def passed(self, model: PTRModel, batch: Batch, seed: int = 0, **carried: Any) -> Any:
        torch.manual_seed(seed)
        return model(**model_inputs(batch), **carried)

    def acted(self, actor: Any, batch: Batch, chunks: int = 2) -> torch.Tensor:
        actor.reset()
        generator = torch.Generator().manual_seed(0)
        inputs = {name: batch[name] for name in ACTING}
        return torch.cat([actor.predict_action_chunk(inputs, generator=generator) for _ in range(chunks)])

    def total(self, model: PTRModel, batch: Batch) -> Any:
        return losses_of(model, batch)

    def test_the_pass_has_the_shapes_of_the_contract(self) -> None:
        model, batch = self.model(), self.batch()
        sizes = model.adapter.feature_sizes()
        rows, length = batch["action_mask"].shape
        inputs = {name: batch[name] for name in (*ACTING, "actions", "action_mask")}
        passed = model.adapter.forward(inputs, model.belief_tokenizer.initial_tokens(rows), for_scoring=True)
        assert passed.action_loss.shape == (rows,) and bool((passed.action_loss > 0).all())
        assert passed.context.shape == (rows, sizes.context)
        assert passed.action_features.shape == (rows, sizes.action)
        assert passed.hidden_states.shape == passed.action_embeddings.shape == (rows, length, sizes.action)
        assert model.adapter.observation_tower()(batch["observation"]).shape == (rows, sizes.observation)
        assert model.adapter.normalized_state(batch["state"]).shape == batch["state"].shape

    def test_the_score_works_as_on_any_other_policy(self) -> None:
        """Training identifies each chunk's next observation among those of other chunks."""
        model, batch = self.model(), self.batch()
        optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-3)
        before = self.total(model, batch).metrics["loss_id"]
        for _ in range(30):
            losses = self.total(model, batch)
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.update_target()
        assert losses.metrics["loss_id"] < 0.7 * before
        assert float(losses.metrics["nce_acc"]) > 0.5
        # A chunk scores higher with its own next observation than with another chunk's.
        swapped = {**batch, "next_observation": batch["next_observation"].roll(1, dims=0)}
        right, wrong = (self.score(model, given) for given in (batch, swapped))
        assert (right > wrong).float().mean() > 0.7

    def score(self, model: PTRModel, batch: Batch) -> torch.Tensor:
        """PTR scores of the chunks with a target; both batches have the same candidates."""
        model.eval()
        with torch.no_grad():
            output = self.passed(model, batch)
            identification = trainer_of(model).identification
            (negatives,) = identification.draw_negatives([candidates_of(model.adapter, batch, output)], step=0)
            logits, _ = identification.logits(output, negatives)
        model.train()
        return F.ptr_score(logits)[1:-1]

    def test_every_parameter_is_reached(self) -> None:
        model = self.model()
        self.total(model, self.batch()).total.backward()
        dry = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert [name for name in dry if not name.endswith(self.unreached)] == []

    def test_padded_steps_and_missing_dimensions_have_no_effect(self) -> None:
        model, batch = self.model().eval(), self.batch()
        changed = copy.deepcopy(batch)
        changed["actions"][-1, -1] = 7.0
        assert not bool(batch["action_mask"][-1, -1])
        assert torch.equal(self.passed(model, batch).action_loss, self.passed(model, changed).action_loss)
        mask = torch.ones(batch["actions"].shape[0], batch["actions"].shape[2], dtype=torch.bool)
        mask[:, -1] = False
        other = copy.deepcopy(batch)
        other["actions"][..., -1] = 7.0
        for given in (batch, other):
            given["action_dim_mask"] = mask
        assert torch.equal(self.passed(model, batch).action_loss, self.passed(model, other).action_loss)
        inputs = {name: batch[name] for name in (*ACTING, "action_dim_mask")}
        model.adapter.reset()
        assert bool((model.adapter.predict_action_chunk(inputs)[..., -1] == 0).all())

    def test_the_next_observation_is_not_an_input(self) -> None:
        model, batch = self.model().eval(), self.batch()
        garbage = {**batch, "next_observation": torch.zeros_like(batch["next_observation"]) + 99}
        first, second = self.passed(model, batch), self.passed(model, garbage)
        for name in ("action_loss", "query", "belief_tokens"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        assert not torch.equal(first.target, second.target)

    def test_belief_tokens_have_an_effect_and_are_cleared_at_reset(self) -> None:
        model, batch = self.model().eval(), self.batch()
        first = self.acted(model.adapter, batch)
        assert torch.equal(self.acted(model.adapter, batch), first)
        with torch.no_grad():
            for parameter in model.belief_tokenizer.parameters():
                parameter.add_(3.0 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        assert not torch.allclose(self.acted(model.adapter, batch), first, atol=1e-6)
        inputs = {name: batch[name][:2] for name in ACTING}
        with pytest.raises(ValueError, match="reset"):
            model.adapter.predict_action_chunk(inputs)

    def test_a_loaded_policy_acts_like_the_saved_one(self, tmp_path: Path) -> None:
        model, batch = self.model(), self.batch()
        model.save_pretrained(tmp_path)
        self.save_processor(tmp_path)
        acted = self.acted(model.eval().adapter, batch)
        whole = PTRModel.from_pretrained(tmp_path).eval()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[name]), name
        policy, processor = load_policy(str(tmp_path))
        assert hasattr(processor, "encode_instructions")
        for actor in (whole.adapter, policy):
            torch.testing.assert_close(self.acted(actor, batch), acted, rtol=0, atol=1e-6)

    def test_under_lora_only_the_adapter_and_the_ptr_parts_change(self, tmp_path: Path) -> None:
        self.policy_folder(tmp_path / "base")
        base = load_policy(str(tmp_path / "base"))[0]
        policy = with_adapter(getattr(base, "model", base), LoraConfig(r=2, target_modules=self.targets()))
        model, batch = build_ptr_model(policy, with_scorer=True, belief_tokens=2), self.batch()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
        for _ in range(3):
            self.total(model, batch).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        outside = {name for name in changed if not name.startswith(("scorer.", "belief_tokenizer."))}
        assert outside and all("lora_" in name for name in outside)
        acted = self.acted(model.eval().adapter, batch)
        model.save_pretrained(tmp_path / "run")
        self.save_processor(tmp_path / "run")
        assert not (tmp_path / "run" / "model.safetensors").exists()
        torch.testing.assert_close(self.acted(load_policy(str(tmp_path / "run"))[0], batch), acted, rtol=0, atol=1e-6)
        merge_adapter(str(tmp_path / "run"), tmp_path / "merged")
        assert not (tmp_path / "merged" / "adapter_config.json").exists()
        alone = load_policy(str(tmp_path / "merged"))[0]
        torch.testing.assert_close(self.acted(alone, batch), acted, rtol=0, atol=self.merged_atol)

    def targets(self) -> list[str] | str:
        return self.lora_targets if isinstance(self.lora_targets, str) else list(self.lora_targets)

    def policy_folder(self, folder: Path) -> None:
        """Writes the bare policy with its processor."""
        self.policy().save_pretrained(folder)
        self.save_processor(folder)
