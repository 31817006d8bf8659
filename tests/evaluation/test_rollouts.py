"""Rollouts of policies, in Meta-World, and the success rates they give."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.envs.metaworld.environment import ACTION, ENVIRONMENT_STATE, STATE, MetaWorld
from hf_ptr.envs.metaworld.tasks import INSTRUCTIONS, evaluation_seed
from hf_ptr.errors import InputError
from hf_ptr.evaluation import rollouts
from hf_ptr.evaluation.episodes import rollout_task
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.metrics.success import SuccessRate, SuccessTable
from hf_ptr.policies import VLAPolicy
from hf_ptr.policies.vla.building import policy_from_dataset

TASK = "reach-v3"
SEEDS = [evaluation_seed(0, TASK, number) for number in range(6)]


def tensors(instructions: Sequence[str], observation: np.ndarray, state: np.ndarray) -> dict[str, torch.Tensor]:
    """A processor that only checks what it is given."""
    assert list(instructions) == [INSTRUCTIONS[TASK]] * len(observation)
    assert observation.dtype == state.dtype == np.float32
    np.testing.assert_array_equal(observation[:, :4], state)
    return {"observation": torch.from_numpy(observation), "state": torch.from_numpy(state)}


class Policy:
    """Remembers what it saw; subclasses say how to act."""

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
        self, *, observation: torch.Tensor, state: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        self.seen.append(observation.numpy().copy())
        return self.act(observation, generator)


class Expert(Policy):
    def act(self, observation: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Straight to the goal, as the scripted expert of the task."""
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
    # It ends as soon as the last episode is solved.
    assert len(policy.seen) < 150


def test_noise_succeeds_nowhere() -> None:
    policy = Noise(n_action_steps=8)
    assert (
        rollout_task(MetaWorld(), policy, tensors, TASK, SEEDS, max_steps=100, generator=torch.Generator())
        == [False] * 6
    )
    # 100 steps in chunks of 8: the last is cut short.
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
        # The arm goes on moving while an episode is simulated, so a row that stands still is not.
        assert moved[:count, row].all()
        assert not moved[count:, row].any()


def test_an_episode_does_not_depend_on_its_neighbours() -> None:
    together, alone = Expert(), Expert()
    rollout_task(MetaWorld(), together, tensors, TASK, SEEDS[:3], max_steps=20)
    rollout_task(MetaWorld(), alone, tensors, TASK, SEEDS[1:2], max_steps=20)
    np.testing.assert_array_equal(np.stack(together.seen)[:, 1], np.stack(alone.seen)[:, 0])


def test_steps_are_counted_exactly() -> None:
    """An episode that is solved at step n is solved with max_steps n, and is not with n - 1."""
    policy = Expert()
    rollout_task(MetaWorld(), policy, tensors, TASK, SEEDS[:1], max_steps=150)
    needed = len(policy.seen)
    assert rollout_task(MetaWorld(), Expert(), tensors, TASK, SEEDS[:1], max_steps=needed) == [True]
    assert rollout_task(MetaWorld(), Expert(), tensors, TASK, SEEDS[:1], max_steps=needed - 1) == [False]


def test_actions_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="actions for 'reach-v3' are NaN or infinite"):
        rollout_task(MetaWorld(), Broken(n_action_steps=8), tensors, TASK, SEEDS[:2], max_steps=100)


def save_checkpoint(folder: Path, observation: str = ENVIRONMENT_STATE, state_width: int = 4) -> Path:
    """An untrained policy for two tasks that drifts forward, which closes some drawers and not others."""
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


