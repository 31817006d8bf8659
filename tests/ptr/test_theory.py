"""PTR's theory (Sec. 6 of the method), checked with the library's own functions on distributions known in closed form.

Every sampled figure is compared within ``Z`` standard errors of that very figure, computed from the same sample, plus,
where the estimator is biased at finite size, a bound of the bias. Figures without sampling are compared to 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hf_ptr import functional as ptr

Z = 5.0
"""Standard errors allowed: a correct implementation would fail one check in 1.7 million, and the seeds are fixed."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(20260317)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def minimise(loss: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Minimiser of a smooth convex loss, from zero."""
    x = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(x)
        value.backward()
        return value

    optimiser.step(closure)
    assert x.grad is not None and x.grad.abs().max() < 1e-7
    return x.detach()


def tilt(score: Tensor, beta: float) -> Tensor:
    """``exp(T / beta)``: the weight without its clip."""
    return ptr.conservative_weight(score, beta=beta, w_min=0.0, w_max=1e30)


def self_normalised_error(values: Tensor, weight: Tensor, mean: float) -> float:
    """Z standard errors (delta method) of a self-normalised mean, plus the Hartley-Ross bound of its bias, cv * se."""
    se = (weight * (values - mean)).square().sum().sqrt().item() / weight.sum().item()
    cv = (weight.std() / weight.mean()).item() / math.sqrt(len(weight))
    return (Z + cv) * se


# ---- Proposition 1: the Bayes-optimal logit is log p+/p- + const


@pytest.mark.parametrize(
    ("positive", "negative"),
    [([4, 3, 2, 1], [1, 2, 3, 4]), ([1, 6, 1, 2], [3, 1, 4, 2]), ([5, 3, 2], [4, 3, 3]), ([2, 2, 6], [2, 2, 6])],
)
def test_discrete_bayes_optimal_logit(positive: list[int], negative: list[int]) -> None:
    """The exact expected loss at K = 2: each (match, negative, negative) as often as its probability demands."""
    matches = torch.repeat_interleave(torch.tensor(positive))
    others = torch.repeat_interleave(torch.tensor(negative))
    outcomes = torch.cartesian_prod(matches, others, others)
    fitted = minimise(lambda table: ptr.identification_loss(table[outcomes]), len(positive))
    ratio = (vector(*positive) / vector(*negative)).log()
    torch.testing.assert_close(fitted - fitted.mean(), ratio - ratio.mean(), atol=1e-6, rtol=0)


def test_bayes_optimal_logit_depends_on_the_context_only_by_a_constant() -> None:
    """Two contexts share the negatives; each context's row of the table finds its own ratio."""
    negative = [2, 1, 2]
    positives = [[1, 3, 1], [3, 1, 1]]
    others = torch.repeat_interleave(torch.tensor(negative))
    outcomes = torch.cat(
        [
            torch.cartesian_prod(torch.repeat_interleave(torch.tensor(p)), others, others) + 3 * context
            for context, p in enumerate(positives)
        ]
    )
    fitted = minimise(lambda table: ptr.identification_loss(table[outcomes]), 6).reshape(2, 3)
    ratio = (torch.tensor(positives, dtype=torch.float64) / vector(*negative)).log()
    torch.testing.assert_close(
        fitted - fitted.mean(1, keepdim=True), ratio - ratio.mean(1, keepdim=True), atol=1e-6, rtol=0
    )


def test_gaussian_bayes_optimal_logit() -> None:
    """p+ = N(m, s^2), p- = N(0, 1): log p+/p- = a y^2 + b y + const with a = (1 - 1/s^2)/2 and b = m/s^2.

    A quadratic logit fitted to n samples is a maximum-likelihood estimate of which candidate is the match, so its
    covariance is the inverse of the summed information.
    """
    n, mean, std = 20_000, 0.5, 0.7
    y = torch.randn(n, 5, dtype=torch.float64)
    y[:, 0] = mean + std * y[:, 0]

    def loss(x: Tensor) -> Tensor:
        return ptr.identification_loss(x[0] * y.square() + x[1] * y)

    fitted = minimise(loss, 2)
    information = n * torch.autograd.functional.hessian(loss, fitted)
    error = Z * torch.linalg.inv(information).diagonal().sqrt()
    assert error.max() < 0.2
    truth = vector((1 - 1 / std**2) / 2, mean / std**2)
    assert bool(((fitted - truth).abs() <= error).all())


# ---- Proposition 2: E[T*] -> KL(p+ || p-) as K grows


