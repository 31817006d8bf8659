"""Rollouts of policies in Meta-World, and caching of their results."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.envs.metaworld.environment import ACTION, ENVIRONMENT_STATE, STATE, MetaWorld
from hf_ptr.envs.metaworld.tasks import INSTRUCTIONS, evaluation_seed
from hf_ptr.errors import InputError
from hf_ptr.evaluation import rollouts
from hf_ptr.evaluation.episodes import AS_TRAINED, rollout_task
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.policies import VLAPolicy
from hf_ptr.policies.vla.building import policy_from_dataset

TASK = "reach-v3"
SEEDS = [evaluation_seed(0, TASK, number) for number in range(6)]


def tensors(instructions: Sequence[str], observation: np.ndarray, state: np.ndarray) -> dict[str, torch.Tensor]:
    """A processor that only checks its inputs."""
    assert list(instructions) == [INSTRUCTIONS[TASK]] * len(observation)
    assert observation.dtype == state.dtype == np.float32
    np.testing.assert_array_equal(observation[:, :4], state)
    return {"observation": torch.from_numpy(observation), "state": torch.from_numpy(state)}


class Policy:
    """Records its observations; subclasses define the actions."""

    def __init__(self, n_action_steps: int = 1) -> None:
        self.config = SimpleNamespace(
            observation_features=[ENVIRONMENT_STATE],
            state_feature=STATE,
            n_action_steps=n_action_steps,
            cameras=(),
            image_resolution=(0, 0),
        )
        self.seen: list[np.ndarray] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def predict_action_chunk(
        self, batch: dict[str, torch.Tensor], generator: torch.Generator | None = None
    ) -> torch.Tensor:
        assert set(batch) == {"observation", "state"}
        observation = batch["observation"]
        self.seen.append(observation.numpy().copy())
        return self.act(observation, generator)


class Expert(Policy):
    def act(self, observation: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Move straight to the goal like the scripted expert."""
        towards = 5.0 * (observation[:, -3:] - observation[:, :3])
        return torch.cat([towards, torch.zeros(len(towards), 1)], dim=1)[:, None]


