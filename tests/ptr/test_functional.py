"""Every function of ``hf_ptr.functional`` against a float64 reference written here in plain Python loops."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from hf_ptr import functional as ptr

# The same examples at every run, and no deadline: a busy machine must not fail a test.
generated = settings(deadline=None, derandomize=True, max_examples=80)

INF = math.inf
Rows = list[list[float]]


# ---- the reference


def norm(v: list[float]) -> list[float]:
    length = max(math.sqrt(math.fsum(x * x for x in v)), 1e-6)
    return [x / length for x in v]


def ref_logits(
    query: Rows, positive: Rows, negatives: list[Rows], mask: list[list[bool]], tau: float, bound: float
) -> Rows:
    rows = []
    for b, u in enumerate(query):
        row = []
        for k, y in enumerate([positive[b], *negatives[b]]):
            cosine = math.fsum(p * q for p, q in zip(norm(u), norm(y), strict=True))
            row.append(min(max(cosine / tau, -bound), bound) if k == 0 or mask[b][k - 1] else -INF)
        rows.append(row)
    return rows


def ref_log_match(row: list[float]) -> float:
    top = max(row)
    return row[0] - top - math.log(math.fsum(math.exp(d - top) for d in row))


def ref_mean(values: list[float], valid: list[bool]) -> float:
    kept = [value for value, ok in zip(values, valid, strict=True) if ok]
    return math.fsum(kept) / len(kept) if kept else 0.0


def ref_score(row: list[float]) -> float:
    return ref_log_match(row) + math.log(sum(1 for d in row if d > -INF))


def ref_softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def ref_weight(score: float, beta: float, alpha: float, low: float, high: float, ok: bool) -> float:
    if not ok:
        return 1.0
    tilt = INF if score / beta > 700 else math.exp(score / beta)
    return 1.0 + alpha * (min(max(tilt, low), high) - 1.0)


def ref_self_normalized(loss: list[float], weight: list[float]) -> float:
    total = math.fsum(weight)
    return math.fsum(w * x for w, x in zip(weight, loss, strict=True)) / total if total else 0.0


def ref_assignments(features: list[Rows], projection: Rows, tau: float) -> list[Rows]:
    batch = []
    for sample in features:
        columns = []
        for slot in projection:
            xi = [math.fsum(w * c for w, c in zip(slot, step, strict=True)) / tau for step in sample]
            parts = [math.exp(x - max(xi)) for x in xi]
            columns.append([part / math.fsum(parts) for part in parts])
        batch.append([[column[i] for column in columns] for i in range(len(sample))])
    return batch


def ref_entropy(batch: list[Rows]) -> float:
    total = [-p * math.log(p) / len(step) for sample in batch for step in sample for p in step if p > 0]
    return math.fsum(total) / len(batch)


def ref_diversity(batch: list[Rows]) -> float:
    total = 0.0
    for sample in batch:
        slots = range(len(sample[0]))
        for m in slots:
            for n in slots:
                total += (math.fsum(step[m] * step[n] for step in sample) - (m == n)) ** 2
    return total / len(batch)


# ---- generated inputs


def floats(bound: float, *special: float) -> SearchStrategy[float]:
    return st.one_of(st.sampled_from([0.0, *special]), st.floats(-bound, bound, allow_subnormal=False))


@st.composite
def tensors(draw: DrawFn, *shape: int, values: SearchStrategy[float]) -> Tensor:
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    return torch.tensor(draw(arrays("float64", shape, elements=values)).tolist(), dtype=dtype).reshape(shape)


def masks(*shape: int) -> SearchStrategy[Tensor]:
    whole = st.sampled_from([torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)])
    mixed = arrays("bool", shape).map(lambda x: torch.tensor(x.tolist(), dtype=torch.bool).reshape(shape))
    return st.one_of(whole, mixed)


@st.composite
def candidate_logits(draw: DrawFn) -> Tensor:
    """Ties, K = 0, masked negatives and extremes far beyond the clamp."""
    batch, negatives = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    extreme = draw(st.sampled_from([1.0, 20.0, 1e4, 1e30]))
    logits = draw(tensors(batch, 1 + negatives, values=floats(extreme, extreme, -extreme)))
    logits[:, 1:].masked_fill_(~draw(masks(batch, negatives)), -INF)
    return logits


sizes = st.integers(1, 4)
temperatures = st.floats(0.03, 2.0)
bounds = st.tuples(st.floats(0.01, 5.0), st.floats(0.01, 5.0)).map(lambda pair: (min(pair), max(pair)))
scores = floats(6.0, 700.0, -700.0, 1e30, -1e30)
positive_weights = st.floats(0.01, 100.0)


def close(actual: Tensor, expected: Any, scale: float = 1.0) -> None:
    """Equal to 1e-6 (relative or absolute) in float64; in float32 to 16 roundings of the largest number involved."""
    reference = torch.tensor(expected, dtype=torch.float64).reshape(actual.shape)
    double = actual.dtype == torch.float64
    assert double or actual.dtype == torch.float32
    atol = 1e-6 if double else 16 * torch.finfo(torch.float32).eps * max(scale, 1.0)
    torch.testing.assert_close(actual.double(), reference, rtol=1e-6 if double else 1e-5, atol=atol)


def largest(logits: Tensor) -> float:
    return logits[logits > -INF].abs().max().item()


@generated
@given(st.data(), sizes, st.integers(0, 4), sizes, temperatures, st.sampled_from([20.0, 1.5]), st.booleans())
def test_identification_logits(
    data: st.DataObject, batch: int, count: int, width: int, tau: float, bound: float, shared: bool
) -> None:
    values = floats(10.0, 1.0, 1e-7, 1e4)
    query, positive = (data.draw(tensors(batch, width, values=values)) for _ in range(2))
    negatives = data.draw(tensors(*(() if shared else (batch,)), count, width, values=values))
    mask = data.draw(st.none() | masks(batch, count))
    actual = ptr.identification_logits(
        query, positive, negatives, temperature=tau, negative_mask=mask, logit_clamp=bound
    )
    assert actual.shape == (batch, 1 + count)
    per_sample = (negatives.expand(batch, count, width) if shared else negatives).tolist()
    used = torch.ones(batch, count, dtype=torch.bool) if mask is None else mask
    close(actual, ref_logits(query.tolist(), positive.tolist(), per_sample, used.tolist(), tau, bound), scale=1 / tau)
    units = [torch.nn.functional.normalize(x, dim=-1, eps=1e-6) for x in (query, positive, negatives)]
    again = ptr.identification_logits(*units, temperature=tau, negative_mask=mask, logit_clamp=bound, normalized=True)
    close(again, actual.double().tolist(), scale=1 / tau)
    alone = ptr.match_logit(*units[:2], temperature=tau, logit_clamp=bound)
    close(alone, actual[:, 0].double().tolist(), scale=1 / tau)


@generated
@given(candidate_logits(), st.data())
def test_identification_loss_and_score(logits: Tensor, data: st.DataObject) -> None:
    valid = data.draw(st.none() | masks(len(logits)))
    log_match = [ref_log_match(row) for row in logits.tolist()]
    kept = [True] * len(logits) if valid is None else valid.tolist()
    close(ptr.match_log_probability(logits), log_match, scale=largest(logits))
    close(ptr.identification_loss(logits, valid), ref_mean([-x for x in log_match], kept), scale=largest(logits))
    score = ptr.ptr_score(logits)
    close(score, [ref_score(row) for row in logits.tolist()], scale=largest(logits))
    known = ptr.match_log_probability(logits)
    assert ptr.ptr_score(logits, log_probability=known).equal(score)
    again = ptr.identification_loss(logits, valid, log_probability=known)
    close(again, ref_mean([-x for x in log_match], kept), scale=largest(logits))
    assert bool((score <= (logits > -INF).sum(1).to(score.dtype).log()).all())


@generated
@given(st.data(), sizes)
def test_action_ranking_loss(data: st.DataObject, batch: int) -> None:
    matched, permuted = (data.draw(tensors(batch, values=floats(20.0, 1e30, -1e30))) for _ in range(2))
    valid = data.draw(st.none() | masks(batch))
    losses = [ref_softplus(q - p) for p, q in zip(matched.tolist(), permuted.tolist(), strict=True)]
    kept = [True] * batch if valid is None else valid.tolist()
    close(ptr.action_ranking_loss(matched, permuted, valid), ref_mean(losses, kept), scale=20.0)


@generated
@given(st.data(), sizes, st.floats(0.05, 5.0), st.floats(0.0, 1.0), bounds)
def test_conservative_weight(
    data: st.DataObject, batch: int, beta: float, alpha: float, clip: tuple[float, float]
) -> None:
    score = data.draw(tensors(batch, values=scores))
    valid = data.draw(st.none() | masks(batch))
    actual = ptr.conservative_weight(score, beta=beta, alpha=alpha, w_min=clip[0], w_max=clip[1], valid=valid)
    kept = [True] * batch if valid is None else valid.tolist()
    rows = zip(score.tolist(), kept, strict=True)
    close(actual, [ref_weight(x, beta, alpha, *clip, ok) for x, ok in rows], scale=5.0)
    if alpha == 0:
        assert actual.tolist() == [1.0] * batch


@generated
@given(st.data(), sizes)
def test_self_normalized_mean_and_effective_sample_size(data: st.DataObject, batch: int) -> None:
    loss = data.draw(tensors(batch, values=floats(50.0, 1e4)))
    weight = data.draw(tensors(batch, values=st.one_of(st.just(0.0), positive_weights)))
    close(ptr.self_normalized_mean(loss, weight), ref_self_normalized(loss.tolist(), weight.tolist()), scale=1e4)
    if weight.any():
        w = weight.tolist()
        size = ptr.effective_sample_size(weight)
        close(size, math.fsum(w) ** 2 / math.fsum(x * x for x in w))
        assert 1 <= size.item() <= batch


@generated
@given(st.data(), sizes, sizes, sizes, sizes, temperatures)
def test_belief_assignments(data: st.DataObject, batch: int, length: int, width: int, slots: int, tau: float) -> None:
    features = data.draw(tensors(batch, length, width, values=floats(1.0, 1.0, -1.0)))
    projection = data.draw(tensors(slots, width, values=floats(2.0, 100.0)))
    actual = ptr.soft_assignments(features, projection, tau)
    steepest = (features.double().abs() @ projection.double().abs().T).max().item() / tau
    close(actual, ref_assignments(features.tolist(), projection.tolist(), tau), scale=steepest)
    close(actual.sum(1), [[1.0] * slots] * batch)
    close(ptr.slot_entropy(actual), ref_entropy(actual.tolist()))
    close(ptr.slot_diversity(actual), ref_diversity(actual.tolist()), scale=slots**2)


# ---- Sec. 5: the bounds


@generated
@given(st.data(), st.integers(1, 8), st.floats(0.05, 5.0), st.floats(0.0, 1.0), bounds)
def test_weights_keep_every_bound(
    data: st.DataObject, size: int, beta: float, alpha: float, clip: tuple[float, float]
) -> None:
    score = data.draw(tensors(size, values=scores))
    source = data.draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size))
    weight = ptr.conservative_weight(score, beta=beta, alpha=alpha, w_min=clip[0], w_max=clip[1]).tolist()
    low, high = ptr.weight_bounds(alpha, *clip)
    assert (low, high) == pytest.approx((1 + alpha * (clip[0] - 1), 1 + alpha * (clip[1] - 1)), rel=1e-6)
    slack = 1e-6 if score.dtype == torch.float64 else 1e-5
    mean = math.fsum(weight) / size
    ratio = [w / mean for w in weight]
    assert all(low / mean - slack <= r <= high / mean + slack for r in ratio)
    divergence = math.fsum(r / size * math.log(r) for r in ratio)
    assert ptr.kl_bound(alpha, *clip) == pytest.approx(math.log(high / low), abs=1e-6)
    assert -slack <= divergence <= ptr.kl_bound(alpha, *clip) + slack

    shift = ptr.source_shift(torch.tensor(weight, dtype=torch.float64), source)
    assert set(shift) == set(source)
    for name, value in shift.items():
        own = [w for w, m in zip(weight, source, strict=True) if m == name]
        assert value == pytest.approx(math.fsum(own) / len(own) / mean, rel=1e-6)
        assert low / high - slack <= value <= high / low + slack
    assert math.fsum(shift[m] for m in source) / size == pytest.approx(1.0, rel=1e-6)


def test_default_bounds_and_degenerate_ones() -> None:
    assert ptr.kl_bound(1.0, 0.25, 4.0) == pytest.approx(math.log(16.0), rel=1e-12)
    assert ptr.kl_bound(0.0, 0.25, 4.0) == 0.0
    assert ptr.kl_bound(1.0, 0.0, 4.0) == INF
    weight = ptr.conservative_weight(torch.tensor([-1e30, 0.0, 1e30]), beta=0.5)
    assert weight.tolist() == [0.25, 1.0, 4.0]


# ---- gradients


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    query, positive, shared, own = (
        torch.randn(size, dtype=torch.float64, requires_grad=True) for size in [(3, 4), (3, 4), (5, 4), (3, 2, 4)]
    )
    mask = torch.rand(3, 5) < 0.6

    def end_to_end(*inputs: Tensor) -> Tensor:
        logits = ptr.identification_logits(*inputs, temperature=0.7)
        return ptr.identification_loss(logits) + ptr.ptr_score(logits).square().sum()

    def masked(*inputs: Tensor) -> Tensor:
        return ptr.identification_loss(ptr.identification_logits(*inputs, temperature=0.7, negative_mask=mask))

    def belief(features: Tensor, projection: Tensor) -> Tensor:
        assignments = ptr.soft_assignments(features, projection, 0.8)
        return ptr.slot_entropy(assignments) + 0.3 * ptr.slot_diversity(assignments)

    assert torch.autograd.gradcheck(end_to_end, (query, positive, own))
    assert torch.autograd.gradcheck(masked, (query, positive, shared))
    assert torch.autograd.gradcheck(belief, (own, query))
    assert torch.autograd.gradcheck(ptr.action_ranking_loss, (query[:, 0], positive[:, 0]))
    assert torch.autograd.gradcheck(lambda x: ptr.self_normalized_mean(x, shared[:3, 0].abs()), (query[:, 0],))


def test_no_gradient_enters_the_weight() -> None:
    score = torch.randn(4, requires_grad=True)
    assert not ptr.conservative_weight(score, beta=torch.tensor(1.5, requires_grad=True)).requires_grad
    loss, weight = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    ptr.self_normalized_mean(loss, weight).backward()
    assert weight.grad is None
    torch.testing.assert_close(loss.grad, weight.detach() / weight.detach().sum())


def test_without_a_valid_sample_losses_are_zero_and_backward_works() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    matched, permuted = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    masked = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(torch.ones(3, 3).bool(), -INF)], dim=1)
    loss = ptr.identification_loss(masked, none) + ptr.action_ranking_loss(matched, permuted, none)
    assert loss.item() == 0.0
    loss.backward()
    assert all(x.grad is not None and not x.grad.any() for x in (logits, matched, permuted))
    empty = torch.zeros(0, 4, requires_grad=True)
    (ptr.identification_loss(empty) + ptr.self_normalized_mean(empty[:, 0], torch.zeros(0))).backward()


def test_masked_values_are_never_read() -> None:
    torch.manual_seed(1)
    clean = [torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 2, 4), torch.randn(3), torch.randn(3)]
    dirty = [x.clone() for x in clean]
    for x in dirty:
        x[1] = math.nan
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    valid = mask[:, 0]
    results = []
    for *embeddings, matched, permuted in (clean, [clean[0], clean[1], *dirty[2:]]):
        leaves = [x.clone().requires_grad_() for x in (*embeddings, matched, permuted)]
        logits = ptr.identification_logits(*leaves[:3], temperature=0.1, negative_mask=mask)
        loss = ptr.identification_loss(logits, valid) + ptr.action_ranking_loss(leaves[3], leaves[4], valid)
        loss.backward()
        weight = ptr.conservative_weight(leaves[3], beta=1.0, valid=valid)
        results.append([logits, loss, weight, *(leaf.grad for leaf in leaves)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    shared = dirty[0]
    logits = ptr.identification_logits(
        clean[0], clean[1], shared, temperature=0.1, negative_mask=torch.tensor([[True, False, True]] * 3)
    )
    assert torch.isfinite(logits[:, [0, 1, 3]]).all()
    spoiled = logits.clone()
    spoiled[1] = math.nan
    torch.testing.assert_close(ptr.identification_loss(spoiled, valid), ptr.identification_loss(logits, valid))


def test_underflowing_assignments_and_zero_vectors_have_finite_gradients() -> None:
    features = torch.tensor([[[0.0], [1.0]]], requires_grad=True)
    assignments = ptr.soft_assignments(features, torch.tensor([[1.0], [-1.0]]), 1e-3)
    assert (assignments == 0).any()
    (ptr.slot_entropy(assignments) + ptr.slot_diversity(assignments)).backward()
    zero = torch.zeros(2, 3, requires_grad=True)
    ptr.identification_loss(ptr.identification_logits(zero, zero, zero, temperature=0.03)).backward()
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in (features, zero))


# ---- precision, devices and errors


def test_computation_is_in_float32_for_any_input_type() -> None:
    torch.manual_seed(2)
    query, positive, negatives = (torch.randn(3, 8, dtype=torch.bfloat16) for _ in range(3))
    features, projection = torch.randn(2, 4, 8), torch.randn(3, 8)

    def run(dtype: torch.dtype) -> list[Tensor]:
        logits = ptr.identification_logits(query.to(dtype), positive.to(dtype), negatives.to(dtype), temperature=0.03)
        own = negatives.to(dtype).expand(3, 3, 8)
        assignments = ptr.soft_assignments(features, projection, 1.0)
        return [
            logits,
            ptr.identification_logits(query.to(dtype), positive.to(dtype), own, temperature=0.03),
            ptr.ptr_score(logits),
            ptr.identification_loss(logits),
            assignments,
            ptr.slot_diversity(assignments),
        ]

    plain = run(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = run(torch.bfloat16)
    for expected, actual in zip(plain, under_autocast, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_unchecked_maths_never_waits_for_the_device() -> None:
    """Tensors of the meta device have no values, so any read by the host would raise."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device="meta")

    def training_step() -> None:
        usable, valid = zeros(4, 6).bool(), zeros(4).bool()
        for negatives in (zeros(6, 8), zeros(4, 6, 8)):
            logits = ptr.identification_logits(
                zeros(4, 8), zeros(4, 8), negatives, temperature=zeros(), negative_mask=usable
            )
        ptr.identification_loss(logits, valid)
        ptr.action_ranking_loss(logits[:, 0], logits[:, 1], valid)
        weight = ptr.conservative_weight(ptr.ptr_score(logits), beta=zeros(), valid=valid)
        ptr.self_normalized_mean(zeros(4), weight)
        ptr.effective_sample_size(weight)
        assignments = ptr.soft_assignments(zeros(4, 5, 8), zeros(3, 8), 1.0)
        ptr.slot_entropy(assignments)
        ptr.slot_diversity(assignments)

    with ptr.unchecked():
        training_step()
    with pytest.raises(RuntimeError):
        training_step()