def close_to_divergence(
    score: Tensor, divergence: float, *, residual: Tensor, mean_ratio: float, variance: float, largest: float, k: int
) -> None:
    """The mean score is KL(p+ || p-) up to Z standard errors and a bound of the bias at K negatives.

    With the ratio r = p+/p- <= ``largest``, T* = log r_0 - log S where S = (r_0 + sum r_j) / (K+1), so the bias is
    -E log S. E S - 1 = chi^2 / (K+1), where 1 + chi^2 = E_+[r] = ``mean_ratio`` = E_-[r^2], and
    Var S = (Var_+(r) + K Var_-(r)) / (K+1)^2 with Var_+(r) <= ``variance`` and Var_-(r) = chi^2.
    From |log x| <= |x - 1| + (x - 1)^2 for x >= 1/2, the bias is at most |E S - 1| + Var S + (E S - 1)^2.
    By Hoeffding S falls below 1/2 with probability at most exp(-K / (2 r_max^2)), which is negligible.
    """
    assert math.exp(-k / (2 * largest**2)) < 1e-6
    chi_squared = mean_ratio - 1
    shift = chi_squared / (k + 1)
    bias = shift + (variance + k * chi_squared) / (k + 1) ** 2 + shift**2
    error = Z * residual.std().item() / math.sqrt(len(score))
    assert error + bias < 0.1 * divergence
    assert abs(score.mean().item() - divergence) <= error + bias
    assert score.max() <= math.log(k + 1)


@pytest.mark.parametrize("k", [512, 4096])
@pytest.mark.parametrize(
    ("positive", "negative"),
    [([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]), ([0.7, 0.1, 0.1, 0.1], [0.25] * 4), ([0.2, 0.8], [0.5, 0.5])],
    ids=["reversed", "uniform of 4", "uniform of 2"],
)
def test_discrete_expected_score_is_the_divergence(positive: list[float], negative: list[float], k: int) -> None:
    """Matches in exact proportion, negatives sampled: the standard error is that of the scores within each match."""
    n, p, q = 1000, vector(*positive), vector(*negative)
    ratio = p / q
    match = torch.repeat_interleave((n * p).round().long())
    others = torch.multinomial(q, n * k, replacement=True).reshape(n, k)
    score = ptr.ptr_score(ratio.log()[torch.cat([match.unsqueeze(1), others], dim=1)] + 3.0)

    divergence = (p * ratio.log()).sum().item()
    if len(set(negative)) == 1:
        entropy = -(p * p.log()).sum().item()
        assert divergence == pytest.approx(math.log(len(negative)) - entropy, abs=1e-12)
    mean_ratio = (p * ratio).sum().item()
    close_to_divergence(
        score,
        divergence,
        residual=score - torch.stack([score[match == y].mean() for y in range(len(p))])[match],
        mean_ratio=mean_ratio,
        variance=(p * ratio.square()).sum().item() - mean_ratio**2,
        largest=ratio.max().item(),
        k=k,
    )


@pytest.mark.parametrize(("n", "k"), [(8000, 512), (16000, 256)])
def test_gaussian_expected_score_is_the_divergence(n: int, k: int) -> None:
    """p+ = N(m, s^2) with s < 1 against N(0, 1): the ratio is at most exp(m^2 / (2 (1 - s^2))) / s."""
    m, s = 0.8, 0.6
    y = torch.randn(n, 1 + k, dtype=torch.float64)
    y[:, 0] = m + s * y[:, 0]
    score = ptr.ptr_score(y.square() / 2 - (y - m).square() / (2 * s**2))
    largest = math.exp(m**2 / (2 * (1 - s**2))) / s
    close_to_divergence(
        score,
        -math.log(s) + (s**2 + m**2 - 1) / 2,
        residual=score,
        mean_ratio=math.exp(m**2 / (2 - s**2)) / (s * math.sqrt(2 - s**2)),
        variance=largest**2,
        largest=largest,
        k=k,
    )


def test_expected_score_against_a_uniform_baseline_on_the_circle() -> None:
    """Targets von Mises around the query, negatives uniform: cosine / temperature *is* the Bayes-optimal logit.

    With concentration c = 1 / temperature, T* tends to log|Omega| - H = c I1(c)/I0(c) - log I0(c), |Omega| = 2 pi.
    """
    n, k, c = 4000, 1024, 4.0
    centre = 2 * math.pi * torch.rand(n, dtype=torch.float64)
    angle = torch.distributions.VonMises(centre, vector(c)).sample()
    others = 2 * math.pi * torch.rand(n, k, dtype=torch.float64)
    query, positive, rest = (torch.stack([x.cos(), x.sin()], dim=-1) for x in (centre, angle, others))
    score = ptr.ptr_score(ptr.identification_logits(3 * query, 2 * positive, rest, temperature=1 / c))

    i0, i1 = torch.special.i0(vector(c)).item(), torch.special.i1(vector(c)).item()
    entropy = math.log(2 * math.pi * i0) - c * i1 / i0
    largest = math.exp(c) / i0
    close_to_divergence(
        score,
        math.log(2 * math.pi) - entropy,
        residual=score,
        mean_ratio=torch.special.i0(vector(2 * c)).item() / i0**2,
        variance=largest**2,
        largest=largest,
        k=k,
    )