def test_a_checkpoint_is_evaluated_the_same_by_any_number_of_workers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(MetaWorld, "episodes_together", 5)
    settings = {"tasks": ["drawer-close", "reach"], "episodes": 8, "max_steps": 32}
    one = evaluate_in(MetaWorld(), checkpoint, **settings, workers=1, cache=tmp_path / "one")
    two = evaluate_in(MetaWorld(), checkpoint, **settings, workers=2, cache=tmp_path / "two")
    assert one == two
    assert list(one.tasks) == ["drawer-close-v3", "reach-v3"]
    # Some episodes are solved and some are not, so the comparison says something; the files below hold each of them.
    assert 0 < one.tasks["drawer-close-v3"].successes < 8
    assert one.overall.episodes == 16
    assert torch.get_num_threads() == threads
    kept = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert len(kept) == 4
    assert {json.loads(content)["count"] for content in kept.values()} == {5, 3}

    # Everything is kept, so a further call simulates nothing; what is missing, and only that, is simulated again.
    simulated = []
    run = rollouts._run
    monkeypatch.setattr(rollouts, "_run", lambda batch: simulated.append((batch.task, batch.first)) or run(batch))
    assert evaluate_in(MetaWorld(), checkpoint, **settings, workers=1, cache=tmp_path / "one") == one
    assert simulated == []
    next((tmp_path / "one").glob("reach-v3-5-*.json")).unlink()
    assert evaluate_in(MetaWorld(), checkpoint, **settings, workers=1, cache=tmp_path / "one") == one
    assert simulated == [("reach-v3", 5)]
    # Other settings do not take the kept results for theirs.
    evaluate_in(MetaWorld(), checkpoint, ["reach"], 1, seed=1, max_steps=8, workers=1, cache=tmp_path / "one")
    assert simulated[1:] == [("reach-v3", 0)]


def test_other_weights_do_not_take_kept_results(checkpoint: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other")
    policy = VLAPolicy.from_pretrained(other)
    policy.action_normalizer.set(torch.zeros(4), torch.full((4,), 0.1))
    policy.save_pretrained(other)
    for folder in (checkpoint, other):
        evaluate_in(MetaWorld(), folder, ["reach"], 1, max_steps=8, workers=1, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(("source", "key"), [(None, "ed9a84de627a1f7e"), ("sawyer", "394b40b6903361f3")])
def test_results_kept_before_there_were_other_simulators_are_found(source: str | None, key: str) -> None:
    """Keys of files that rollouts in Meta-World wrote when they knew no other environment."""
    batch = rollouts._Batch(
        simulator=MetaWorld(), checkpoint="runs/ptr", digest="0" * 64, identity=(("metaworld", "3.1.1"),),
        task="reach-v3", control="hand", seed=0, first=0, count=20, max_steps=300, cache="cache", source=source,
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
def test_wrong_arguments_are_told(checkpoint: Path, tmp_path: Path, arguments: dict, message: str) -> None:
    settings = {"tasks": ["reach"], "episodes": 1, "workers": 1, "cache": tmp_path / "cache", **arguments}
    with pytest.raises(InputError) as caught:
        evaluate_in(MetaWorld(), checkpoint, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_policy_of_this_robot_is_refused(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("successes", "episodes"), [(0, 20), (20, 20), (7, 20), (81, 150)])
def test_wilson_intervals(successes: int, episodes: int) -> None:
    z, rate = 1.959963984540054, successes / episodes
    centre = (rate + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = z / (1 + z * z / episodes) * math.sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes**2))
    low, high = SuccessRate(successes, episodes).interval
    assert low == pytest.approx(max(0.0, centre - half), abs=1e-12)
    assert high == pytest.approx(min(1.0, centre + half), abs=1e-12)


def test_success_table() -> None:
    table = SuccessTable.from_episodes({"reach-v3": [True, True, False], "push-v3": [False]})
    result = json.loads(json.dumps(table.to_dict()))
    assert result["success"] == 0.5
    assert (result["successes"], result["episodes"]) == (2, 4)
    assert result["interval"] == list(SuccessRate(2, 4).interval)
    assert list(result["tasks"]) == ["reach-v3", "push-v3"]
    assert result["tasks"]["push-v3"]["successes"] == 0
    assert set(result["tasks"]["reach-v3"]) == {"success", "interval", "successes", "episodes"}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table.to_rich("policy"))
    assert "reach-v3" in capture.get()
    assert "50.0%" in capture.get()
    for successes, episodes in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="is not a rate"):
            SuccessRate(successes, episodes)
