"""Calibration: weights from the scores of real transitions and of transitions with a planted fault.

A score alone does not show whether a transition is bad: on clean data, too, half of all transitions score below the
median. Planted faults show how a bad transition would score: held-out transitions are scored again with one element
exchanged. For each check (`hf_ptr.scoring.config.CHECKS`) and each episode with shrunken mean score `m`

    z = piecewise linear in m:  0 at f,  1/2 at h,  1 at g

where `f` is the median of such means with the planted fault, and `g` the good end, the 80 % quantile of the real
means. A score of 0 nats is chance: an episode whose elements fit no worse than mismatched ones differs from the rest,
but nothing speaks against it. So the middle `h` is not above `f / 3`, as long as planted faults lie below it:

    h = min((f + g) / 2, max(f / 3, f + s_f)),      s_f: robust standard deviation of the planted means.

The calibrated score is `1 - r (1 - z)`. `r` in [0, 1] is the reliability of the check, how far good episodes lie from
the middle in units of their own spread, with less for few episodes:

    r = n / (n + n_0) · D² / (D² + D_0²),      D = (c_g - h) / s_g,

where `c_g` and `s_g` are the middle of the shortest interval that contains half of the real means, and its length in
standard deviations of a normal distribution: faults lie outside it, as long as they are the minority.

A check whose good episodes reach the middle by chance is therefore hardly evidence. A chunk has its episode's `z` and
a part of its own deviation. One check that fails suffices:

    w = w_min + (w_max - w_min) sigmoid((min_c z_c - 1/2) / width)

which lies within the bounds of PTR Eq. (22)-(26). A finding of `hf_ptr.detection` on the frames of a chunk lowers its
score to at most that of [`fault_score`]. Pure functions of tensors: N transitions, E episodes, G groups. NaN
is a missing score; it is never evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ptr.scoring.config import ScoreConfig

# Standard deviations of a normal distribution in its median absolute deviation.
NORMAL_MAD = 1.4826


def episode_mean(score: Tensor, episode: Tensor, episodes: int, strength: float = 0.0) -> Tensor:
    """
    Mean score of each episode, shrunken towards the median of all, `m`: `(Σ s + κ m) / (n + κ)`.

    Args:
        score: `(N,)`, NaN where there is none.
        episode: `(N,)` int64, in `0 .. episodes - 1`.
        episodes: `E`.
        strength: `κ`, in transitions.

    Returns:
        `(E,)`; NaN where an episode has no score.
    """
    taken = ~score.isnan()
    count = torch.zeros(episodes, dtype=score.dtype).index_add_(0, episode, taken.to(score.dtype))
    total = torch.zeros(episodes, dtype=score.dtype).index_add_(0, episode, score.nan_to_num(0.0))
    prior = score.nanmedian().nan_to_num(0.0)
    mean = (total + strength * prior) / (count + strength)
    return torch.where(count > 0, mean, torch.nan)


def consistent_margin(margins: Tensor, episode: Tensor, episodes: int, config: ScoreConfig) -> tuple[Tensor, Tensor]:
    """
    The margin over the one shift that fits an episode best, `(N,)` nats, and the position of that shift, `(E,)` int64;
    NaN and -1 where too few transitions have one.

    A single chunk is easily confused with its neighbour; actions recorded late are confused with the *same* neighbour
    all along the episode. `Λ(δ) = mean_t (d_t(0) - d_t(δ))` is the mean log-likelihood ratio of "aligned" against
    "shifted by δ" (`d` of PTR Eq. (12)); the score of a transition is its margin over `argmin_δ Λ(δ)` of its episode.

    Args:
        margins: `(N, S)` nats, NaN where the shift leaves the episode.
        episode: `(N,)` int64.
        episodes: `E`.
        config: settings of the score.
    """
    margins = margins.clamp(-config.margin_limit, config.margin_limit)
    taken = ~margins.isnan()
    shape = (episodes, margins.shape[1])
    count = margins.new_zeros(shape).index_add_(0, episode, taken.to(margins.dtype))
    ratio = margins.new_zeros(shape).index_add_(0, episode, margins.nan_to_num(0.0)) / count.clamp(min=1)
    ratio, shift = ratio.masked_fill(count < config.min_margins, torch.inf).min(dim=1)
    own = margins.gather(1, shift[episode, None]).squeeze(1)
    missing = torch.isinf(ratio)
    return own.masked_fill(missing[episode], torch.nan), shift.masked_fill(missing, -1)


@dataclass(frozen=True)
class Scale:
    """
    The scale of one check: where faulty and good episodes of each group lie.

    Args:
        fault: `f`, `(G,)`, median of the means with the planted fault, nats.
        middle: `h`, `(G,)`, between fault and good, nats.
        good: `g`, `(G,)`, upper quantile of the real means, nats.
        reliability: `r`, `(G,)` in [0, 1]; 0 where the check is blind.
        config: settings of the score.
    """

    fault: Tensor
    middle: Tensor
    good: Tensor
    reliability: Tensor
    config: ScoreConfig

    def score(self, score: Tensor, episode: Tensor, group: Tensor) -> Tensor:
        """
        Calibrated score of every transition: `1 - r (1 - z)`, with `z` its episode's plus `ρ (s - m) / (g - f)`.

        `ρ = own_share · (g - f)² / ((g - f)² + v)` with `v` the variance of transitions around their episodes.

        Args:
            score: `(N,)` nats.
            episode: `(N,)` int64.
            group: `(E,)` int64, the group of each episode.

        Returns:
            `(N,)`, as [`limited`] returns it.
        """
        if not self.config.episode_evidence:
            return self.limited(self.place(score, group[episode]), group[episode])
        gap = torch.where(self.reliability > 0, self.good - self.fault, 1.0)
        mean = episode_mean(score, episode, len(group), self.config.episode_shrinkage)
        deviation = (score - mean[episode]).nan_to_num(0.0)
        share = self.config.own_share * gap.square() / (gap.square() + deviation.square().mean())
        z = self.place(mean, group)[episode] + (share / gap)[group][episode] * deviation
        return self.limited(z, group[episode])

    def place(self, score: Tensor, group: Tensor) -> Tensor:
        """
        `z`: 0 at the fault, 1/2 in the middle, 1 at the good end, linear between and beyond.

        Args:
            score: `(N,)` nats.
            group: `(N,)` int64, the group of each.
        """
        fault, middle, good = (
            torch.where(self.reliability > 0, end, otherwise)[group]
            for end, otherwise in ((self.fault, 0.0), (self.middle, 0.5), (self.good, 1.0))
        )
        below, above = (score - middle) / (middle - fault), (score - middle) / (good - middle)
        return 0.5 + 0.5 * torch.where(score < middle, below, above)

    def limited(self, z: Tensor, group: Tensor) -> Tensor:
        """
        `1 - r (1 - z)`: scores limited by the reliability of the check.

        Args:
            z: `(N,)`, NaN where the score is missing.
            group: `(N,)` int64, the group of each.

        Returns:
            `(N,)` in ±`score_limit`; 1 where the check is blind or the score missing, which is not evidence of a
            fault. A check below `full_reliability` gives at least `1 - r`, like a planted fault: its scale is short,
            and noise goes far below.
        """
        reliability = self.reliability[group]
        z = z.nan_to_num(1.0).clamp(-self.config.score_limit, self.config.score_limit)
        z = torch.where(reliability < self.config.full_reliability, z.clamp(min=0.0), z)
        return 1.0 - reliability * (1.0 - z)


def fit_scale(real: Tensor, planted: Tensor, group: Tensor, groups: int, config: ScoreConfig) -> Scale:
    """
    The scale of one check, for each group with enough data, shrunken towards that of all.

    Args:
        real: `(E,)` nats, the episodes' means; NaN where there is none.
        planted: `(E,)` nats, likewise with the planted fault.
        group: `(E,)` int64, in `0 .. groups - 1`: the episode's source or task.
        groups: `G`; 1 for one scale for all.
        config: settings of the score.
    """
    if config.centre_on_median:
        return _scale_on_median(real, group, groups, config)
    everything = _knots(real, planted, config)
    knots = everything.repeat(groups, 1)
    for g in range(groups) if groups > 1 else ():
        mine = group == g
        own = planted[mine]
        count = int((~own.isnan()).sum())
        if count < config.min_group_episodes or int((~real[mine].isnan()).sum()) < config.min_group_episodes:
            continue
        share = count / (count + config.group_shrinkage)
        own_knots = _knots(real[mine], own, config)
        # Where the check is blind to all tasks together, there is no scale to shrink towards.
        mixed = share * own_knots + (1.0 - share) * everything if everything[3] > 0 else own_knots
        knots[g] = torch.cat((mixed[:3], own_knots[3:]))
    fault, middle, good, reliability = knots.unbind(dim=1)
    ordered = (fault < middle) & (middle < good)
    return Scale(fault, middle, good, torch.where(ordered, reliability, 0.0), config)


def _knots(real: Tensor, planted: Tensor, config: ScoreConfig) -> Tensor:
    """`f`, `h`, `g` and `r` of one group, `(4,)`; zeros where there is no scale."""
    real, planted = real[~real.isnan()], planted[~planted.isnan()]
    nothing = real.new_zeros(4)
    count = min(len(real), len(planted))
    if count < config.min_group_episodes:
        return nothing
    fault, good = planted.median(), real.quantile(config.good_quantile)
    usual, spread = _shortest_half(real)
    if not fault < min(usual, good):
        return nothing
    width = NORMAL_MAD * (planted - fault).abs().median()
    middle = torch.minimum((fault + good) / 2, torch.maximum(config.middle_share * fault, fault + width))
    distance = ((usual - middle) / spread.clamp(min=torch.finfo(spread.dtype).tiny)).clamp(min=0.0, max=1e6).square()
    reliability = distance / (distance + config.doubtful_distance**2) * count / (count + config.count_shrinkage)
    return torch.stack((fault, middle, good, reliability))


def _shortest_half(values: Tensor) -> tuple[Tensor, Tensor]:
    """Middle of the shortest interval that contains half of the values, and its length in standard deviations."""
    ordered, half = values.sort().values, len(values) // 2
    length = ordered[half:] - ordered[: len(values) - half]
    first = length.argmin()
    return (ordered[first] + ordered[first + half]) / 2, length[first] * NORMAL_MAD / 2


def _scale_on_median(real: Tensor, group: Tensor, groups: int, config: ScoreConfig) -> Scale:
    """A scale without planted faults: the median of the data lies in the middle of the weights."""
    median, spread = torch.zeros(groups), torch.ones(groups)
    for number in range(groups):
        mine = real[(group == number) & ~real.isnan()]
        if len(mine):
            median[number] = mine.median()
            spread[number] = (NORMAL_MAD * (mine - median[number]).abs().median()).clamp(min=1e-6) / config.width
    return Scale(median - spread / 2, median, median + spread / 2, torch.ones(groups), config)


def least(scores: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The least of several scores, `(N,)`, since one that fails suffices; and its position, `(N,)` int64."""
    found = torch.stack(tuple(scores.values())).min(dim=0)
    return found.values, found.indices


