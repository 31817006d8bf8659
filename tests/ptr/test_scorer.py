"""The transition scorer, `u = f(h, e)` of PTR Sec. 4."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_ptr import TransitionScorer, TransitionScorerConfig


def scorer(seed: int = 0, **changes: int) -> TransitionScorer:
    torch.manual_seed(seed)
    settings = {"context_size": 5, "action_size": 4, "hidden_size": 7, "embedding_size": 6}
    return TransitionScorer(TransitionScorerConfig(**{**settings, **changes}))


def test_the_query_has_unit_norm_and_the_configured_width() -> None:
    query = scorer()(torch.randn(9, 5) * 30.0, torch.randn(9, 4) * 30.0)
    assert query.shape == (9, 6) and query.dtype == torch.float32
    torch.testing.assert_close(query.norm(dim=-1), torch.ones(9))


def test_every_row_reads_its_own_context_and_its_own_action() -> None:
    model, context, action = scorer(), torch.randn(4, 5), torch.randn(4, 4)
    query = model(context, action)
    for row in range(4):
        torch.testing.assert_close(model(context[row : row + 1], action[row : row + 1])[0], query[row])
    for changed in (model(context + 1.0, action), model(context, action + 1.0)):
        assert (changed - query).norm(dim=-1).min() > 1e-3


def test_the_same_action_can_mean_different_things_in_different_contexts() -> None:
    """The parts meet before the last projection: the effect of an action is not the same shift everywhere."""
    model = scorer()
    here, there = torch.randn(1, 5), torch.randn(1, 5)
    one, other = torch.randn(1, 4), torch.randn(1, 4)

    def unnormalised(context: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(model.context(context) + model.action(action))
        return model.query(hidden)

    interaction = (
        unnormalised(here, one) - unnormalised(here, other) - unnormalised(there, one) + unnormalised(there, other)
    )
    assert interaction.norm() > 1e-2
    raw = unnormalised(here, one)
    torch.testing.assert_close(model(here, one), raw / raw.norm())


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_the_permuted_query_is_the_forward_pass_with_another_sample_s_action(rows: int) -> None:
    model, context, action = scorer(), torch.randn(rows, 5), torch.randn(rows, 4)
    matched, permuted = model.with_permuted(context, action)
    torch.testing.assert_close(matched, model(context, action))
    shifted = torch.cat((action[-1:], action[:-1]))
    torch.testing.assert_close(permuted, model(context, shifted))
    assert (matched - permuted).norm(dim=-1).min() > 1e-4, "a sample kept its own action"


def test_both_layers_of_the_action_path_begin_with_xavier() -> None:
    """Uniform within ±sqrt(6 / (fan_in + fan_out)); torch's own bound here would be half as wide or less."""
    model = scorer(context_size=16, action_size=384, hidden_size=192, embedding_size=32)
    layers = [layer for layer in model.action if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(192, 384), (192, 192)]
    for layer in layers:
        fan_out, fan_in = layer.weight.shape
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        largest, spread = layer.weight.abs().max().item(), layer.weight.std().item()
        # Of over 36,000 uniform values the largest lies within a thousandth of the bound, all but surely.
        assert 0.999 * bound < largest <= bound
        assert spread == pytest.approx(bound / math.sqrt(3.0), rel=0.02)
        assert layer.weight.mean().abs() < 0.02 * bound
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


@pytest.mark.parametrize(
    ("context", "action", "message"),
    [
        ((3, 6), (3, 4), r"context \(3, 6\) and action \(3, 4\) must be \(B, 5\) and \(B, 4\)"),
        ((3, 5), (3, 5), r"must be \(B, 5\) and \(B, 4\)"),
        ((3, 1, 5), (3, 4), r"must be \(B, 5\) and \(B, 4\)"),
        ((3, 5), (2, 4), "context has 3 rows and action 2"),
    ],
)
def test_wrong_shapes_are_named(context: tuple[int, ...], action: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer()(torch.zeros(context), torch.zeros(action))


def test_the_auto_classes_restore_it(tmp_path: Path) -> None:
    model = scorer().eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is TransitionScorer
    assert type(AutoConfig.from_pretrained(tmp_path)) is TransitionScorerConfig
    context, action = torch.randn(3, 5), torch.randn(3, 4)
    assert torch.equal(loaded(context, action), model(context, action))
