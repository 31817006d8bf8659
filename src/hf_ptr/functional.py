"""The mathematics of Posterior-Transition Reweighting (PTR, arXiv 2603.16542): pure functions of tensors.

B batch, K negatives, D embedding width, L chunk length, M belief tokens, n samples. Every function

- takes tensors of any device and floating type and computes in float32 (float64 stays float64), also under autocast;
- ignores masked elements: a NaN among them reaches neither a value nor a gradient;
- raises ``ValueError`` naming the argument whose shape or values are wrong.

Only the weight is detached (PTR Eq. 21 and 27). The other stop-gradients of the method are applied where a tensor is
computed: in the target encoder, the queue and the belief tokenizer.

Examples:
    From scores to a weighted loss, PTR Eq. (14), (21) and (27):

    >>> import torch
    >>> from hf_ptr import functional as F
    >>> logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 0.0]])  # column 0: the match
    >>> score = F.ptr_score(logits)  # identified, uniform, mistaken
    >>> [round(value, 2) for value in score.tolist()]
    [1.06, 0.0, -2.94]
    >>> weight = F.conservative_weight(score, beta=1.5)
    >>> [round(value, 2) for value in weight.tolist()]
    [2.03, 1.0, 0.25]
    >>> round(float(F.self_normalized_mean(torch.tensor([1.0, 2.0, 9.0]), weight)), 2)
    1.91
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ptr.equations import kl_bound, mixed_weight, sample_size_of_sums, source_shift, weight_bounds
from hf_ptr.utils.tensor_checks import (
    check_finite,
    check_mask,
    check_positive,
    check_shape,
    unchecked,
    values_checked,
)

__all__ = [
    "action_ranking_loss",
    "conservative_weight",
    "effective_sample_size",
    "identification_logits",
    "identification_loss",
    "kl_bound",
    "match_log_probability",
    "match_logit",
    "mixed_weight",
    "ptr_score",
    "self_normalized_mean",
    "slot_diversity",
    "slot_entropy",
    "soft_assignments",
    "source_shift",
    "unchecked",
    "weight_bounds",
]

NORM_EPS = 1e-6

# ---- Sec. 4: identification posterior and score


def identification_logits(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    temperature: float | Tensor,
    negative_mask: Tensor | None = None,
    logit_clamp: float = 20.0,
    normalized: bool = False,
) -> Tensor:
    """Similarity of each query with its match and with the mismatched candidates: ``d`` of PTR Eq. (12).

    Args:
        query: ``(B, D)``, any length; L2-normalised here with eps 1e-6, so a zero vector gives zero similarity.
        positive: ``(B, D)``, the matched target of each query.
        negatives: ``(K, D)`` shared by the batch or ``(B, K, D)``; ``K`` may be 0.
        temperature: above 0; a number, or a 0-d tensor when it is learned.
        negative_mask: ``(B, K)`` bool, True where the negative is usable; elsewhere the logit is ``-inf``.
        logit_clamp: bound of ``|cosine / temperature|``, above 0.
        normalized: whether all three are finite and of unit norm; if so, neither is checked or computed again.

    Returns:
        ``(B, 1 + K)`` logits; column 0 is the match.

    Raises:
        ValueError: a shape does not fit, a value is not finite, or a number is not above 0.
    """
    batch, width = check_shape("query", query, "B", "D")
    check_shape("positive", positive, batch, width, like="query")
    shared = isinstance(negatives, Tensor) and negatives.ndim == 2
    count = check_shape("negatives", negatives, *(() if shared else (batch,)), "K", width, like="query")[-2]
    usable = check_mask("negative_mask", negative_mask, batch, count, like="query and negatives")
    check_positive("temperature", temperature)
    check_positive("logit_clamp", logit_clamp)
    query, positive, negatives = _real(query, positive, negatives)
    if not normalized:
        if usable is not None:
            negatives = torch.where((usable.any(0) if shared else usable).unsqueeze(-1), negatives, 0.0)
        check_finite(query=query, positive=positive, negatives=negatives)

    with _no_autocast(query):
        if not normalized:
            query, positive, negatives = (F.normalize(x, dim=-1, eps=NORM_EPS) for x in (query, positive, negatives))
        scaled = query / temperature
        matched = (scaled * positive).sum(-1, keepdim=True)
        mismatched = scaled @ negatives.T if shared else torch.bmm(negatives, scaled.unsqueeze(-1)).squeeze(-1)
    matched, mismatched = (_clamped(logit, temperature, logit_clamp) for logit in (matched, mismatched))
    if usable is not None:
        mismatched = torch.where(usable, mismatched, -math.inf)
    return torch.cat([matched, mismatched], dim=1)


def match_logit(query: Tensor, positive: Tensor, *, temperature: float, logit_clamp: float = 20.0) -> Tensor:
    """Column 0 of :func:`identification_logits` without the others, for embeddings known to be of unit norm.

    Args:
        query, positive: ``(B, D)``, finite and of unit norm.
        temperature, logit_clamp: as there.

    Returns:
        ``(B,)`` logits of the match.

    Raises:
        ValueError: a shape does not fit, a value is not finite, or a number is not above 0.
    """
    batch, width = check_shape("query", query, "B", "D")
    check_shape("positive", positive, batch, width, like="query")
    check_positive("temperature", temperature)
    check_positive("logit_clamp", logit_clamp)
    query, positive = _real(query, positive)
    check_finite(query=query, positive=positive)
    return _clamped((query / temperature * positive).sum(-1), temperature, logit_clamp)


def match_log_probability(logits: Tensor) -> Tensor:
    """``log p(I=0)``, PTR Eq. (12): log-probability of identifying the match among the candidates.

    Args:
        logits: ``(B, 1 + K)``, column 0 the match; ``-inf`` marks an unusable negative.

    Returns:
        ``(B,)`` nats, at most 0.

    Raises:
        ValueError: ``logits`` is mis-shaped, holds NaN or ``+inf``, or ``-inf`` in column 0.
    """
    check_shape("logits", logits, "B", "1 + K")
    (logits,) = _real(logits)
    if values_checked():
        left_out = torch.isneginf(logits)
        left_out[:, 0] = False
        check_finite(logits=logits.masked_fill(left_out, 0.0))
    return F.log_softmax(logits, dim=1)[:, 0]


def identification_loss(
    logits: Tensor,
    valid: Tensor | None = None,
    *,
    discount: Tensor | None = None,
    total: Tensor | None = None,
    log_probability: Tensor | None = None,
) -> Tensor:
    """``L_id = -E log p(I=0)`` over the valid samples, PTR Eq. (31).

    Args:
        logits: ``(B, 1 + K)``, column 0 the match; ``-inf`` marks an unusable negative.
        valid: ``(B,)`` bool, True where the sample has a post-action observation; all when None.
        discount: ``(B,)``, factor of each sample's loss (``gamma^Delta'``); 1 when None.
        total: 0-d, number of valid samples to divide by; that of these samples when None. With the number of the
            whole optimiser step, the results of its micro-batches add up to the loss of the step.
        log_probability: ``(B,)``, :func:`match_log_probability` of finite logits, where it is known: the logits of
            samples that are not valid are then not masked.

    Returns:
        Scalar, nats. Without a valid sample it is 0, still part of the graph, with zero gradients.

    Raises:
        ValueError: as in :func:`match_log_probability`, or another shape does not fit.
    """
    batch, _ = check_shape("logits", logits, "B", "1 + K")
    keep = check_mask("valid", valid, batch, like="logits")
    if log_probability is None:
        log_probability = match_log_probability(
            logits if keep is None else torch.where(keep.unsqueeze(-1), logits, 0.0)
        )
    check_shape("log_probability", log_probability, batch, like="logits")
    surprise = -log_probability
    if discount is not None:
        check_shape("discount", discount, batch, like="logits")
        surprise = discount * surprise
    return _mean(surprise, keep, total)


def ptr_score(logits: Tensor, *, log_probability: Tensor | None = None) -> Tensor:
    """``T = log(p(I=0) |Y|)``, PTR Eq. (14): 0 when the posterior is uniform, at most ``log |Y|``.

    Args:
        logits: ``(B, 1 + K)``, column 0 the match; ``|Y|`` is the row's number of finite candidates.
        log_probability: ``(B,)``, :func:`match_log_probability` of the logits, where it is known.

    Returns:
        ``(B,)`` nats.

    Raises:
        ValueError: see :func:`match_log_probability`.
    """
    batch, _ = check_shape("logits", logits, "B", "1 + K")
    if log_probability is None:
        log_probability = match_log_probability(logits)
    check_shape("log_probability", log_probability, batch, like="logits")
    candidates = (logits > -math.inf).sum(1)
    return log_probability + candidates.to(log_probability.dtype).log()


def action_ranking_loss(
    matched_logit: Tensor, permuted_logit: Tensor, valid: Tensor | None = None, *, total: Tensor | None = None
) -> Tensor:
    """``L_rank = -E log sigmoid(d+ - d-)`` over the valid samples, PTR Eq. (13).

    Args:
        matched_logit: ``(B,)``, logit of the target under the sample's own action.
        permuted_logit: ``(B,)``, logit of the same target under another sample's action.
        valid: ``(B,)`` bool; all when None.
        total: divisor, as in :func:`identification_loss`.

    Returns:
        Scalar, nats; 0, still part of the graph, without a valid sample.

    Raises:
        ValueError: a shape does not fit or a value of a valid sample is not finite.
    """
    (batch,) = check_shape("matched_logit", matched_logit, "B")
    check_shape("permuted_logit", permuted_logit, batch, like="matched_logit")
    keep = check_mask("valid", valid, batch, like="matched_logit")
    matched_logit, permuted_logit = _real(matched_logit, permuted_logit)
    if keep is not None:
        matched_logit, permuted_logit = (torch.where(keep, x, 0.0) for x in (matched_logit, permuted_logit))
    check_finite(matched_logit=matched_logit, permuted_logit=permuted_logit)
    return _mean(-F.logsigmoid(matched_logit - permuted_logit), keep, total)


# ---- Sec. 5: conservative weight


def conservative_weight(
    score: Tensor,
    *,
    beta: float | Tensor,
    alpha: float = 1.0,
    w_min: float = 0.25,
    w_max: float = 4.0,
    valid: Tensor | None = None,
) -> Tensor:
    """``w = 1 + alpha (clip(exp(T / beta), w_min, w_max) - 1)``, PTR Eq. (21), detached.

    Detached because the method uses only ``sg(w)``: the policy must not learn to raise its own weight.

    Args:
        score: ``(B,)`` nats, see :func:`ptr_score`.
        beta: above 0; a number or a 0-d tensor.
        alpha: mixing coefficient in [0, 1]; 0 is plain regression.
        w_min, w_max: ``0 <= w_min <= w_max``, both finite.
        valid: ``(B,)`` bool; other samples get weight 1, which is within the bounds if ``w_min <= 1 <= w_max``.

    Returns:
        ``(B,)`` weights within :func:`weight_bounds`.

    Raises:
        ValueError: a shape does not fit, the score of a valid sample is not finite, or a number is out of range.
    """
    (batch,) = check_shape("score", score, "B")
    keep = check_mask("valid", valid, batch, like="score")
    check_positive("beta", beta)
    weight_bounds(alpha, w_min, w_max)
    (score,) = _real(score.detach())
    if keep is not None:
        score = torch.where(keep, score, 0.0)
    check_finite(score=score)
    if isinstance(beta, Tensor):
        beta = beta.detach()
    # exp may overflow to inf, which the clip turns into exactly w_max; nothing differentiates through it.
    weight = mixed_weight((score / beta).exp().clamp(w_min, w_max), alpha)
    return weight if keep is None else torch.where(keep, weight, 1.0)


def self_normalized_mean(loss: Tensor, weight: Tensor, *, total: Tensor | None = None) -> Tensor:
    """``sum(sg(w) loss) / sum(sg(w))``, PTR Eq. (27).

    Args:
        loss: ``(B,)``, one loss per sample.
        weight: ``(B,)``, at least 0; no gradient flows into it.
        total: 0-d, the ``sum(w)`` to divide by; that of these samples when None. With the sum of the whole optimiser
            step, over all its micro-batches and processes, their results add up to the loss of the step.

    Returns:
        Scalar in the loss's unit; 0, still part of the graph, when the weights sum to 0.

    Raises:
        ValueError: a shape does not fit, a value is not finite, or a weight is negative.
    """
    (batch,) = check_shape("loss", loss, "B")
    check_shape("weight", weight, batch, like="loss")
    loss, weight = _real(loss, weight.detach())
    check_finite(loss=loss)
    check_finite(at_least=0.0, weight=weight)
    total = weight.sum() if total is None else total
    return (weight / torch.where(total > 0, total, 1.0) * loss).sum()


def effective_sample_size(weight: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2``: the number of equally weighted samples with the same variance of the mean.

    Args:
        weight: ``(n,)``, at least 0, ``n >= 1``.

    Returns:
        Scalar tensor between 1 and ``n``.

    Raises:
        ValueError: ``weight`` is empty, mis-shaped, negative, not finite, or all 0.
    """
    weight = _weights(weight)
    # Relative to the largest, so that squares neither overflow nor vanish; the clamp only removes rounding.
    weight = weight / weight.max()
    return sample_size_of_sums(weight.sum(), weight.square().sum()).clamp(1, len(weight))


