"""Chunks drawn in proportion to their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import coded_table
from torch.utils.data import DataLoader

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.samplers import WeightedChunkSampler
from hf_ptr.errors import InputError


def test_chunks_are_drawn_in_proportion_to_their_weights() -> None:
    weights = np.array([0.0, 1.0, 0.25, 0.0, 4.0, 2.0, 0.0])
    drawn = np.bincount(list(WeightedChunkSampler(weights, 100_000, seed=5)), minlength=7) / 100_000
    expected = weights / weights.sum()
    assert not drawn[weights == 0].any()
    # Four standard deviations of a share.
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected * (1 - expected) / 100_000)).all()


def test_the_last_chunk_of_positive_weight_takes_a_draw_that_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.ones(size, dtype=torch.float64))
    assert list(WeightedChunkSampler(np.array([1.0, 3.0, 0.0]), 2)) == [1, 1]


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    def draws(seed: int, epoch: int) -> list[int]:
        sampler = WeightedChunkSampler(torch.linspace(0, 1, 50), seed=seed)
        sampler.set_epoch(epoch)
        assert len(sampler) == 49
        first = list(sampler)
        assert first == list(sampler) and len(first) == 49
        return first

    assert draws(1, 3) == draws(1, 3)
    assert len({tuple(draws(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_a_data_loader_takes_the_sampler() -> None:
    dataset = ChunkDataset(coded_table([30, 21]), chunk_size=5)
    weights = np.zeros(51)
    weights[[4, 40]] = 1.0
    loader = DataLoader(dataset, batch_size=8, sampler=WeightedChunkSampler(weights, 32))
    drawn = torch.cat([batch["index"] for batch in loader])
    assert len(drawn) == 32 and set(drawn.tolist()) == {4, 40}


@pytest.mark.parametrize(
    ("weights", "arguments", "message"),
    [
        ([1.0, -0.5], {}, r"the weight of chunk 1 is -0.5; weights must be finite and at least 0"),
        ([np.nan, 1.0], {}, r"the weight of chunk 0 is nan; weights must be finite"),
        ([np.inf, 1.0], {}, r"the weight of chunk 0 is inf; weights must be finite"),
        ([0.0, 0.0], {}, r"all weights are 0; no chunk can be drawn"),
        ([], {}, r"all weights are 0; no chunk can be drawn"),
        ([[1.0, 2.0]], {}, r"weights have shape \(1, 2\), expected \(F,\)"),
        ([1.0], {"num_samples": 0}, r"num_samples is 0; it must be at least 1"),
    ],
)
def test_wrong_weights_are_one_line(weights: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightedChunkSampler(np.array(weights), **arguments)
