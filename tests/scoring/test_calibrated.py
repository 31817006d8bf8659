"""The label-free score: calibration, cross-fitting, and detection of wrong actions in a synthetic table."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import LENGTH, coded_table, drifting_table
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.functional import effective_sample_size
from hf_ptr.scoring import calibration as C
from hf_ptr.scoring import cross_fitting
from hf_ptr.scoring.config import ACTION_NOISE, ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.scoring.fitted_scores import FittedScores
from hf_ptr.scoring.identification_heads import IdentificationHeads
from hf_ptr.scoring.novelty import context_novelty, novelty_correction, searched_contexts
from hf_ptr.scoring.transitions import Transitions, lazy_transitions

COLUMNS = ["index", "episode_index", "frame_index", "task_index", "source", "score", "weight", "valid", "scorer"]
CONFIG = ScoreConfig()
ELEMENT_COLUMNS = ["score_next_observation", "score_action", "score_instruction", "failed_element"]


def fit(table: EpisodeTable, **changes: Any) -> pd.DataFrame:
    chunks = ChunkDataset(table, chunk_size=8, target_offset=8)
    return fit_scores(chunks, ScoreConfig(**{"steps": 12, **changes}), progress=False).frame()


# ---- the scale


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=50))
@settings(deadline=None, max_examples=50)
def test_weights_stay_in_bounds_and_rise_with_the_score(values: list[float]) -> None:
    weight = C.calibrated_weight(torch.tensor(sorted(values)), CONFIG)
    assert bool((weight >= CONFIG.w_min).all()) and bool((weight <= CONFIG.w_max).all())
    assert bool((weight.diff() >= 0).all())
    kept = C.keep_sample_size(weight)
    assert bool((kept >= CONFIG.w_min - 1e-5).all()) and bool((kept <= CONFIG.w_max + 1e-5).all())
    assert bool((kept.diff() >= -1e-6).all())


def test_a_fault_gets_the_least_weight_and_a_good_sample_the_most() -> None:
    low, middle, high = C.calibrated_weight(torch.tensor([0.0, 0.5, 1.0]), CONFIG).tolist()
    assert low < 0.3 and high > 3.95
    assert middle == pytest.approx((CONFIG.w_min + CONFIG.w_max) / 2)


def sample_share(weight: torch.Tensor) -> float:
    return effective_sample_size(weight).item() / len(weight)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9, 0.99])
def test_the_sample_size_never_falls_below_its_floor(share: float) -> None:
    weight = torch.full((1000,), CONFIG.w_max)
    weight[: int(1000 * share)] = CONFIG.w_min
    kept = C.keep_sample_size(weight)
    before, after = sample_share(weight), sample_share(kept)
    assert after >= CONFIG.min_sample_size - 1e-4
    assert kept.mean().item() == pytest.approx(weight.mean().item(), rel=1e-4)
    if before >= CONFIG.min_sample_size:
        torch.testing.assert_close(kept, weight)


def test_the_floor_is_paid_by_the_mildest_fault_first() -> None:
    """Worse than `hard`: a fifth good, some with noise alone, and most with worse faults."""
    weight = torch.full((1000,), CONFIG.w_min)
    weight[:220] = CONFIG.w_max
    noisy = slice(220, 370)
    milder = weight.clone()
    milder[noisy] = 2.0
    kept = C.keep_sample_size(weight, milder)
    assert sample_share(kept) == pytest.approx(CONFIG.min_sample_size, abs=1e-5)
    torch.testing.assert_close(kept[:220], weight[:220])
    torch.testing.assert_close(kept[370:], weight[370:])
    assert CONFIG.w_min < kept[220] < 2.0
    # No more than needed.
    less = weight + 0.99 * (kept - weight)
    assert sample_share(less) < CONFIG.min_sample_size


@pytest.mark.parametrize("mild", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_where_the_mildest_fault_does_not_suffice_all_weights_then_move_to_their_mean(mild: float) -> None:
    good, noisy_count = 50, int(1000 * mild)
    weight = torch.full((1000,), CONFIG.w_min)
    weight[:good] = CONFIG.w_max
    milder = weight.clone()
    milder[good : good + noisy_count] = 2.0
    steps = torch.linspace(0, 1, 201)
    best = max(steps.tolist(), key=lambda s: sample_share(weight + s * (milder - weight)))
    assert sample_share(weight + best * (milder - weight)) < CONFIG.min_sample_size
    given = C._least_step(weight.double(), (milder - weight).double(), CONFIG.min_sample_size)
    assert given == pytest.approx(best, abs=0.006)
    kept = C.keep_sample_size(weight, milder)
    assert sample_share(kept) == pytest.approx(CONFIG.min_sample_size, abs=1e-5)
    assert kept[999] > CONFIG.w_min and kept[0] < CONFIG.w_max
    assert kept[0] > kept[good] > kept[999]


@given(st.lists(st.tuples(st.floats(0.25, 4.0), st.floats(0.0, 1.0)), min_size=1, max_size=60))
@settings(deadline=None, max_examples=100)
def test_the_floor_holds_for_all_milder_weights(pairs: list[tuple[float, float]]) -> None:
    weight = torch.tensor([w for w, _ in pairs])
    milder = weight + torch.tensor([part for _, part in pairs]) * (CONFIG.w_max - weight)
    kept = C.keep_sample_size(weight, milder)
    assert sample_share(kept) >= CONFIG.min_sample_size - 1e-4
    assert bool((kept >= CONFIG.w_min - 1e-5).all()) and bool((kept <= CONFIG.w_max + 1e-5).all())
    if sample_share(weight) >= CONFIG.min_sample_size + 1e-4:
        torch.testing.assert_close(kept, weight)


def test_one_failing_check_suffices() -> None:
    z, which = C.least({"next_observation": torch.tensor([1.0, 1.0]), "instruction": torch.tensor([1.1, -0.1])})
    torch.testing.assert_close(z, torch.tensor([1.0, -0.1]))
    assert which.tolist() == [0, 1]
    good, bad = C.calibrated_weight(z, CONFIG).tolist()
    assert good > 3.9 and bad < 0.3


def episodes_of(means: torch.Tensor, samples: int = 20, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    episode = torch.arange(len(means)).repeat_interleave(samples)
    return means[episode] + noise * torch.randn(len(episode), generator=torch.Generator().manual_seed(1)), episode


def calibrated(real: torch.Tensor, faulted: torch.Tensor, episode: torch.Tensor) -> torch.Tensor:
    episodes = int(episode.max()) + 1
    group = torch.zeros(episodes, dtype=torch.int64)
    means = [C.episode_mean(score, episode, episodes, CONFIG.episode_shrinkage) for score in (real, faulted)]
    return C.fit_scale(*means, group, 1, CONFIG).score(real, episode, group)


def test_clean_data_keep_their_weights() -> None:
    real, episode = episodes_of(3.0 + 0.3 * torch.randn(100, generator=torch.Generator().manual_seed(0)))
    weight = C.calibrated_weight(calibrated(real, real - 5.0, episode), CONFIG)
    assert weight.mean() > 3.9 and weight.min() > 3.0
    assert sample_share(weight) > 0.99


def test_faulty_episodes_lie_where_the_planted_faults_do() -> None:
    means = torch.full((100,), 3.0)
    means[:30] = -2.0
    real, episode = episodes_of(means)
    weight = C.calibrated_weight(calibrated(real, torch.full_like(real, -2.0), episode), CONFIG)
    bad = episode < 30
    assert weight[bad].mean() < 0.5 and weight[bad].max() < 1.0 and weight[~bad].min() > 3.5


def test_a_check_blind_to_its_planted_fault_is_not_evidence() -> None:
    real, episode = episodes_of(torch.randn(100, generator=torch.Generator().manual_seed(0)))
    other, _ = episodes_of(torch.randn(100, generator=torch.Generator().manual_seed(5)))
    assert calibrated(real, other, episode).tolist() == [1.0] * len(real)
    # All episodes faulty: none is better than one with the planted fault.
    assert calibrated(real, real.clone(), episode).tolist() == [1.0] * len(real)


def normal(count: int, mean: float, spread: float) -> torch.Tensor:
    """The quantiles of a normal distribution: a sample without chance."""
    at = (torch.arange(count) + 0.5) / count
    return mean + spread * 2**0.5 * torch.erfinv(2 * at - 1)


def place_of(score: float, real: torch.Tensor, planted: torch.Tensor) -> float:
    """The calibrated score of a long episode with one score throughout, on a reliable check."""
    group = torch.zeros(len(real), dtype=torch.int64)
    scale = C.fit_scale(real, planted, group, 1, ScoreConfig(count_shrinkage=0, doubtful_distance=1e-6))
    return float(scale.place(torch.tensor([score]), group[:1]))


@pytest.mark.parametrize(
    ("fault", "score", "expected"),
    [
        # A third of the way from chance to the fault, and not half of that from good to the fault, 0.5.
        (-4.0, -1.333, 0.5),
        (-4.0, -4.0, 0.0),
        (-4.0, 5.0, 1.0),
        # Slow, pausing or rare: the elements fit no worse than others would, and that is not a fault.
        (-4.0, 0.0, 0.605),
        # A planted fault that fits better than chance: above most of the planted faults.
        (1.0, 1.5, 0.5),
    ],
)
def test_only_a_score_below_chance_is_that_of_a_fault(fault: float, score: float, expected: float) -> None:
    real, planted = normal(1001, 4.579, 0.5), normal(1001, fault, 0.5)
    assert place_of(score, real, planted) == pytest.approx(expected, abs=0.01)


def test_the_middle_lies_above_most_planted_faults() -> None:
    # With a spread of 1.5, half of the way to chance would miss a quarter of them.
    assert place_of(-0.5, normal(1001, 4.579, 0.5), normal(1001, -2.0, 1.5)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("count", [8, 12, 40, 400])
def test_reliability_grows_with_the_number_of_episodes(count: int) -> None:
    group = torch.zeros(count, dtype=torch.int64)
    scale = C.fit_scale(normal(count, 5.0, 0.1), normal(count, -5.0, 0.1), group, 1, CONFIG)
    assert scale.reliability.item() == pytest.approx(count / (count + CONFIG.count_shrinkage), abs=0.01)


@pytest.mark.parametrize(
    ("distance", "doubted"),
    # Standard deviations between the real and the planted means: near-equal instructions, ..., a check that works.
    [(0.3, False), (1.0, False), (2.0, False), (10.0, True)],
)
def test_a_check_that_cannot_separate_its_planted_fault_doubts_no_good_episode(distance: float, doubted: bool) -> None:
    real, planted = normal(200, 0.3 * distance, 0.3), normal(200, 0.0, 0.3)
    group = torch.zeros(200, dtype=torch.int64)
    scale = C.fit_scale(real, planted, group, 1, CONFIG)

    def weights(score: torch.Tensor) -> torch.Tensor:
        return C.calibrated_weight(scale.limited(scale.place(score, group), group), CONFIG)

    assert weights(real).min() > 2.0
    assert (weights(planted).median() < 1.0) == doubted


def test_a_missing_score_is_not_evidence() -> None:
    real, episode = episodes_of(torch.full((20,), 3.0))
    faulted = real - 5.0
    real[episode == 4] = torch.nan
    z = calibrated(real, faulted, episode)
    assert bool(torch.isfinite(z).all())
    assert z[episode == 4].tolist() == [1.0] * 20


def test_a_group_with_enough_episodes_has_its_own_scale() -> None:
    group = torch.arange(60) % 2
    real = torch.where(group == 0, 1.0, 5.0) + 0.01 * torch.arange(60)
    scale = C.fit_scale(real, real - 9.0, group, 2, CONFIG)
    assert scale.reliability.tolist() == pytest.approx([30 / 33, 30 / 33], abs=0.01)
    assert scale.good[0] < scale.good[1] and scale.fault[0] < scale.fault[1]
    one = C.fit_scale(real[:10], real[:10] - 9.0, group[:10], 2, CONFIG)
    assert one.good[0] == one.good[1]


def test_a_scale_does_not_shrink_towards_that_of_a_blind_check() -> None:
    """One good task, and a large one whose planted faults score like its episodes."""
    group = torch.tensor([0] * 12 + [1] * 40)
    real = torch.cat((normal(12, 2.0, 0.2), normal(40, -2.0, 0.2)))
    planted = torch.cat((normal(12, -4.0, 0.2), normal(40, -1.9, 0.2)))
    alone = C.fit_scale(real[:12], planted[:12], group[:12], 1, CONFIG)
    scale = C.fit_scale(real, planted, group, 2, CONFIG)
    for name in ("fault", "middle", "good", "reliability"):
        assert getattr(scale, name)[0] == getattr(alone, name)[0]
    assert scale.reliability[1] == 0.0
    at = torch.tensor([-1.1])
    assert scale.place(at, group[:1]).item() > CONFIG.threshold


def test_a_shift_through_an_episode_is_found_where_no_chunk_shows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    margins = 0.5 + torch.randn(200, 4, generator=generator)
    episode = torch.arange(200) // 100
    margins[episode == 1, 2] -= 1.0
    margins[::7, 0] = torch.nan
    margin, shift = C.consistent_margin(margins, episode, 2, CONFIG)
    means = C.episode_mean(margin, episode, 2)
    assert means[0] > 0.2 and means[1] == pytest.approx(margins[episode == 1, 2].mean().item(), abs=0.05)
    assert shift[1] == 2
    nothing, none = C.consistent_margin(margins[:2], episode[:2], 2, CONFIG)
    assert bool(nothing.isnan().all()) and none.tolist() == [-1, -1]


# ---- the heads


def some_transitions(count: int, instructions: int = 3) -> Transitions:
    generator = torch.Generator().manual_seed(0)

    def some(width: int) -> torch.Tensor:
        return torch.randn(count, width, generator=generator)

    number = torch.arange(count)
    time = number % 4 * CONFIG.guard
    return Transitions(some(5), some(6), some(4), some(4), number % instructions, number // 4, time)


def scores(heads: IdentificationHeads, samples: Transitions, known: list[bool]) -> dict[str, torch.Tensor]:
    some = samples.action[:, None].expand(-1, 2, -1) + 1.0
    usable = torch.ones(len(samples), 2, dtype=torch.bool)
    usable[0] = False
    return heads.scores(samples, samples, shifted=some.unbind(dim=1), usable_shifts=usable, known=torch.tensor(known))


def test_a_query_does_not_contain_the_element_that_it_identifies() -> None:
    heads, samples = IdentificationHeads(5, 6, 4, 3, CONFIG), some_transitions(12)
    before = heads.queries(samples)
    after = heads.queries(dataclasses.replace(samples, action=samples.action + 1.0))
    torch.testing.assert_close(after["action"], before["action"])
    assert not torch.allclose(after["next_observation"], before["next_observation"])
    after = heads.queries(
        dataclasses.replace(samples, next_observation=samples.next_observation + 1.0, change=samples.change + 1)
    )
    torch.testing.assert_close(after["next_observation"], before["next_observation"])
    after = heads.queries(dataclasses.replace(samples, instruction=(samples.instruction + 1) % 3))
    torch.testing.assert_close(after["instruction"], before["instruction"])


def test_scores_are_missing_where_there_is_no_candidate() -> None:
    torch.manual_seed(0)
    heads, samples = IdentificationHeads(5, 6, 4, 3, CONFIG), some_transitions(12)
    found = scores(heads, samples, [True, True, False])
    assert bool(found["action/shift"][0].isnan().all()) and bool(found["action/shift"][1:].isfinite().all())
    assert found["instruction/pool"].isnan().tolist() == (samples.instruction == 2).tolist()
    assert bool(found["action/pool"].isfinite().all())
    # One episode alone has no candidates from others.
    alone = scores(heads, samples.take(torch.arange(4)), [True, True, True])
    assert bool(alone["action/pool"].isnan().all())
    assert "instruction" not in IdentificationHeads(5, 6, 4, 1, CONFIG).elements


def test_a_near_time_of_the_same_episode_is_not_a_negative() -> None:
    torch.manual_seed(0)
    heads, samples = IdentificationHeads(5, 6, 4, 1, CONFIG), some_transitions(4)
    near = dataclasses.replace(samples, time=torch.zeros_like(samples.time))
    assert heads.losses(near)["action"].item() == 0.0
    assert heads.losses(samples)["action"].item() > 0.0


# ---- fitting


def test_folds_split_the_episodes_by_their_id_alone() -> None:
    ids = np.arange(100)
    fold = cross_fitting.assign_folds(ids, 4)
    assert torch.bincount(fold).tolist() == [25, 25, 25, 25]
    order = np.random.default_rng(0).permutation(100)
    torch.testing.assert_close(cross_fitting.assign_folds(ids[order], 4), fold[order])


def test_no_episode_is_scored_by_heads_that_have_trained_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, set[int]] = {}
    scored: list[tuple[set[int], set[int]]] = []
    losses, score = IdentificationHeads.losses, IdentificationHeads.scores

    def spy_losses(self: IdentificationHeads, samples: Transitions, *args: Any) -> dict[str, torch.Tensor]:
        seen.setdefault(id(self), set()).update(samples.episode.tolist())
        return losses(self, samples, *args)

    def spy_scores(self: IdentificationHeads, samples: Transitions, pool: Transitions, **kwargs: Any) -> Any:
        # The heads may be freed and their id used again: what they have seen belongs to those alive now.
        scored.append((seen[id(self)], {*samples.episode.tolist(), *pool.episode.tolist()}))
        return score(self, samples, pool, **kwargs)

    train = cross_fitting.train_heads

    def fresh(*args: Any) -> IdentificationHeads:
        seen.clear()
        return train(*args)

    monkeypatch.setattr(IdentificationHeads, "losses", spy_losses)
    monkeypatch.setattr(IdentificationHeads, "scores", spy_scores)
    monkeypatch.setattr(cross_fitting, "train_heads", fresh)
    fit(drifting_table([LENGTH] * 12), steps=4)
    assert scored and all(trained and not trained & held_out for trained, held_out in scored)
    assert set.union(*(held_out for _, held_out in scored)) == set(range(12))


def test_the_frame_is_a_score_file_and_depends_on_the_seed_alone() -> None:
    table = drifting_table([LENGTH] * 20)
    first, other = fit(table), fit(table, seed=1)
    torch.rand(3)
    pd.testing.assert_frame_equal(first, fit(table))
    assert not np.array_equal(first["score"], other["score"]) and first["scorer"][0] != other["scorer"][0]
    assert list(first.columns) == [*COLUMNS, *ELEMENT_COLUMNS, "failed_check", "estimated_lag"]
    assert set(first["estimated_lag"]) <= set(CONFIG.at_rate(table.fps).shifts)
    np.testing.assert_array_equal(first["index"], table.frame_id)
    np.testing.assert_array_equal(first["valid"], first["frame_index"] < LENGTH - 8)
    numbers = first[["score", "weight", *ELEMENT_COLUMNS[:3]]].to_numpy()
    assert np.isfinite(numbers).all()
    assert first["weight"].between(CONFIG.w_min - 1e-5, CONFIG.w_max + 1e-5).all()


def test_an_episode_far_from_all_others_is_novel() -> None:
    table = drifting_table([LENGTH] * 20, tasks=1)
    table.columns["observation.state"][3 * LENGTH : 4 * LENGTH] += 30.0
    fold = cross_fitting.assign_folds(table.episode_index, 5)

    def novelty_of() -> torch.Tensor:
        transitions = lazy_transitions(ChunkDataset(table, chunk_size=8, target_offset=8), CONFIG)
        rows = torch.arange(len(transitions))
        searched = searched_contexts(transitions, rows, fold, CONFIG, torch.Generator().manual_seed(0))
        return context_novelty(transitions, rows, fold, searched, CONFIG)

    novelty = novelty_of()
    assert novelty.shape == (20,) and novelty.argmax() == 3
    # Novelty does not depend on the actions.
    table.columns["action"][:] *= -1
    again = novelty_of()
    torch.testing.assert_close(again, novelty)


@pytest.mark.parametrize("slope", [-1.5, 0.0, 1.5])
def test_a_fall_with_novelty_is_corrected_and_a_rise_is_not(slope: float) -> None:
    generator = torch.Generator().manual_seed(1)
    novelty = torch.randn(300, generator=generator)
    mean = slope * novelty + 0.1 * torch.randn(300, generator=generator)
    faulty = torch.arange(300) % 5 < 3
    mean[faulty] -= 3.0
    mean[7] = torch.nan
    owed = novelty_correction(mean, novelty, CONFIG)
    expected = -min(slope, 0.0) * (novelty - novelty[torch.arange(300) != 7].median())
    assert float((owed - expected).abs().max()) < 0.25
    assert torch.equal(novelty_correction(mean, torch.ones(300), CONFIG), torch.zeros(300))


@pytest.mark.slow
def test_wrong_actions_get_less_weight() -> None:
    wrong = (0, 5, 10, 15, 20, 25)
    scores = fit(drifting_table([LENGTH] * 40, wrong=wrong), steps=80, rounds=1)
    mean = scores.groupby("episode_index")["weight"].mean()
    bad = np.isin(mean.index - 7, wrong)
    assert mean[bad].mean() < 1.5 and mean[bad].median() < 1.0 and mean[~bad].median() > 3.5
    failed = scores[scores["episode_index"].isin(mean.index[bad])]["failed_element"]
    assert (failed != "").mean() > 0.6
    component = scores[scores["episode_index"].isin(mean.index[bad])]["failed_check"]
    assert set(component.str.split("/").str[0][component != ""]) <= {"action", "next_observation", "instruction"}
    assert (component != "").mean() > 0.5


def test_a_single_task_leaves_the_instruction_out() -> None:
    scores = fit(drifting_table([LENGTH] * 8, tasks=1))
    assert scores["score_instruction"].isna().all()
    assert np.isfinite(scores[["score", "weight"]].to_numpy()).all()
    assert not (scores["failed_element"] == "instruction").any()


def test_instructions_that_occur_once_are_not_evidence() -> None:
    scores = fit(drifting_table([LENGTH] * 8, tasks=8))
    assert not (scores["failed_element"] == "instruction").any()
    assert np.isfinite(scores[["score", "weight"]].to_numpy()).all()


def test_the_floor_is_paid_by_chunks_whose_only_fault_is_noise() -> None:
    """A quarter good, as many with noise, and half with another fault; half of those have noise, too."""
    table = drifting_table([LENGTH] * 12)
    transitions = lazy_transitions(ChunkDataset(table, chunk_size=8, target_offset=8), CONFIG)
    good, wrong = transitions.episode < 3, transitions.episode >= 6
    noisy = ~good & (transitions.episode < 9)
    scores = {"action/pool": torch.where(wrong, 0.0, 1.0), ACTION_NOISE: torch.where(noisy, 0.0, 1.0)}
    shift = torch.zeros(12, dtype=torch.int64)
    found = FittedScores(table, transitions, scores, shift, "none", CONFIG, 16).frame()
    weight = torch.tensor(found.weight[found.valid].to_numpy())
    plain = C.calibrated_weight(torch.minimum(*scores.values()), CONFIG)
    assert sample_share(plain) < 0.29 and sample_share(weight) == pytest.approx(CONFIG.min_sample_size, abs=0.01)
    torch.testing.assert_close(weight[good | wrong], plain[good | wrong])
    paying = weight[noisy & ~wrong]
    assert plain[noisy].max() + 0.2 < paying.min() <= paying.max() <= (CONFIG.w_min + CONFIG.w_max) / 2


def test_frames_without_a_target_do_not_take_the_samples_below_their_floor() -> None:
    table = drifting_table([LENGTH] * 8 + [8] * 8)
    transitions = lazy_transitions(ChunkDataset(table, chunk_size=8, target_offset=8), CONFIG)
    scores = {"action/pool": torch.where(transitions.episode < 1, 2.0, -2.0)}
    scores = FittedScores(table, transitions, scores, torch.zeros(16, dtype=torch.int64), "none", CONFIG, 16).frame()
    with_target = scores["episode_index"].isin(scores.loc[scores.valid, "episode_index"].unique())
    weight = torch.tensor(scores.weight.to_numpy(), dtype=torch.float64)
    assert sample_share(weight[torch.tensor(with_target.to_numpy())]) == pytest.approx(
        CONFIG.min_sample_size, abs=1e-4
    )
    assert sample_share(weight) > CONFIG.min_sample_size
    assert scores.loc[~with_target, "weight"].to_numpy() == pytest.approx(
        scores.loc[with_target, "weight"].mean(), rel=1e-5
    )


def test_an_episode_without_evidence_of_a_shift_has_lag_zero() -> None:
    # With three chunks, no shift stays within the episode.
    scores = fit(drifting_table([LENGTH] * 6 + [11] * 6), steps=2)
    shift = scores.groupby("episode_index")["estimated_lag"].first().to_numpy()
    assert set(shift[6:]) == {0} and 0 not in shift[:6]


def test_episodes_without_a_target_get_the_average() -> None:
    scores = fit(drifting_table([LENGTH] * 4 + [8, 3] + [LENGTH] * 4))
    short = scores["episode_index"].isin([11, 12])
    assert not scores.loc[short, "valid"].any() and short.sum() == 11
    assert np.isfinite(scores[["score", "weight"]].to_numpy()).all()
    assert scores.loc[short, "weight"].nunique() == 1
    assert scores.loc[short, "weight"].iloc[0] == pytest.approx(scores.loc[~short, "weight"].mean(), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_few_long_episodes_among_many_short_ones_are_shared_out(seed: int) -> None:
    lengths = [LENGTH] * 4 + [3] * 30
    np.random.default_rng(seed).shuffle(lengths)
    scores = fit(drifting_table(lengths), steps=2)
    assert scores["valid"].sum() == 4 * (LENGTH - 8)
    assert np.isfinite(scores[["score", "weight"]].to_numpy()).all()


def test_too_few_episodes_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 episodes longer than target_offset 8; fitting scores needs at least 4"):
        fit(drifting_table([LENGTH, LENGTH, LENGTH, 8]))
    with pytest.raises(InputError, match="rounds is 0"):
        fit(drifting_table([LENGTH] * 4), rounds=0)


# ---- ablations


@pytest.mark.parametrize(
    "changes",
    [
        {"cross_fit": False},
        {"centre_on_median": True},
        {"near_state_candidates": 16},
        {"episode_evidence": False},
        {"correct_novelty": False},
        {"checks": ("action/pool", "action/noise")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_ablation_changes_the_scores_and_keeps_the_bounds(changes: dict[str, Any]) -> None:
    table = drifting_table([LENGTH] * 20, wrong=(3, 8))
    whole, ablated = fit(table, steps=4), fit(table, steps=4, **changes)
    assert not np.array_equal(whole["score"], ablated["score"]) and whole["scorer"][0] != ablated["scorer"][0]
    assert ablated["weight"].between(CONFIG.w_min - 1e-5, CONFIG.w_max + 1e-5).all()
    if "checks" in changes:
        assert ablated[["score_next_observation", "score_instruction"]].isna().all(axis=None)


def test_checks_that_do_not_apply_are_refused() -> None:
    with pytest.raises(InputError, match="none of the checks instruction/pool applies"):
        fit(drifting_table([LENGTH] * 8, tasks=1), steps=1, checks=("instruction/pool",))


def test_a_near_state_candidate_is_the_nearest_of_another_episode() -> None:
    chunks = ChunkDataset(coded_table([30] * 6), chunk_size=4, target_offset=4)
    near_config = ScoreConfig(near_state_candidates=16)
    transitions, episodes = lazy_transitions(chunks, near_config), torch.tensor([4, 0, 2])
    drawn = cross_fitting.draw_batch(transitions, episodes, 4, near_config, torch.Generator().manual_seed(0))
    rows = drawn.view(3, 8)
    own = transitions.episode[rows] == episodes[:, None]
    assert own.tolist() == [[True] * 4 + [False, True] * 2] * 3
    # The same draws, and every distance of each anchor.
    again = torch.Generator().manual_seed(0)
    anchors = cross_fitting.draw_batch(transitions, episodes, 4, CONFIG, again).view(3, 8)[:, :4:2].flatten()
    time = (torch.rand(3, 16, generator=again) * transitions.count[episodes, None]).long()
    others = (transitions.first[episodes, None] + time).flatten()
    for anchor, near in zip(anchors.tolist(), rows[:, 4::2].flatten().tolist(), strict=True):
        apart = others[transitions.episode[others] != transitions.episode[anchor]]
        at = transitions.contexts(torch.tensor([anchor]))
        away = (transitions.contexts(apart) - at).norm(dim=1)
        found = (transitions.contexts(torch.tensor([near])) - at).norm()
        assert float(found) == pytest.approx(float(away.min()), abs=1e-4)


def test_an_observation_after_a_pause_is_not_evidence() -> None:
    table = drifting_table([40] * 12)
    stretch = table.stretch.copy()
    # The recording of the fourth episode paused before its frame 20.
    stretch[3 * 40 + 20 : 4 * 40] = 1
    paused, plain = fit(dataclasses.replace(table, stretch=stretch)), fit(table)
    across = np.arange(3 * 40 + 12, 3 * 40 + 20)
    assert np.array_equal(np.flatnonzero(paused["valid"] != plain["valid"]), across)
    rest = np.arange(3 * 40, 3 * 40 + 12)
    for column in ("score_next_observation", "score_action"):
        # They have the mean of the others, which differ.
        assert len(set(paused[column][across].round(5))) == 1
        assert len(set(paused[column][rest].round(5))) > 5


def with_pauses(table: EpisodeTable, starts: list[int]) -> EpisodeTable:
    """The table with a pause before these rows, each in another episode."""
    stretch = table.stretch.copy()
    for start in starts:
        stretch[start : min(end for end in [*table.starts, table.num_frames] if end > start)] = 1
    return dataclasses.replace(table, stretch=stretch)


def test_no_transition_and_no_chunk_crosses_a_pause() -> None:
    table = with_pauses(drifting_table([40] * 6), [20, 85, 159])
    chunks = ChunkDataset(table, chunk_size=12, target_offset=8)
    transitions = lazy_transitions(chunks, CONFIG)
    rows = torch.arange(len(transitions))
    frames = transitions.frames(rows).numpy()
    assert frames.tolist() == np.flatnonzero(chunks.batch(range(table.num_frames))["has_target"]).tolist()
    assert transitions.count.tolist() == [24, 32, 27, 31, 32, 32]
    assert transitions.times(rows).tolist() == (frames % 40).tolist()
    for shift in (-5, 5):
        moved = transitions.moved(rows, torch.tensor(shift))
        near = transitions.frames(moved).numpy()
        assert np.array_equal(table.stretch[near], table.stretch[frames])
        assert np.array_equal(near // 40, frames // 40)
        assert set((near - frames).tolist()) == set(range(min(shift, 0), max(shift, 0) + 1))
    # The last transition before the first pause is 9 frames before it.
    action = transitions.actions(torch.tensor([11])).view(12, 2)
    assert (action[:9] != 0).all() and (action[9:] == 0).all()
    batch = cross_fitting.draw_batch(transitions, torch.arange(6), 500, CONFIG, torch.Generator().manual_seed(0))
    assert batch.min() >= 0 and batch.max() < len(transitions)


def test_a_jump_across_a_pause_changes_no_score() -> None:
    """Behind the pauses no transition fits, so that their states appear across the pause alone."""
    table = with_pauses(drifting_table([40] * 12, tasks=1), [32, 72, 112])
    state = table.columns["observation.state"].copy()
    for episode in range(3):
        other = (episode + 1) % 3
        state[40 * episode + 32 : 40 * episode + 40] = table.columns["observation.state"][40 * other + 32 :][:8]
    jumping = dataclasses.replace(table, columns={**table.columns, "observation.state": state})
    found, plain = fit(jumping), fit(table)
    np.testing.assert_allclose(found["score"], plain["score"], atol=2e-3)
    np.testing.assert_allclose(found["weight"], plain["weight"], atol=2e-3)
    assert found["valid"].sum() == 3 * 24 + 9 * 32


def test_episodes_of_pauses_alone_are_too_few() -> None:
    table = drifting_table([16] * 6)
    fit(table, steps=1)
    with pytest.raises(InputError, match="3 episodes"):
        fit(with_pauses(table, [8, 24, 40]), steps=1)
