"""From the scores of real samples, and of samples with a fault made on purpose, to weights: an absolute scale.

A score alone does not say whether a sample is bad: on clean data, too, half of all samples lie below the median. What
a bad sample would score is known once one makes some: held-out transitions scored again with one element exchanged.
For each component of the score (`hf_ptr.scoring.identification_heads`) and each episode

    z = 1 - r (1 - (m - f) / (g - f))

where `m` is the episode's shrunken mean score, `f` the median of such means with the fault, `g` the good end, the 80 %
quantile of the real means. 0 is where a fault lies, 1 where good episodes lie. `r`, in most cases 1, is how far the
component is to be trusted: as well as it tells its own fault from the data. A chunk has its episode's `z` and a part
of its own deviation. One view that fails suffices:

    w = w_min + (w_max - w_min) sigmoid((min_c z_c - 1/2) / width)

which lies within the bounds of PTR Eq. (22)-(26). Pure functions of tensors: N samples, E episodes, G groups. NaN is a
score that could not be taken; it is never evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ptr.scoring.config import FAILED, MIN_GROUP, W_MAX, W_MIN

# Quantile of the observed means that stands for a good episode: only more than 80 % of faulty ones would move it.
GOOD_QUANTILE = 0.8
# Width of the sigmoid in units of the distance from fault to good.
WIDTH = 0.08
# Share of faulted episodes that score below the real median. Half of them do where a component is blind to its own
# fault, and somewhat more by chance: up to the first share it says nothing, from the second on it is trusted, and in
# between in part. With a step instead, all evidence or none would hang on one episode.
NO_SEPARATION, FULL_SEPARATION = 0.6, 0.75
# How many episodes' worth the scale of all counts beside a group's own.
GROUP_SHRINKAGE = 8.0
# How many chunks' worth the median of all counts beside an episode's own.
SHRINKAGE = 4.0
# The part that a chunk's own deviation from its episode has where chunks are no noisier than faults are far.
OWN_SHARE = 0.2
# Beyond this distance a score says no more.
DISTANCE_LIMIT = 2.0
# Nats beyond which one chunk's margin says no more, and chunks without which a shift says nothing.
MARGIN_LIMIT = 4.0
MIN_MARGINS = 3
# Least share of the samples that the weighted ones must be worth.
MIN_SAMPLE_SIZE = 0.5


def episode_mean(score: Tensor, episode: Tensor, episodes: int, strength: float = 0.0) -> Tensor:
    """
    Mean score of each episode, shrunken towards the median of all, `m`: `(Σ s + κ m) / (n + κ)`.

    Args:
        score: `(N,)`, NaN where there is none.
        episode: `(N,)` int64, in `0 .. episodes - 1`.
        episodes: `E`.
        strength: `κ`, in samples.

    Returns:
        `(E,)`; NaN where an episode has no score.
    """
    taken = ~score.isnan()
    count = torch.zeros(episodes, dtype=score.dtype).index_add_(0, episode, taken.to(score.dtype))
    total = torch.zeros(episodes, dtype=score.dtype).index_add_(0, episode, score.nan_to_num(0.0))
    prior = score.nanmedian().nan_to_num(0.0)
    mean = (total + strength * prior) / (count + strength)
    return torch.where(count > 0, mean, torch.nan)


def consistent_margin(margins: Tensor, episode: Tensor, episodes: int) -> tuple[Tensor, Tensor]:
    """
    The margin over the one shift that explains an episode best, `(N,)` nats, and which that is, `(E,)` int64; NaN and
    -1 where too few say.

    A single chunk is easily taken for its neighbour; actions recorded late are taken for the *same* neighbour all
    along the episode. `Λ(δ) = mean_t (d_t(0) - d_t(δ))` is the mean log-likelihood ratio of "aligned" against "shifted
    by δ" (`d` of PTR Eq. (12)); a sample's score is its margin over `argmin_δ Λ(δ)` of its episode.

    Args:
        margins: `(N, S)` nats, NaN where the shift leaves the episode.
        episode: `(N,)` int64.
        episodes: `E`.
    """
    margins = margins.clamp(-MARGIN_LIMIT, MARGIN_LIMIT)
    taken = ~margins.isnan()
    shape = (episodes, margins.shape[1])
    count = margins.new_zeros(shape).index_add_(0, episode, taken.to(margins.dtype))
    ratio = margins.new_zeros(shape).index_add_(0, episode, margins.nan_to_num(0.0)) / count.clamp(min=1)
    ratio, shift = ratio.masked_fill(count < MIN_MARGINS, torch.inf).min(dim=1)
    own = margins.gather(1, shift[episode, None]).squeeze(1)
    nothing = torch.isinf(ratio)
    return own.masked_fill(nothing[episode], torch.nan), shift.masked_fill(nothing, -1)


@dataclass(frozen=True)
class Scale:
    """
    Where faulty and good episodes of each group lie on one component.

    Args:
        fault: `f`, `(G,)`, median of the faulted means, nats.
        good: `g`, `(G,)`, upper quantile of the real means, nats.
        reliability: `r`, `(G,)` in [0, 1], how well the component tells its own fault from the data.
    """

    fault: Tensor
    good: Tensor
    reliability: Tensor

    def distance(self, score: Tensor, episode: Tensor, group: Tensor) -> Tensor:
        """
        `1 - r (1 - z)` of every sample, with `z` its episode's and `ρ (s - m) / (g - f)` of its own.

        `ρ = OWN_SHARE · (g - f)² / ((g - f)² + v)` with `v` the variance of samples around their episodes.

        Args:
            score: `(N,)` nats.
            episode: `(N,)` int64.
            group: `(E,)` int64, the group of each episode.

        Returns:
            `(N,)`, as [`trusted`] gives it.
        """
        gap = self.gap
        mean = episode_mean(score, episode, len(group), SHRINKAGE)
        deviation = (score - mean[episode]).nan_to_num(0.0)
        share = OWN_SHARE * gap.square() / (gap.square() + deviation.square().mean())
        z = ((mean - self.fault[group]) / gap[group])[episode] + (share / gap)[group][episode] * deviation
        return self.limited(z, group[episode])

    @property
    def gap(self) -> Tensor:
        """`g - f`, `(G,)` nats; 1 where the component is blind."""
        return torch.where(self.reliability > 0, self.good - self.fault, 1.0)

    def limited(self, z: Tensor, group: Tensor) -> Tensor:
        """
        `1 - r (1 - z)` of distances as far as the component is trusted.

        Args:
            z: `(N,)`, NaN where the score is missing.
            group: `(N,)` int64, the group of each.

        Returns:
            `(N,)` in ±`DISTANCE_LIMIT`; 1 where the component is blind or the score missing: that proves nothing.
            What is trusted in part says at most that a sample is like a fault, `z >= 0`: where the scale is short,
            noise goes far below.
        """
        reliability = self.reliability[group]
        z = z.nan_to_num(1.0).clamp(-DISTANCE_LIMIT, DISTANCE_LIMIT)
        z = torch.where(reliability < 1.0, z.clamp(min=0.0), z)
        return 1.0 - reliability * (1.0 - z)


def fit_scale(real: Tensor, faulted: Tensor, group: Tensor, groups: int) -> Scale:
    """
    The scale of one component, for each group where there is enough data and shrunken towards that of all.

    Args:
        real: `(E,)` nats, the episodes' means; NaN where there is none.
        faulted: `(E,)` nats, likewise with the fault.
        group: `(E,)` int64, in `0 .. groups - 1`: the episode's source or task.
        groups: `G`; 1 for one scale for all.
    """
    fault, good, reliability = _ends(real, faulted)
    faults, goods, reliabilities = fault.repeat(groups), good.repeat(groups), reliability.repeat(groups)
    for g in range(groups) if groups > 1 else ():
        mine = group == g
        own = faulted[mine]
        count = int((~own.isnan()).sum())
        if count < MIN_GROUP or int((~real[mine].isnan()).sum()) < MIN_GROUP:
            continue
        own_fault, own_good, reliabilities[g] = _ends(real[mine], own)
        share = count / (count + GROUP_SHRINKAGE)
        faults[g] = share * own_fault + (1.0 - share) * fault
        goods[g] = share * own_good + (1.0 - share) * good
    return Scale(faults, goods, torch.where(goods > faults, reliabilities, 0.0))


def _ends(real: Tensor, faulted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    real, faulted = real[~real.isnan()], faulted[~faulted.isnan()]
    if min(len(real), len(faulted)) < MIN_GROUP:
        nothing = real.new_zeros(())
        return nothing, nothing, nothing
    fault, good = faulted.median(), real.quantile(GOOD_QUANTILE)
    separation = (faulted < real.median()).float().mean()
    reliability = ((separation - NO_SEPARATION) / (FULL_SEPARATION - NO_SEPARATION)).clamp(0.0, 1.0)
    return fault, good, torch.where(good > fault, reliability, 0.0)


def least(distances: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """
    The least of several distances, `(N,)`, for one that fails suffices; and whose it is, `(N,)` int64, in their order.
    """
    found = torch.stack(tuple(distances.values())).min(dim=0)
    return found.values, found.indices


def calibrated_weight(distance: Tensor, *, w_min: float = W_MIN, w_max: float = W_MAX) -> Tensor:
    """`w_min + (w_max - w_min) sigmoid((z - 1/2) / width)`, `(N,)`, detached; it increases with `z`."""
    return w_min + (w_max - w_min) * torch.sigmoid((distance.detach() - FAILED) / WIDTH)


def keep_sample_size(weight: Tensor, milder: Tensor | None = None) -> Tensor:
    """
    The weights changed just so far that `(Σw)² / (n Σw²) ≥ 1/2`: towards milder ones, and then towards their mean.

    Which samples get the weight that this floor asks for is a question of their harm, so the milder weights are those
    of who forgives the least harmful fault. If they do not suffice, deviations from the mean `m` are multiplied by
    `m / √v`, with `v` the variance: the share is `m² / (m² + v)`. The bounds hold as before.

    Args:
        weight: `(N,)`, at least 0.
        milder: `(N,)`, at least as much each; none by default.
    """
    if not len(weight):
        return weight
    if milder is not None:
        more = milder - weight
        weight = weight + _least_step(weight.double(), more.double()) * more
    mean = weight.mean()
    deviation = weight.var(correction=0).sqrt()
    most = mean * (1.0 / MIN_SAMPLE_SIZE - 1.0) ** 0.5
    shrink = (most / deviation.clamp(min=torch.finfo(weight.dtype).tiny)).clamp(max=1.0)
    return mean + shrink * (weight - mean)


def _least_step(weight: Tensor, more: Tensor) -> float:
    """
    The least `s` in [0, 1] with `mean(w + s d)² ≥ mean((w + s d)²) / 2`, a quadratic `a s² + 2 b s + c ≥ 0`; where
    there is none, that of the greatest share.
    """
    mean, rise = float(weight.mean()), float(more.mean())
    square, both, risen = (float(product.mean()) for product in (weight * weight, weight * more, more * more))
    a, b, c = (m - MIN_SAMPLE_SIZE * q for m, q in ((rise * rise, risen), (mean * rise, both), (mean * mean, square)))
    if c >= 0.0:
        return 0.0
    if (discriminant := b * b - a * c) >= 0.0 and (step := b + discriminant**0.5) >= -c:
        return -c / step

    def share(s: float) -> float:
        return (mean + s * rise) ** 2 / (square + 2.0 * s * both + s * s * risen)

    steps, bend = [0.0, 1.0], mean * risen - rise * both
    if bend != 0.0:
        steps.append(min(1.0, max(0.0, (rise * square - mean * both) / bend)))
    return max(steps, key=share)