# ---- exp(T / beta) optimises E_q[T] - beta KL(q || p)


@pytest.mark.parametrize("beta", [0.5, 1.5, 3.0])
def test_discrete_tilting_optimises_the_regularised_score(beta: float) -> None:
    p, score = torch.softmax(torch.randn(7, dtype=torch.float64), 0), 2 * torch.randn(7, dtype=torch.float64)

    def objective(logits: Tensor) -> Tensor:
        log_q = torch.log_softmax(logits, 0)
        return (log_q.exp() * (score - beta * (log_q - p.log()))).sum()

    tilted = p * tilt(score, beta)
    tilted = tilted / tilted.sum()
    found = torch.softmax(minimise(lambda x: -objective(x), 7), 0)
    torch.testing.assert_close(tilted, found, atol=1e-6, rtol=0)
    best = objective(tilted.log())
    for _ in range(100):
        assert objective(tilted.log() + 0.1 * torch.randn(7, dtype=torch.float64)) < best


def test_gaussian_tilting_optimises_the_regularised_score() -> None:
    """p = N(0, 1) and T = a y - c y^2/2: the objective's maximum over N(m, s^2), and the weighted sample's moments."""
    n, a, c, beta = 100_000, 0.8, 0.5, 1.5

    def objective(x: Tensor) -> Tensor:
        m, log_s = x
        variance = (2 * log_s).exp()
        return a * m - c * (m**2 + variance) / 2 - beta * ((variance + m**2 - 1) / 2 - log_s)

    m, log_s = minimise(lambda x: -objective(x), 2).tolist()
    y = torch.randn(n, dtype=torch.float64)
    weight = tilt(a * y - c * y.square() / 2, beta)
    for values, expected in ((y, m), ((y - m).square(), math.exp(2 * log_s))):
        actual = ptr.self_normalized_mean(values, weight).item()
        error = self_normalised_error(values, weight, expected)
        assert error < 0.03
        assert abs(actual - expected) <= error


# ---- Proposition 3: tilting gives source m the mass pi_m E_m[exp(J/beta)] / sum_j pi_j E_j[exp(J/beta)]


def test_discrete_tilted_source_mass() -> None:
    """A finite population, each (source, J) repeated by its count: no sampling."""
    beta = 0.8
    population = {"expert": {1.5: 6, 0.5: 2}, "novice": {0.5: 5, -1.0: 5, -2.5: 2}, "play": {0.0: 4}}
    rows = [(name, j) for name, counts in population.items() for j, count in counts.items() for _ in range(count)]
    weight = tilt(vector(*(j for _, j in rows)), beta)
    shift = ptr.source_shift(weight, [name for name, _ in rows])

    share = {name: sum(counts.values()) / len(rows) for name, counts in population.items()}
    moment = {
        name: sum(count * math.exp(j / beta) for j, count in counts.items()) / sum(counts.values())
        for name, counts in population.items()
    }
    total = sum(share[name] * moment[name] for name in population)
    for name in population:
        assert share[name] * shift[name] == pytest.approx(share[name] * moment[name] / total, abs=1e-9)


def test_gaussian_tilted_source_mass() -> None:
    """J ~ N(mu_m, s_m^2) in source m: E_m[exp(J/beta)] = exp(mu_m/beta + s_m^2 / (2 beta^2))."""
    n, beta = 100_000, 1.5
    share, mean, std = vector(0.5, 0.3, 0.2), vector(0.0, 1.0, -1.5), vector(0.5, 1.0, 0.8)
    source = torch.multinomial(share, n, replacement=True)
    weight = tilt(mean[source] + std[source] * torch.randn(n, dtype=torch.float64), beta)
    shift = ptr.source_shift(weight, [str(m) for m in source.tolist()])
    mass = share * (mean / beta + std.square() / (2 * beta**2)).exp()
    mass = mass / mass.sum()
    for m in range(3):
        member = (source == m).double()
        error = self_normalised_error(member, weight, mass[m].item())
        assert error < 0.02
        assert abs(member.mean().item() * shift[str(m)] - mass[m].item()) <= error