def calibrated_weight(score: Tensor, config: ScoreConfig) -> Tensor:
    """`w_min + (w_max - w_min) sigmoid((z - 1/2) / width)`, `(N,)`, detached; it increases with `z`."""
    rise = torch.sigmoid((score.detach() - config.threshold) / config.width)
    return config.w_min + (config.w_max - config.w_min) * rise


def fault_score(harm: Tensor, config: ScoreConfig) -> Tensor:
    """
    The score of chunks with a fault: that at which the weight is `w_min` for the expected harm 1 and `w_max` for 0.

        z = 1/2 + width log((1 - h) / h),      w(z) = h w_min + (1 - h) w_max

    Args:
        harm: `(N,)`, `h` in [0, 1]: the probability of a fault in the frames of a chunk, times its harm.
        config: settings of the score.

    Returns:
        `(N,)`; infinite without harm.
    """
    score = config.threshold - config.width * torch.logit(harm)
    return score.clamp(min=-config.score_limit)


def keep_sample_size(
    weight: Tensor, milder: Tensor | None = None, *, min_share: float = ScoreConfig.min_sample_size
) -> Tensor:
    """
    The weights changed as little as needed for `(Σw)² / (n Σw²) ≥ min_share`: first towards milder ones, then towards
    their mean.

    Which transitions get the weight that this floor asks for depends on the harm that they do; the milder weights half
    excuse the least harmful fault. If they do not suffice, deviations from the mean `m` are multiplied by `m √k / √v`
    with `v` the variance and `k = 1 / min_share - 1`, so that the share is `min_share`. The bounds still hold.

    Args:
        weight: `(N,)`, at least 0.
        milder: `(N,)`, each at least `weight`; none by default.
        min_share: least effective sample size, as a share of N.
    """
    if not len(weight):
        return weight
    if milder is not None:
        more = milder - weight
        weight = weight + _least_step(weight.double(), more.double(), min_share) * more
    mean = weight.mean()
    deviation = weight.var(correction=0).sqrt()
    most = mean * (1.0 / min_share - 1.0) ** 0.5
    return weight if deviation <= most else mean + most / deviation * (weight - mean)


def _least_step(weight: Tensor, more: Tensor, min_share: float) -> float:
    """
    The least `s` in [0, 1] with `mean(w + s d)² ≥ min_share · mean((w + s d)²)`, a quadratic `a s² + 2 b s + c ≥ 0`;
    where there is none, the `s` with the largest share.
    """
    mean, rise = float(weight.mean()), float(more.mean())
    square, both, risen = (float(product.mean()) for product in (weight * weight, weight * more, more * more))
    a, b, c = (m - min_share * q for m, q in ((rise * rise, risen), (mean * rise, both), (mean * mean, square)))
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
