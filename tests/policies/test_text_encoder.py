"""Instructions through a text encoder: number of passes, and frozen encoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_helpers import (
    Batch,
    losses_of,
    text_config,
    text_processor,
    tiny_batch,
    tiny_model,
    tiny_policy,
    training_inputs,
)

from hf_ptr import VLAPolicy
from hf_ptr.policies.vla.text import InstructionReader


def spoken_batch() -> Batch:
    """Six chunks, three instructions."""
    batch = tiny_batch()
    encoded = text_processor().encode_instructions(["push the cube", "open the drawer slowly", "close"])
    return {**batch, **{name: rows[batch["task_index"]] for name, rows in encoded.items()}}


def context(policy: VLAPolicy, batch: Batch) -> torch.Tensor:
    return policy(training_inputs(batch)).context


def rows_read(policy: VLAPolicy, batch: Batch) -> list[int]:
    """How many instructions the encoder reads in each of two passes."""
    seen: list[int] = []
    hook = policy.text_encoder.register_forward_pre_hook(
        lambda module, given, named: seen.append(len(named["input_ids"])), with_kwargs=True
    )
    with torch.no_grad():
        for _ in range(2):
            context(policy, batch)
    hook.remove()
    return seen


def test_each_instruction_is_encoded_once_with_the_gradient_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> tuple[list[Any], torch.Tensor]:
        model = tiny_model(text_config=text_config())
        losses_of(model, spoken_batch()).total.backward()
        return rows_read(
            model.policy, spoken_batch()
        ), model.policy.text_encoder.embeddings.word_embeddings.weight.grad

    read, grad = gradient()
    monkeypatch.setattr(
        InstructionReader,
        "__call__",
        lambda self, encoder, ids, mask: encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state,
    )
    of_all, expected = gradient()
    assert read == [3, 3] and of_all == [6, 6]
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-7)


def test_a_frozen_encoder_reads_each_instruction_only_once() -> None:
    config = text_config()
    config.hidden_dropout_prob = 0.5
    policy = tiny_policy(text_config=config, freeze_text=True).train()
    assert not policy.text_encoder.training and policy.text_projection.training
    batch = spoken_batch()
    assert rows_read(policy, batch) == [3] and rows_read(policy, batch) == []
    first = context(policy, batch)
    assert torch.equal(context(policy, batch), first)
    first.sum().backward()
    assert policy.text_projection.weight.grad is not None
    assert all(parameter.grad is None for parameter in policy.text_encoder.parameters())
    # New weights invalidate the cached embeddings.
    other = tiny_policy(seed=1, text_config=config, freeze_text=True)
    policy.load_state_dict(other.state_dict())
    torch.testing.assert_close(context(policy, batch), context(other.train(), batch))
