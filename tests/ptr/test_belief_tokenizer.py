"""The belief tokenizer against PTR Eq. (6)-(11) in plain loops, and tokens carried from chunk to chunk."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from hf_ptr import BeliefTokenizer, BeliefTokenizerConfig
from hf_ptr.ptr import BeliefCarry

Rows = list[list[float]]


def matvec(matrix: Rows, vector: list[float]) -> list[float]:
    return [math.fsum(w * x for w, x in zip(row, vector, strict=True)) for row in matrix]


def reference(
    context: Rows, action: Rows, fuse: Rows, assign: Rows, tau: float
) -> tuple[Rows, Rows, Rows, float, float]:
    """One chunk by the book: tokens, assignments, reconstruction, entropy, diversity."""
    length, slots = len(context), len(assign)
    features = [[math.tanh(x) for x in matvec(fuse, c + a)] for c, a in zip(context, action, strict=True)]  # Eq. 6
    width = len(features[0])
    logits = [matvec(assign, feature) for feature in features]
    share = [[0.0] * slots for _ in range(length)]
    for m in range(slots):  # Eq. 7: over time
        tilts = [math.exp(logits[i][m] / tau) for i in range(length)]
        for i in range(length):
            share[i][m] = tilts[i] / math.fsum(tilts)
    tokens = [
        [math.fsum(share[i][m] * features[i][d] for i in range(length)) for d in range(width)] for m in range(slots)
    ]  # Eq. 8
    rebuilt = [
        [math.fsum(share[i][m] * tokens[m][d] for m in range(slots)) for d in range(width)] for i in range(length)
    ]  # Eq. 9
    entropy = -math.fsum(p * math.log(p) for row in share for p in row) / slots  # Eq. 10
    diversity = 0.0
    for m in range(slots):  # Eq. 11
        for n in range(slots):
            gram = math.fsum(share[i][m] * share[i][n] for i in range(length))
            diversity += (gram - (1.0 if m == n else 0.0)) ** 2
    return tokens, share, rebuilt, entropy, diversity


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 5),
    slots=st.integers(1, 4),
    width=st.integers(1, 4),
    feature=st.integers(1, 3),
    tau=st.floats(0.3, 3.0),
    seed=st.integers(0, 1000),
)
def test_the_tokenizer_follows_equations_6_to_11(
    batch: int, length: int, slots: int, width: int, feature: int, tau: float, seed: int
) -> None:
    torch.manual_seed(seed)
    config = BeliefTokenizerConfig(
        hidden_size=width,
        feature_size=feature,
        num_tokens=slots,
        temperature=tau,
        entropy_weight=0.3,
        diversity_weight=0.7,
    )
    tokenizer = BeliefTokenizer(config).double()
    context = torch.randn(batch, length, feature, dtype=torch.float64)
    action = torch.randn(batch, length, feature, dtype=torch.float64)
    output = tokenizer(context, action)

    fuse, assign = tokenizer.fuse.weight.tolist(), tokenizer.assign.weight.tolist()
    rows = [reference(c, a, fuse, assign, tau) for c, a in zip(context.tolist(), action.tolist(), strict=True)]
    tokens, share, rebuilt = (torch.tensor([row[n] for row in rows], dtype=torch.float64) for n in range(3))
    entropy = math.fsum(row[3] for row in rows) / batch
    diversity = math.fsum(row[4] for row in rows) / batch

    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(output.tokens, tokens, **close)
    torch.testing.assert_close(output.assignments, share, **close)
    torch.testing.assert_close(output.reconstruction, rebuilt, **close)
    assert output.entropy.item() == pytest.approx(entropy, abs=1e-10)
    assert output.diversity.item() == pytest.approx(diversity, abs=1e-10)
    assert output.loss.item() == pytest.approx(0.3 * entropy + 0.7 * diversity, abs=1e-10)
    assert output.assignments.sum(dim=1).sub(1.0).abs().max() < 1e-12


def test_shapes_and_the_default_widths() -> None:
    config = BeliefTokenizerConfig(hidden_size=10)
    assert (config.num_tokens, config.feature_size) == (4, 10)
    assert (config.temperature, config.entropy_weight, config.diversity_weight) == (1.0, 1e-3, 1e-3)
    output = BeliefTokenizer(config)(torch.randn(3, 6, 10), torch.randn(3, 6, 10))
    assert output.tokens.shape == (3, 4, 10)
    assert output.assignments.shape == (3, 6, 4)
    assert output.reconstruction.shape == (3, 6, 10)
    assert output.entropy.shape == output.diversity.shape == output.loss.shape == ()


def test_initial_tokens_are_learned_and_the_same_for_every_row() -> None:
    torch.manual_seed(0)
    tokenizer = BeliefTokenizer(BeliefTokenizerConfig(hidden_size=6, num_tokens=3))
    initial = tokenizer.initial_tokens(5)
    assert initial.shape == (5, 3, 6)
    assert torch.equal(initial, tokenizer.initial.expand(5, 3, 6))
    assert len({tuple(row) for row in tokenizer.initial.tolist()}) == 3, "slots that start equal would stay equal"
    initial.sum().backward()
    assert torch.equal(tokenizer.initial.grad, torch.full((3, 6), 5.0))


def test_wrong_shapes_are_named() -> None:
    tokenizer = BeliefTokenizer(BeliefTokenizerConfig(hidden_size=6, feature_size=4))
    with pytest.raises(ValueError, match=r"context_tokens \(2, 3, 4\) and action_tokens \(2, 5, 4\)"):
        tokenizer(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"\(B, L, F\)"):
        tokenizer(torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"context_tokens have width 6, not 4"):
        tokenizer(torch.zeros(2, 3, 6), torch.zeros(2, 3, 6))


@pytest.mark.parametrize(("name", "value"), [("num_tokens", 0), ("temperature", 0.0), ("temperature", -1.0)])
def test_a_configuration_that_cannot_work_is_refused(name: str, value: float) -> None:
    with pytest.raises(StrictDataclassError, match=f"{name} is {value}"):
        BeliefTokenizerConfig(**{name: value})


def test_the_auto_classes_restore_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BeliefTokenizerConfig(hidden_size=6, feature_size=4, num_tokens=3, temperature=0.5, entropy_weight=0.25)
    tokenizer = BeliefTokenizer(config).eval()
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()

    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is BeliefTokenizer
    assert type(AutoConfig.from_pretrained(tmp_path)) is BeliefTokenizerConfig
    assert type(AutoModel.from_config(config)) is BeliefTokenizer
    assert loaded.config.to_diff_dict().items() >= {"feature_size": 4, "temperature": 0.5}.items()
    inputs = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    before, after = tokenizer(*inputs), loaded(*inputs)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.loss, after.loss)
    assert torch.equal(tokenizer.initial, loaded.initial)


# ---- the way from one step to the next


def coded_tokens(index: torch.Tensor) -> torch.Tensor:
    """Belief tokens `(N, 2, 3)` that name the chunk that left them."""
    return index.float()[:, None, None].expand(-1, 2, 3) + torch.arange(6.0).view(2, 3) / 10


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    left=st.lists(st.integers(0, 30), min_size=1, max_size=10, unique=True),
    wanted=st.lists(st.integers(-1, 35), min_size=1, max_size=10),
)
def test_every_chunk_finds_the_tokens_of_its_own_predecessor(left: list[int], wanted: list[int]) -> None:
    carry = BeliefCarry()
    carry.remember(torch.tensor(left), coded_tokens(torch.tensor(left)))
    tokens, found = carry.recall(torch.tensor(wanted))
    assert tokens.shape == (len(wanted), 2, 3)
    assert found.tolist() == [index in left for index in wanted]
    expected = coded_tokens(torch.tensor(wanted))
    assert torch.equal(tokens[found], expected[found])


def test_only_the_last_batch_is_remembered() -> None:
    carry = BeliefCarry()
    assert carry.recall(torch.tensor([0, 1])) == (None, None)
    # A step of two micro-batches, then another.
    for step in ((torch.tensor([0, 1]), torch.tensor([4])), (torch.tensor([7]),)):
        carry.clear()
        for index in step:
            carry.remember(index, coded_tokens(index))
        tokens, found = carry.recall(torch.tensor([0, 4, 7, 1]))
        known = torch.cat(step).tolist()
        assert found.tolist() == [index in known for index in (0, 4, 7, 1)]
        assert torch.equal(tokens[found], coded_tokens(torch.tensor([0, 4, 7, 1])[found]))


def test_a_chunk_without_predecessor_never_finds_one() -> None:
    """-1 stands for "none" on both sides: two of them are not a match."""
    carry = BeliefCarry()
    carry.remember(torch.tensor([-1, 3]), coded_tokens(torch.tensor([-1, 3])))
    assert carry.recall(torch.tensor([-1, 3]))[1].tolist() == [False, True]


def test_the_carry_survives_a_restart() -> None:
    index = torch.tensor([4, 9, 2])
    carry, restored = BeliefCarry(), BeliefCarry()
    assert carry.state_dict() == {}
    carry.remember(index, coded_tokens(index))
    restored.load_state_dict(carry.state_dict())
    wanted = torch.tensor([2, 5, 4])
    for mine, theirs in zip(carry.recall(wanted), restored.recall(wanted), strict=True):
        assert torch.equal(mine, theirs)
    restored.load_state_dict({})
    assert restored.recall(wanted) == (None, None)