# ---- Sec. 3: belief tokens


def soft_assignments(features: Tensor, projection: Tensor, temperature: float | Tensor) -> Tensor:
    """Share of each step in each belief token: ``softmax_i((W_a c_i)_m / tau_tok)``, PTR Eq. (7).

    Args:
        features: ``(B, L, D)``, ``c`` of PTR Eq. (6), ``L >= 1``.
        projection: ``(M, D)``, ``W_a``.
        temperature: above 0; a number or a 0-d tensor.

    Returns:
        ``(B, L, M)``, non-negative, sums to 1 over the time axis ``L``.

    Raises:
        ValueError: a shape does not fit, a value is not finite, or ``temperature`` is not above 0.
    """
    _, _, width = check_shape("features", features, "B", "L", "D")
    check_shape("projection", projection, "M", width, like="features")
    check_positive("temperature", temperature)
    features, projection = _real(features, projection)
    check_finite(features=features, projection=projection)
    with _no_autocast(features):
        return torch.softmax(features @ projection.T / temperature, dim=1)


def slot_entropy(assignments: Tensor) -> Tensor:
    """``H_tok = -(1/M) sum_m sum_i pi log pi``, PTR Eq. (10), mean over the batch: 0 when every slot is decisive.

    Args:
        assignments: ``(B, L, M)``, see :func:`soft_assignments`.

    Returns:
        Scalar, nats, between 0 and ``log L``.

    Raises:
        ValueError: ``assignments`` is mis-shaped, not finite or negative.
    """
    batch, slots, assignments = _assignments(assignments)
    # log 1 in place of log 0: a softmax underflows to exact zeros, and 0 * inf in its backward pass would be NaN.
    positive = torch.where(assignments > 0, assignments, 1.0)
    return -(assignments * positive.log()).sum() / max(batch * slots, 1)