class Noise(Policy):
    def act(self, observation: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return torch.randn(len(observation), 16, 4, generator=generator)


class Broken(Policy):
    def act(self, observation: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return torch.full((len(observation), 16, 4), math.nan)


def test_an_expert_succeeds_everywhere() -> None:
    policy = Expert()
    assert rollout_task(MetaWorld(), policy, tensors, TASK, SEEDS, max_steps=150) == [True] * len(SEEDS)
    assert policy.resets == 1
    # The rollout ends as soon as the last episode is solved.
    assert len(policy.seen) < 150


def test_noise_succeeds_nowhere() -> None:
    policy = Noise(n_action_steps=8)
    assert (
        rollout_task(MetaWorld(), policy, tensors, TASK, SEEDS, max_steps=100, generator=torch.Generator())
        == [False] * 6
    )
    # 100 steps in chunks of 8; the last chunk is truncated.
    assert len(policy.seen) == 13


def test_solved_episodes_keep_their_row_and_are_not_stepped_further() -> None:
    policy = Expert()
    rollout_task(MetaWorld(), policy, tensors, TASK, SEEDS, max_steps=150)
    seen = np.stack(policy.seen)
    assert seen.shape == (len(policy.seen), len(SEEDS), 39)
    moved = np.abs(np.diff(seen, axis=0)).max(axis=2) > 0
    moves = moved.sum(axis=0)
    assert moves.min() < moves.max() == len(seen) - 1
    for row, count in enumerate(moves):
        # The arm moves in every simulated step, so a constant row is not simulated.
        assert moved[:count, row].all()
        assert not moved[count:, row].any()


def test_an_episode_does_not_depend_on_its_batch() -> None:
    together, alone = Expert(), Expert()
    rollout_task(MetaWorld(), together, tensors, TASK, SEEDS[:3], max_steps=20)
    rollout_task(MetaWorld(), alone, tensors, TASK, SEEDS[1:2], max_steps=20)
    np.testing.assert_array_equal(np.stack(together.seen)[:, 1], np.stack(alone.seen)[:, 0])


def test_steps_are_counted_exactly() -> None:
    """An episode solved at step n succeeds with max_steps n, and fails with n - 1."""
    policy = Expert()
    rollout_task(MetaWorld(), policy, tensors, TASK, SEEDS[:1], max_steps=150)
    needed = len(policy.seen)
    assert rollout_task(MetaWorld(), Expert(), tensors, TASK, SEEDS[:1], max_steps=needed) == [True]
    assert rollout_task(MetaWorld(), Expert(), tensors, TASK, SEEDS[:1], max_steps=needed - 1) == [False]


def test_non_finite_actions_are_refused() -> None:
    with pytest.raises(InputError, match="actions for 'reach-v3' are NaN or infinite"):
        rollout_task(MetaWorld(), Broken(n_action_steps=8), tensors, TASK, SEEDS[:2], max_steps=100)


def save_checkpoint(folder: Path, observation: str = ENVIRONMENT_STATE, state_width: int = 4) -> Path:
    """An untrained policy for two tasks that drifts forward, which closes some of the drawers."""
    frames = np.random.default_rng(0).normal(size=(64, 39 + state_width + 4)).astype(np.float32)
    parts = np.split(frames, [39, 39 + state_width], axis=1)
    table = EpisodeTable(
        columns=dict(zip((observation, STATE, ACTION), parts, strict=True)),
        task_index=np.repeat([0, 1], 32),
        tasks=(INSTRUCTIONS["drawer-close-v3"], INSTRUCTIONS["reach-v3"]),
        starts=np.array([0, 32]),
        lengths=np.array([32, 32]),
        episode_index=np.array([0, 1]),
        frame_id=np.arange(64),
        fps=80.0,
        robot_type="sawyer",
        source="noise",
        features={},
    )
    torch.manual_seed(0)
    policy, processor = policy_from_dataset(table, observation_features=[observation])
    policy.action_normalizer.set(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.full((4,), 0.3))
    policy.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(MetaWorld, "episodes_together", 5)
    settings = {"tasks": ["drawer-close", "reach"], "episodes": 8, "max_steps": 32}
    one = evaluate_in(MetaWorld(), checkpoint, **settings, workers=1, cache=tmp_path / "one")
    two = evaluate_in(MetaWorld(), checkpoint, **settings, workers=2, cache=tmp_path / "two")
    assert one == two
    assert list(one.tasks) == ["drawer-close-v3", "reach-v3"]
    # Some episodes succeed and some fail, so the comparison is not vacuous; the files below contain every outcome.
    assert 0 < one.tasks["drawer-close-v3"].successes < 8
    assert one.overall.episodes == 16
    assert torch.get_num_threads() == threads
    kept = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert len(kept) == 4
    assert {json.loads(content)["count"] for content in kept.values()} == {5, 3}

    # All results are cached, so another call simulates nothing; only a missing batch is simulated again.
    simulated = []
    run = rollouts._run
    monkeypatch.setattr(rollouts, "_run", lambda batch: simulated.append((batch.task, batch.first)) or run(batch))
    assert evaluate_in(MetaWorld(), checkpoint, **settings, workers=1, cache=tmp_path / "one") == one
    assert simulated == []
    next((tmp_path / "one").glob("reach-v3-5-*.json")).unlink()
    assert evaluate_in(MetaWorld(), checkpoint, **settings, workers=1, cache=tmp_path / "one") == one
    assert simulated == [("reach-v3", 5)]
    # Other settings do not reuse the cached results.
    evaluate_in(MetaWorld(), checkpoint, ["reach"], 1, seed=1, max_steps=8, workers=1, cache=tmp_path / "one")
    assert simulated[1:] == [("reach-v3", 0)]


def test_other_weights_do_not_reuse_cached_results(checkpoint: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other")
    policy = VLAPolicy.from_pretrained(other)
    policy.action_normalizer.set(torch.zeros(4), torch.full((4,), 0.1))
    policy.save_pretrained(other)
    for folder in (checkpoint, other):
        evaluate_in(MetaWorld(), folder, ["reach"], 1, max_steps=8, workers=1, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(("source", "key"), [(None, "ed9a84de627a1f7e"), ("sawyer", "394b40b6903361f3")])
def test_cache_keys_are_stable(source: str | None, key: str) -> None:
    """Existing cache files of Meta-World rollouts stay valid."""
    batch = rollouts._Batch(
        simulator=MetaWorld(), checkpoint="runs/ptr", digest="0" * 64, identity=(("metaworld", "3.1.1"),),
        task="reach-v3", control="hand", seed=0, first=0, count=20, max_steps=300, cache="cache", source=source,
        belief=AS_TRAINED,
    )  # fmt: skip
    assert batch._path() == Path("cache") / f"reach-v3-0-{key}.json"
    assert MetaWorld().identity().keys() == {"metaworld"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["drawer-shut"]}, "no task 'drawer-shut'. Did you mean 'drawer-"),
        ({"tasks": ["push"]}, "no embedding for the instruction"),
        ({"episodes": 0}, "episodes is 0"),
        ({"max_steps": 501}, "max_steps is 501; it must lie in 1..500"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_invalid_arguments_are_refused(checkpoint: Path, tmp_path: Path, arguments: dict, message: str) -> None:
    settings = {"tasks": ["reach"], "episodes": 1, "workers": 1, "cache": tmp_path / "cache", **arguments}
    with pytest.raises(InputError) as caught:
        evaluate_in(MetaWorld(), checkpoint, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_robot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is not a checkpoint: it has no config\.json"):
        evaluate_in(MetaWorld(), tmp_path / "nowhere", ["reach"], 1)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has no weights"):
        evaluate_in(MetaWorld(), tmp_path, ["reach"], 1)
    wide = save_checkpoint(tmp_path / "wide", state_width=26)
    with pytest.raises(InputError, match="state_dim 26 but Meta-World needs 4; it was trained for another robot"):
        evaluate_in(MetaWorld(), wide, ["reach"], 1)
    blind = save_checkpoint(tmp_path / "blind", observation="observation.environment")
    with pytest.raises(InputError, match=r"Meta-World lacks .* Did you mean 'observation.environment_state'\?"):
        evaluate_in(MetaWorld(), blind, ["reach"], 1)
