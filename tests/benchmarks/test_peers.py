"""Peers of the robustness benchmark: each detects the fault that it is designed for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from data_helpers import coded_table
from model_helpers import tiny_policy

from benchmarks.robustness import peers, progress, reachability, small_networks
from benchmarks.robustness.peers import PEERS, policy_loss, weights_from_score
from benchmarks.robustness.planting import Truth
from benchmarks.robustness.weighting import score_file
from hf_ptr import InputError, VLAProcessor
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.policies.vla.processing_vla import instruction_tokenizer

FEATURES = ("observation.state",)
NAMES = tuple(PEERS)


def walks(count: int = 24, seed: int = 0, length: int = 60) -> EpisodeTable:
    """Two tasks, each with its own curve, shifted slightly in every episode.

    The action is the next step of the state, so it is determined by the state. Both change over time.
    """
    rng = np.random.default_rng(seed)
    lengths = length + rng.integers(-4, 5, count)
    table = coded_table(lengths.tolist(), tasks=2)
    phase = table.frame_index / np.repeat(lengths, lengths)
    task, shift = table.task_index, np.repeat(rng.normal(0.0, 0.1, (count, 3)), lengths, axis=0)

    def position(at: np.ndarray) -> np.ndarray:
        turn = np.where(task == 0, 1.0, -1.0)
        return np.stack([4.0 * at, np.sin(3.0 * at) * turn, np.cos(5.0 * at + task)], axis=1) + shift

    state = position(phase)
    action = np.concatenate([60.0 * (position(phase + 1.0 / 60.0) - state), (phase > 0.5)[:, None]], axis=1)
    return with_columns(table, state=state, action=action)


def with_columns(
    table: EpisodeTable, state: np.ndarray | None = None, action: np.ndarray | None = None
) -> EpisodeTable:
    given = {"observation.state": state, "action": action}
    columns = {name: column.astype(np.float32) for name, column in given.items() if column is not None}
    return dataclasses.replace(table, columns={**table.columns, **columns})


def rows_of(table: EpisodeTable, episode: int) -> slice:
    return slice(int(table.starts[episode]), int(table.starts[episode] + table.lengths[episode]))


def by_episode(score: np.ndarray, table: EpisodeTable) -> np.ndarray:
    return np.add.reduceat(score, table.starts) / table.lengths


def score_of(name: str, table: EpisodeTable, seed: int = 0) -> np.ndarray:
    return PEERS[name](table, seed, observation_features=FEATURES)


def set_steps(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The training steps of all peers that train."""
    for module in (progress, reachability, small_networks):
        monkeypatch.setattr(module, "STEPS", steps)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short training, and batches smaller than the table."""
    set_steps(monkeypatch, 60)
    monkeypatch.setattr(peers, "MI_BATCH", 512)


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_returns_finite_scores_determined_by_its_seed(name):
    table = walks()
    before = torch.get_rng_state()
    score = score_of(name, table)
    assert torch.equal(before, torch.get_rng_state()), "the global random state changed"
    assert score.shape == (table.num_frames,)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    np.testing.assert_array_equal(score, score_of(name, table))
    # One batch covers each task here, so the order that `mutual_information` draws has no effect.
    if name not in ("length", "smoothness", "mutual_information"):
        assert not np.array_equal(score, score_of(name, table, seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_accepts_episodes_of_any_length_and_constant_columns(name):
    table = coded_table([1, 2, 3, 40, 4, 17, 16, 1], tasks=3)
    flat = table.columns["observation.state"].copy()
    flat[:, 2] = 0.1
    score = score_of(name, with_columns(table, state=flat))
    assert score.shape == (table.num_frames,)
    assert np.isfinite(score).all()


@pytest.mark.parametrize("name", ("length", "smoothness", "mutual_information"))
def test_peers_of_whole_episodes_return_one_score_per_episode(name):
    table = walks(8)
    score = score_of(name, table)
    np.testing.assert_array_equal(score, score[table.starts][table.episode_of_row])


def test_length_is_relative_to_the_median_of_the_labelled_task():
    # Tasks 0 and 1 alternate; the medians are 20 and 40.
    table = coded_table([20, 40, 20, 40, 40, 40, 20, 20], tasks=2)
    score = score_of("length", table)[table.starts]
    np.testing.assert_allclose(score, [0, 0, 0, 0, -np.log(2), 0, 0, -np.log(2)], atol=1e-12)


def test_smoothness_detects_noise_and_ignores_episode_boundaries():
    table = walks()
    action = table.feature("action").copy()
    action[rows_of(table, 5)] += np.random.default_rng(1).normal(0.0, 0.3, action[rows_of(table, 5)].shape)
    score = by_episode(score_of("smoothness", with_columns(table, action=action)), table)
    assert score.argmin() == 5
    # Linear ramps have no jerk, whatever the jump between episodes.
    ramps = np.repeat(np.array([[0.0], [50.0], [-50.0]]), 20, axis=0) + np.tile(np.arange(20.0), 3)[:, None]
    straight = with_columns(coded_table([20, 20, 20]), action=np.repeat(ramps, 4, axis=1))
    np.testing.assert_allclose(score_of("smoothness", straight), 0.0, atol=1e-9)


def test_smoothness_does_not_depend_on_units():
    table = walks()
    scaled = with_columns(table, action=table.feature("action") * np.array([1.0, 10.0, 0.1, 3.0]))
    np.testing.assert_allclose(score_of("smoothness", scaled), score_of("smoothness", table), rtol=1e-3)


def test_mutual_information_detects_swapped_actions():
    table = walks()
    action = table.feature("action").copy()
    # The actions of an episode of another task, in reverse.
    action[rows_of(table, 4)] = np.resize(action[rows_of(table, 7)][::-1], action[rows_of(table, 4)].shape)
    score = by_episode(score_of("mutual_information", with_columns(table, action=action)), table)
    assert score.argmin() == 4


def test_reachability_detects_chunks_that_lead_elsewhere(monkeypatch):
    set_steps(monkeypatch, 150)
    # Straight ways to random targets: the action is the direction.
    table = coded_table([30] * 24)
    rng = np.random.default_rng(0)
    way = np.repeat(rng.uniform(-1.0, 1.0, (24, 3)), 30, axis=0)
    state = way * table.frame_index[:, None] / 30
    action = np.concatenate([way, np.zeros((len(way), 1))], axis=1)
    action[rows_of(table, 4)] *= -1.0
    score = by_episode(score_of("reachability", with_columns(table, state=state, action=action)), table)
    assert score.argmin() == 4


def test_ksg_estimates_the_mutual_information_of_gaussians():
    correlation = 0.9
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 1))
    y = correlation * x + np.sqrt(1.0 - correlation**2) * rng.normal(size=x.shape)
    constant = peers.digamma(len(x)) + np.mean([peers.digamma(k) for k in peers.NEIGHBOURS])
    estimate = peers._ksg(torch.from_numpy(x), torch.from_numpy(y)).mean() + constant
    assert estimate == pytest.approx(-0.5 * np.log(1.0 - correlation**2), abs=0.06)


def test_mutual_information_is_zero_for_a_task_with_too_few_frames():
    table = coded_table([3, 30], tasks=2)
    scores = by_episode(score_of("mutual_information", table), table)
    assert scores[0] == 0.0
    assert scores[1] != 0.0


@pytest.mark.parametrize("name", ("progress", "progress_delta"))
def test_progress_peers_detect_a_stall(name, monkeypatch):
    set_steps(monkeypatch, 200)
    table = walks(length=100)
    state = table.feature("observation.state").copy()
    rows = rows_of(table, 3)
    stall = slice(rows.start + 30, rows.start + 70)
    # After a pause of 40 frames the rest of the episode is faster.
    still = np.concatenate([np.linspace(0, 40, 30), np.full(40, 40.0), np.linspace(40, table.lengths[3] - 1, 200)])
    state[rows] = state[rows][still[: table.lengths[3]].astype(np.int64)]
    score = score_of(name, with_columns(table, state=state))
    others = np.concatenate([score[rows_of(table, e)][30:54] for e in range(table.num_episodes) if e != 3])
    inside = score[stall.start : stall.stop - small_networks.CHUNK]
    assert np.median(inside) < np.quantile(others, 0.05)


def test_progress_delta_of_a_uniform_episode_is_the_share_of_a_chunk(monkeypatch):
    set_steps(monkeypatch, 500)
    table = walks(length=60)
    score = score_of("progress_delta", table)
    expected = np.repeat(small_networks.CHUNK / (table.lengths - 1), table.lengths)
    assert np.abs(score - expected).mean() < 0.2 * expected.mean()
    last = table.starts + table.lengths - 1
    np.testing.assert_array_equal(score[last], score[last - 1])


def test_spans_and_discounted_averages_stay_within_the_episode():
    table = coded_table([5, 3])
    span = np.repeat([2, 2], [5, 3])
    values = np.array([1.0, 2.0, 6.0, 90.0, 90.0, 5.0, 90.0, 90.0])  # spans start at 0, 1, 2 and at 5
    mean = progress._mean_of_spans(values, table, span)
    np.testing.assert_allclose(mean, [1.0, 1.5, 3.0, 4.0, 6.0, 5.0, 5.0, 5.0])
    ahead = progress._discounted(values, table)
    assert ahead[4] == 90.0
    assert ahead[7] == 90.0
    d = progress.DISCOUNT
    assert ahead[3] == pytest.approx(90.0)
    assert ahead[5] == pytest.approx((5.0 + d * 90.0 + d**2 * 90.0) / (1.0 + d + d**2))


def test_elapsed_time_is_measured_in_bins():
    np.testing.assert_allclose(progress._rank(np.array([0, 2, 6, 8, 12, 16, 24, 64])), [0, 0, 1, 1.5, 2, 2.5, 3, 4])


def test_pairs_stay_within_an_episode_and_cover_all_bins():
    table = coded_table([1, 30, 80, 80])
    first, last, label = progress._pairs(table, np.random.default_rng(0), 4000)
    assert (table.episode_of_row[first] == table.episode_of_row[last]).all()
    span = last - first
    assert (span >= progress.BINS[label]).all()
    assert (span < progress.BINS[label + 1]).all()
    assert (np.bincount(label, minlength=5) > 400).all()


def test_weights_are_bounded_and_monotone_with_median_one():
    score = np.random.default_rng(0).standard_t(2, 1001) * 7.0 - 3.0
    weights = weights_from_score(score)
    assert weights.min() == pytest.approx(0.25)
    assert weights.max() == pytest.approx(4.0)
    assert (np.diff(weights[np.argsort(score)]) >= 0.0).all()
    assert np.median(weights) == pytest.approx(1.0)
    np.testing.assert_allclose(weights_from_score(1e6 * score + 5.0), weights, rtol=1e-6)
    middle = np.abs(np.log(weights)) < np.log(3.9)
    scale = 1.4826 * np.median(np.abs(score - np.median(score)))
    expected = np.exp((score - np.median(score)) / scale / 0.5)
    np.testing.assert_allclose(weights[middle], expected[middle])


def test_constant_scores_give_weights_of_one_and_a_zero_mad_falls_back_to_the_standard_deviation():
    assert (weights_from_score(np.full(100, 0.1)) == 1.0).all()
    mostly = np.zeros(100)
    mostly[:10] = -1.0
    weights = weights_from_score(mostly)
    assert (weights[10:] == 1.0).all()
    assert weights[0] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("score", "settings", "message"),
    [
        ([0.0, np.nan, np.inf], {}, "2 of 3"),
        ([0.0, 1.0], {"w_min": 2.0}, "w_min"),
        ([0.0, 1.0], {"temperature": 0.0}, "temperature"),
    ],
)
def test_invalid_scores_and_settings_are_refused(score, settings, message):
    with pytest.raises(InputError, match=message):
        weights_from_score(np.array(score), **settings)


def test_policy_loss_is_seeded_detects_wrong_actions_and_restores_the_policy():
    table = walks(8, length=30)
    policy = tiny_policy(
        observation_dim=3, state_dim=3, action_dim=4, observation_features=["observation.state"], dropout=0.5
    ).train()
    processor = VLAProcessor(instruction_tokenizer(table.tasks))
    action = table.feature("action").copy()
    action[rows_of(table, 2)] += 20.0
    bad = with_columns(table, action=action)
    before = torch.get_rng_state()
    score = policy_loss(policy, processor, bad, draws=2, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert policy.training
    assert score.shape == (table.num_frames,)
    assert score.dtype == np.float64
    assert (score < 0.0).all()
    assert by_episode(score, table).argmin() == 2
    np.testing.assert_array_equal(score, policy_loss(policy, processor, bad, draws=2, seed=0))
    assert not np.array_equal(score, policy_loss(policy, processor, bad, draws=2, seed=1))
    with pytest.raises(InputError, match="draws"):
        policy_loss(policy, processor, bad, draws=0, seed=0)


def test_oracle_weights_follow_the_truth_and_two_variants_keep_half_of_the_samples() -> None:
    table = coded_table([30, 20, 25, 25])
    faults = {"noise": np.array([True, False, False, True]), "instruction": np.array([True, True, False, False])}
    truth = Truth.of_episodes(table, CorruptionTruth("two faults", 0, table.episode_index, faults))
    found = {
        name: score_file(name, table, truth, 0, observation_features=FEATURES, other=None).weight.to_numpy()
        for name in ("oracle", "oracle-floor", "oracle-mild")
    }
    good = np.repeat([False, False, True, False], table.lengths)
    assert set(found["oracle"][good]) == {4.0} and set(found["oracle"][~good]) == {0.25}
    share = {name: weight.sum() ** 2 / (len(weight) * np.square(weight).sum()) for name, weight in found.items()}
    assert share["oracle"] < 0.4 and share["oracle-floor"] == pytest.approx(0.5)
    assert found["oracle-floor"].mean() == pytest.approx(found["oracle"].mean())
    assert 0.25 < found["oracle-floor"][~good].max() < found["oracle-floor"][good].min() < 4.0
    # Only the weights of episodes with action noise alone are raised.
    noisy = np.repeat([False, False, False, True], table.lengths)
    assert share["oracle-mild"] == pytest.approx(0.5)
    assert 0.25 < found["oracle-mild"][noisy].max() < 2.125
    np.testing.assert_allclose(found["oracle-mild"][~noisy], found["oracle"][~noisy])