def test_unchecked_ends_with_its_block_and_still_checks_shapes() -> None:
    nan = torch.tensor([[math.nan, 0.0]])
    with pytest.raises(KeyError), ptr.unchecked():
        with ptr.unchecked():
            assert ptr.ptr_score(nan).isnan().all()
        assert ptr.ptr_score(nan).isnan().all()
        with pytest.raises(ValueError, match="logits"):
            ptr.ptr_score(nan[0])
        raise KeyError
    with pytest.raises(ValueError, match="logits"):
        ptr.ptr_score(nan)


def spoil(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x.view(-1)[-1] = value
    return x


V, E, G, P = torch.ones(3), torch.ones(3, 4), torch.full((3, 5, 2), 0.2), torch.ones(2, 4)
TENSORS: list[tuple[Callable[..., Any], dict[str, Any], list[str], list[str]]] = [
    (
        ptr.identification_logits,
        {"query": E, "positive": E, "negatives": E, "temperature": 0.1, "negative_mask": E[:, :3].bool()},
        ["query", "positive", "negatives"],
        ["negative_mask"],
    ),
    (ptr.match_logit, {"query": E, "positive": E, "temperature": 0.1}, ["query", "positive"], []),
    (ptr.match_log_probability, {"logits": E}, ["logits"], []),
    (ptr.identification_loss, {"logits": E, "valid": V.bool()}, ["logits"], ["valid"]),
    (ptr.ptr_score, {"logits": E}, ["logits"], []),
    (
        ptr.action_ranking_loss,
        {"matched_logit": V, "permuted_logit": V, "valid": V.bool()},
        ["matched_logit", "permuted_logit"],
        ["valid"],
    ),
    (ptr.conservative_weight, {"score": V, "beta": 1.0, "valid": V.bool()}, ["score"], ["valid"]),
    (ptr.self_normalized_mean, {"loss": V, "weight": V}, ["loss", "weight"], []),
    (
        ptr.soft_assignments,
        {"features": G, "projection": P[:, :2], "temperature": 1.0},
        ["features", "projection"],
        [],
    ),
    (ptr.slot_entropy, {"assignments": G}, ["assignments"], []),
    (ptr.slot_diversity, {"assignments": G}, ["assignments"], []),
    (ptr.source_shift, {"weight": V, "source": ["a", "b", "a"]}, ["weight"], []),
    (ptr.effective_sample_size, {"weight": V}, ["weight"], []),
]


@pytest.mark.parametrize(("function", "good", "real", "masks"), TENSORS, ids=lambda x: getattr(x, "__name__", ""))
def test_wrong_tensors_are_named(
    function: Callable[..., Any], good: dict[str, Any], real: list[str], masks: list[str]
) -> None:
    function(**good)
    wrong: list[tuple[str, Any]] = [(name, spoil(good[name], x)) for name in real for x in (math.nan, INF, -INF)]
    wrong = [(name, x) for name, x in wrong if name != "logits" or not x.isneginf().any()]
    for name in [*real, *masks]:
        x = good[name]
        wrong += [(name, x[0]), (name, x.unsqueeze(0).unsqueeze(0)), (name, x.tolist())]
        if len(good) > 1 and name != "logits":  # (B, 1) logits are K = 0
            wrong += [(name, x[..., :1])]
    wrong += [(name, good[name].float()) for name in masks]
    for name, value in wrong:
        with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
            function(**{**good, name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("logits", lambda: ptr.ptr_score(torch.tensor([[-INF, 0.0]]))),
        ("logits", lambda: ptr.identification_loss(torch.zeros(2, 0))),
        ("temperature", lambda: ptr.identification_logits(E, E, E, temperature=0.0)),
        ("temperature", lambda: ptr.identification_logits(E, E, E, temperature=torch.tensor(math.nan))),
        ("temperature", lambda: ptr.identification_logits(E, E, E, temperature=torch.ones(2))),
        ("temperature", lambda: ptr.soft_assignments(G, P[:, :2], -1.0)),
        ("logit_clamp", lambda: ptr.identification_logits(E, E, E, temperature=0.1, logit_clamp=INF)),
        ("beta", lambda: ptr.conservative_weight(V, beta=math.nan)),
        ("alpha", lambda: ptr.conservative_weight(V, beta=1.0, alpha=1.1)),
        ("alpha", lambda: ptr.weight_bounds(math.nan, 0.25, 4.0)),
        ("w_min", lambda: ptr.kl_bound(1.0, -0.1, 4.0)),
        ("w_min", lambda: ptr.weight_bounds(1.0, 4.0, 0.25)),
        ("w_max", lambda: ptr.weight_bounds(1.0, 0.25, INF)),
        ("w_max", lambda: ptr.conservative_weight(V, beta=1.0, w_max=1e300)),
        ("weight", lambda: ptr.self_normalized_mean(V, -V)),
        ("weight", lambda: ptr.effective_sample_size(0 * V)),
        ("weight", lambda: ptr.effective_sample_size(V[:0])),
        ("weight", lambda: ptr.source_shift(0 * V, ["a", "b", "c"])),
        ("source", lambda: ptr.source_shift(V, "abc")),
        ("source", lambda: ptr.source_shift(V, ["a"])),
        ("assignments", lambda: ptr.slot_entropy(-G)),
        ("features", lambda: ptr.soft_assignments(G[:, :0], P[:, :2], 1.0)),
    ],
)
def test_wrong_numbers_and_edge_cases_are_named(name: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        call()


def test_the_example_of_the_module_gives_what_it_shows() -> None:
    results = doctest.testmod(ptr)
    assert results.attempted >= 6 and results.failed == 0
