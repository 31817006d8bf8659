"""Belief tokens that are not carried: dropout in training, and evaluation with a reset at every chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import policy_inputs, tiny_batch, tiny_model
from trainer_helpers import BELIEF, make

from hf_ptr import PTRConfig
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.ptr import BeliefCarry
from hf_ptr.training.micro_batches import recall_belief


@pytest.mark.parametrize(("dropout", "low", "high"), [(0.0, 1.0, 1.0), (0.3, 0.65, 0.75), (1.0, 0.0, 0.0)])
def test_each_chunk_loses_its_tokens_with_the_given_probability(dropout: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    carry = BeliefCarry()
    index = torch.arange(2000)
    carry.remember(index, torch.randn(2000, 2, 3))
    batch: dict[str, Any] = {"previous_index": index}
    recall_belief([batch], carry, dropout)
    assert low <= float(batch["carried"].float().mean()) <= high


def test_training_with_dropout_is_a_run_in_which_fewer_chunks_carry(metaworld_dataset: Path, tmp_path: Path) -> None:
    losses, carried = {}, {}
    for dropout in (0.0, 0.5, 1.0):
        trainer = make(metaworld_dataset, tmp_path / str(dropout), max_steps=4, belief_dropout=dropout, **BELIEF)
        seen: list[float] = []

        def spied(*args: Any, forward: Any = trainer.model.forward, seen: list[float] = seen, **inputs: Any) -> Any:
            if inputs["carried"] is not None:
                seen.append(float(inputs["carried"].float().mean()))
            return forward(*args, **inputs)

        trainer.model.forward = spied
        trainer.train()
        losses[dropout] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        carried[dropout] = seen
    assert all(share == 0.0 for share in carried[1.0]) and 0.3 < sum(carried[0.5]) / sum(carried[0.0]) < 0.7
    # The order of the chunks is the same: the first step, in which nothing is carried, does not differ.
    assert losses[0.0][0] == losses[0.5][0] == losses[1.0][0] and losses[0.0][-1] != losses[1.0][-1]


def test_a_policy_that_resets_acts_as_at_the_first_chunk() -> None:
    policy = tiny_model(with_scorer=False).policy.eval()
    first, second = policy_inputs(tiny_batch(3)), policy_inputs(tiny_batch(3, seed=1))
    chunks = {}
    for carries in (True, False):
        policy.carries_belief = carries
        policy.reset()
        policy.predict_action_chunk(first, torch.Generator().manual_seed(0))
        chunks[carries] = policy.predict_action_chunk(second, torch.Generator().manual_seed(0))
    policy.reset()
    alone = policy.predict_action_chunk(second, torch.Generator().manual_seed(0))
    assert torch.equal(chunks[False], alone) and not torch.allclose(chunks[True], alone)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_an_evaluation_on_a_dataset_is_as_trained_or_on_request(
    dropout: float, metaworld_dataset: Path, tmp_path: Path
) -> None:
    trainer = make(metaworld_dataset, tmp_path / "run", max_steps=2, belief_dropout=dropout, **BELIEF)
    with torch.no_grad():
        # The tokens of a policy that has hardly been trained say little.
        for parameter in trainer.model.belief_tokenizer.parameters():
            parameter.mul_(20.0)
    trainer.train()
    trainer.save_model()
    table = read_dataset(metaworld_dataset).select([0])
    trained, reset, carried = (
        evaluate_dataset(tmp_path / "run", table, **given).policy
        for given in ({}, {"belief": "reset"}, {"belief": "carried"})
    )
    assert trained == pytest.approx(reset if dropout else carried)
    assert abs(float(carried[0] - reset[0])) > 1e-6
    with pytest.raises(InputError, match="belief is 'none'; known: trained, carried, reset"):
        evaluate_dataset(tmp_path / "run", table, belief="none")


def test_values_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"belief_dropout is 1.5; it must lie in \[0, 1\]"):
        PTRConfig(output_dir=str(tmp_path), use_cpu=True, belief_dropout=1.5)
    with pytest.raises(ValueError, match=r"belief_dropout is 0.5, but belief_tokens is 0, .*; remove belief_dropout"):
        PTRConfig(output_dir=str(tmp_path), use_cpu=True, belief_dropout=0.5, belief_tokens=0)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_an_evaluation_in_training_carries_tokens_only_if_training_does(
    dropout: float, metaworld_dataset: Path, tmp_path: Path
) -> None:
    trainer = make(metaworld_dataset, tmp_path, eval_dataset=True, belief_dropout=dropout, **BELIEF)
    carried = 0

    def spied(*args: Any, forward: Any = trainer.model.forward, **inputs: Any) -> Any:
        nonlocal carried
        carried += 0 if inputs["carried"] is None else int(inputs["carried"].sum())
        return forward(*args, **inputs)

    trainer.model.forward = spied
    trainer.evaluate()
    assert (carried > 0) == (dropout == 0.0)