def slot_diversity(assignments: Tensor) -> Tensor:
    """``D_tok = ||P^T P - I||_F^2``, PTR Eq. (11), mean over the batch: 0 when the slots take disjoint single steps.

    Args:
        assignments: ``(B, L, M)``, ``P`` is one sample's ``(L, M)``; see :func:`soft_assignments`.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: ``assignments`` is mis-shaped, not finite or negative.
    """
    batch, slots, assignments = _assignments(assignments)
    with _no_autocast(assignments):
        gram = assignments.mT @ assignments
    return (gram - torch.eye(slots, dtype=gram.dtype, device=gram.device)).square().sum() / max(batch, 1)


# ---- precision and arguments


def _real(*tensors: Tensor) -> tuple[Tensor, ...]:
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return tuple(tensor.to(torch.float64 if double else torch.float32) for tensor in tensors)


def _no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _clamped(logit: Tensor, temperature: float | Tensor, bound: float) -> Tensor:
    # A cosine is at most 1 but for rounding: where the bound is out of reach, the clamp would change nothing.
    if not isinstance(temperature, Tensor) and bound * temperature > 1.001:
        return logit
    return logit.clamp(-bound, bound)


def _mean(values: Tensor, keep: Tensor | None, total: Tensor | None = None) -> Tensor:
    kept = values if keep is None else torch.where(keep, values, 0.0)
    if total is not None:
        return kept.sum() / total.clamp(min=1)
    return kept.sum() / (max(values.numel(), 1) if keep is None else keep.sum().clamp(min=1))


def _weights(weight: Tensor) -> Tensor:
    check_shape("weight", weight, "n")
    (weight,) = _real(weight)
    check_finite(at_least=0.0, weight=weight)
    if values_checked() and not bool(weight.any()):
        raise ValueError(f"weight must not be 0 throughout, got {len(weight)} zeros")
    return weight


def _assignments(assignments: Tensor) -> tuple[int, int, Tensor]:
    batch, _, slots = check_shape("assignments", assignments, "B", "L", "M")
    (assignments,) = _real(assignments)
    check_finite(at_least=0.0, assignments=assignments)
    return batch, slots, assignments
