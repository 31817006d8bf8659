"""The contract of post-trainable policies, for every policy of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from model_helpers import INSTRUCTIONS, Batch, run, text_config, tiny_batch, tiny_model, tiny_policy, training_inputs
from policy_contract import PolicyContract, assert_other_shapes_are_one_line
from transformers import BertModel

from examples import custom_policy
from hf_ptr.errors import InputError
from hf_ptr.policies import adapter_of, adapters, register_adapter
from hf_ptr.policies.vla.processing_vla import VLAProcessor, instruction_tokenizer


class NativePolicy(PolicyContract):
    settings: ClassVar[dict[str, Any]] = {}

    def policy(self) -> Any:
        return tiny_policy(hidden_size=16, expert_size=16, **self.settings)

    def batch(self, seed: int = 0) -> Batch:
        return tiny_batch(seed=seed)

    def save_processor(self, folder: Path) -> None:
        VLAProcessor(instruction_tokenizer(INSTRUCTIONS)).save_pretrained(folder)


class TestFlow(NativePolicy):
    pass


class TestDiffusion(NativePolicy):
    settings: ClassVar[dict[str, Any]] = {"action_head": "diffusion"}


class TestTokens(NativePolicy):
    settings: ClassVar[dict[str, Any]] = {"action_head": "tokens", "num_bins": 16}
    lora_targets = ("q_proj", "v_proj", "state_embedding")

    def policy(self) -> Any:
        """Far from uniform, so that the context decides between tokens."""
        policy = super().policy()
        with torch.no_grad():
            for parameter in policy.head.parameters():
                parameter.mul_(8.0)
        return policy


@pytest.mark.slow
@pytest.mark.parametrize("head", ["flow", "diffusion", "tokens"])
def test_every_head_learns_to_reproduce_the_actions(head: str) -> None:
    policy = tiny_policy(hidden_size=32, expert_size=64, action_head=head, num_denoising_steps=10, num_bins=64)
    batch = tiny_batch()
    batch["action_mask"][:] = True
    # Within the range of the statistics that the policy has, as data are.
    mean, std = policy.action_normalizer.mean, policy.action_normalizer.std
    batch["actions"] = mean + std * batch["actions"].clamp(-2, 2)
    inputs = {name: batch[name] for name in ("observation", "state", "instruction_ids", "instruction_mask")}
    wanted = {**inputs, "actions": batch["actions"], "action_mask": batch["action_mask"]}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    torch.manual_seed(0)
    losses = []
    for _ in range(500):
        loss = policy(wanted).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    policy.eval()
    acted = policy.predict_action_chunk(inputs, generator=torch.Generator().manual_seed(0))
    error = ((acted - batch["actions"]) / std).square().mean().sqrt()
    assert sum(losses[-20:]) / 20 < 0.3 * losses[0] and error < 0.35


class TestAUsersOwn(PolicyContract):
    """The policy and adapter of `examples/custom_policy.py`."""

    def policy(self) -> Any:
        torch.manual_seed(0)
        sizes = {"state_dim": 5, "action_dim": 2, "chunk_size": 4, "n_action_steps": 4, "width": 16}
        return custom_policy.MyPolicy(custom_policy.MyConfig(num_instructions=len(INSTRUCTIONS), **sizes))

    def batch(self, seed: int = 0) -> Batch:
        return tiny_batch(seed=seed)

    def save_processor(self, folder: Path) -> None:
        VLAProcessor(instruction_tokenizer(INSTRUCTIONS)).save_pretrained(folder)


def test_a_policy_without_an_adapter_is_named() -> None:
    with pytest.raises(
        InputError, match=r"no adapter is registered for its type 'bert' \(there are: .*my_policy, pi0"
    ):
        adapter_of(BertModel(text_config()))


def test_an_incomplete_adapter_is_named() -> None:
    class Half:
        model_class = BertModel

        def __init__(self, model: Any):
            self.model = model

        def forward(self) -> None: ...

    register_adapter("bert", Half)
    try:
        with pytest.raises(
            InputError,
            match="the adapter of 'bert' lacks observation_tower, normalized_state, feature_sizes, load_processor",
        ):
            adapter_of(BertModel(text_config()))
    finally:
        del adapters.ADAPTERS["bert"]


def test_other_shapes_are_one_line() -> None:
    assert_other_shapes_are_one_line(tiny_model(), tiny_batch())


def test_a_loss_that_is_not_of_each_chunk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    forward = type(model.policy).forward

    def reduced(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.action_loss = output.action_loss.mean()
        return output

    monkeypatch.setattr(type(model.policy), "forward", reduced)
    with pytest.raises(
        InputError,
        match=r"action loss of VLAPolicy must be of shape \(6,\), one value per chunk, and is of shape \(\);",
    ):
        run(model, tiny_batch())


def test_a_token_head_returns_the_training_value_of_absent_dimensions() -> None:
    policy = tiny_policy(action_head="tokens", num_bins=16)
    batch = tiny_batch()
    dims = torch.tensor([[True, False]]).expand(6, 2)
    trained: list[torch.Tensor] = []
    with torch.no_grad():
        hook = policy.head.decoder.embed_tokens.register_forward_pre_hook(lambda module, args: trained.append(args[0]))
        policy({**training_inputs(batch), "action_dim_mask": dims})
        hook.remove()
        context, state = torch.randn(6, policy.config.hidden_size), torch.randn(6, policy.config.hidden_size)
        chunk, _, _ = policy.head.sample(context, state, dims[:, None], torch.Generator().manual_seed(0))
    assert torch.equal(policy.head.encode(chunk)[..., 1], trained[0][..., 1])
    assert len(policy.head.encode(chunk)[..., 0].unique()) > 2


def test_clean_actions_have_the_time_without_noise() -> None:
    for head, clean in (("flow", 1.0), ("diffusion", 0.0)):
        path = tiny_policy(action_head=head).head.path
        torch.manual_seed(0)
        actions = torch.randn(512, 4, 2)
        noised, time, _ = path.noised(actions)
        distance = (noised - actions).square().mean(dim=(1, 2))
        nearest = time[distance.argmin()]
        assert path.clean_time == clean and abs(float(nearest) - clean) < 0.2
