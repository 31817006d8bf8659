"""
Rollouts through RoboCasa's wrapper. CI has no RoboCasa and uses a stand-in (see `robocasa_stand_in.py`). With the
package installed, the same tests run with its robot and robosuite's physics in an empty room.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import robocasa_stand_in as stand_in
from robocasa_stand_in import HORIZON, INSTRUCTIONS, SUITE, TASK
from simulator_helpers import save_policy

from hf_ptr.envs import robocasa
from hf_ptr.envs.protocol import RobotInterface
from hf_ptr.envs.registry import get_simulator
from hf_ptr.envs.robocasa import STATE, RoboCasa, RoboCasaEnv
from hf_ptr.errors import InputError
from hf_ptr.evaluation.rollouts import evaluate_in

OPEN, CLOSE = 0.0, 1.0


@pytest.fixture
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoboCasa:
    robocasa._robocasa.cache_clear()
    stand_in.install(tmp_path / "package", monkeypatch)
    # Rendering dominates the cost of a step.
    monkeypatch.setattr(robocasa, "PIXELS", 32)
    return RoboCasa(SUITE)


def test_missing_and_unknown_suites_are_refused() -> None:
    with pytest.raises(InputError, match="name one with --suite: atomic_seen, composite_seen"):
        get_simulator("robocasa")
    with pytest.raises(InputError, match=r"no suite 'atomic_unseen'\. Did you mean 'atomic_seen'\?"):
        get_simulator("robocasa", "atomic_unseen")


@pytest.mark.skipif(stand_in.INSTALLED, reason="RoboCasa is installed")
def test_a_missing_package_is_reported_with_its_installation(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^RoboCasa is not installed; install it from source, see docs/"):
        evaluate_in(RoboCasa(SUITE), tmp_path, None, 1)


def test_tasks_and_step_limits_come_from_the_package(simulator: RoboCasa) -> None:
    assert simulator.tasks(None) == simulator.tasks(["0"]) == [TASK]
    assert simulator.steps(TASK) == HORIZON
    assert simulator.identity() == {"robocasa": "1.0.1", "robosuite": "1.5.2", "suite": SUITE}
    with pytest.raises(InputError, match=r"atomic_seen has no task 'CloseGriper'\. Did you mean 'CloseGripper'\?"):
        simulator.tasks(["CloseGriper"])


def test_other_versions_and_missing_kitchens_are_refused(
    simulator: RoboCasa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package" / "assets" / "fixtures").rmdir()
    with pytest.raises(InputError, match=r"kitchens are not in .*fixtures; download them: python -m robocasa\."):
        simulator.identity()
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"robosuite": "1.5.2", "robocasa": "0.2.0"}[name])
    with pytest.raises(InputError, match=r"installed as robocasa 0\.2\.0, but >=1\.0,<1\.1 is required"):
        simulator.identity()


def test_state_and_images_follow_the_order_of_the_datasets(simulator: RoboCasa) -> None:
    left, wrist = (f"observation.images.robot0_{name}" for name in ("agentview_left", "eye_in_hand"))
    env = simulator.environment(TASK, "whole", (wrist, left), 16)
    state = env.reset(simulator.episode_seed(0, TASK, 3))[STATE]
    assert state.shape == (16,) and state.dtype == np.float32
    raw = env._observed
    np.testing.assert_array_equal(state[:3], raw["state.base_position"])
    np.testing.assert_array_equal(state[7:10], raw["state.end_effector_position_relative"])
    np.testing.assert_array_equal(state[14:], raw["state.gripper_qpos"])
    np.testing.assert_allclose(np.linalg.norm(state[3:7]), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(state[10:14]), 1.0, atol=1e-5)
    seen = env.images()
    assert seen.shape == (2, 32, 32, 3) and seen.dtype == np.uint8
    np.testing.assert_array_equal(seen[0], raw["video.robot0_eye_in_hand"])
    np.testing.assert_array_equal(seen[1], raw["video.robot0_agentview_left"])
    env.close()


def test_an_episode_is_determined_by_its_seed(simulator: RoboCasa) -> None:
    env = simulator.environment(TASK, "whole", (), 0)
    instructions, states = [], []
    for number in (0, 1, 2, 3, 4, 5, 0):
        states.append(env.reset(simulator.episode_seed(7, TASK, number))[STATE])
        instructions.append(env.instruction)
    np.testing.assert_array_equal(states[0], states[-1])
    assert instructions[0] == instructions[-1] and set(instructions) == set(INSTRUCTIONS)
    assert not np.array_equal(states[0], states[1])
    env.close()


@pytest.mark.parametrize("control", ["whole", "arm"])
def test_actions_move_the_named_parts(simulator: RoboCasa, control: str) -> None:
    env = RoboCasaEnv(TASK, "target", control)
    before = env.reset(0)[STATE]
    still = [] if control == "arm" else [0.0] * 5
    for _ in range(6):
        after = env.step(np.array([*still, 9.0, 0, 0, 0, 0, 0, OPEN]))[STATE]
    moved = after - before
    assert moved[7] > 0.03 and np.abs(moved[8:10]).max() < 0.03 and np.abs(moved[:3]).max() < 0.01
    assert not env.success
    if control == "whole":
        for _ in range(6):
            driven = env.step(np.array([1.0, 0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0, OPEN]))[STATE]
        assert np.linalg.norm(driven[:2] - after[:2]) > 0.02
    for gripper in [CLOSE] * 12 + [OPEN] * 6:
        env.step(np.array([*still, 0, 0, 0, 0, 0, 0, gripper]))
    # Success persists until the next episode.
    assert env.success and env._observed["state.gripper_qpos"][0] > stand_in.GRIPPED
    env.reset(1)
    assert not env.success
    env.close()


@pytest.mark.parametrize("control", ["whole", "arm"])
def test_a_checkpoint_is_evaluated_with_the_matching_interface(
    simulator: RoboCasa, tmp_path: Path, control: str
) -> None:
    interface = simulator.interfaces[control]
    closing = [0.0] * (interface.action_dim - 1) + [CLOSE]
    folder = save_policy(tmp_path / "policy", interface, INSTRUCTIONS, simulator.cameras, closing)
    result = evaluate_in(simulator, folder, None, 2, workers=1, cache=tmp_path / "cache")
    assert result.outcomes == {TASK: (True, True)}
    kept = [json.loads(file.read_text()) for file in (tmp_path / "cache").iterdir()]
    assert [settings["count"] for settings in kept] == [1, 1]
    assert all((found["control"], found["max_steps"]) == (control, HORIZON) for found in kept)
    opening = save_policy(tmp_path / "other", interface, INSTRUCTIONS[:1], (), [0.0] * interface.action_dim)
    settings = {"seed": 0, "workers": 1, "max_steps": 8}
    with pytest.raises(InputError, match="no embedding for the instruction 'close the gripper now'"):
        evaluate_in(simulator, opening, None, 20, **settings)


def test_a_policy_of_another_robot_is_refused(simulator: RoboCasa, tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "policy", RobotInterface({STATE: 16}, 8), INSTRUCTIONS)
    with pytest.raises(InputError, match="has action_dim 8 but RoboCasa needs 12; it was trained for another robot"):
        evaluate_in(simulator, folder, None, 1)
