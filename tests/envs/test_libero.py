"""
Rollouts in LIBERO if `hf-libero` is installed (`make test-libero`); error messages without it in any environment.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from simulator_helpers import save_policy

from hf_ptr.envs.libero import CAMERAS, INITIAL_STATES, STATE, SUITES, Libero, LiberoEnv, _initial_states
from hf_ptr.envs.registry import get_simulator
from hf_ptr.errors import InputError
from hf_ptr.evaluation.rollouts import evaluate_in

HERE = importlib.util.find_spec("libero") is not None
with_libero = pytest.mark.skipif(not HERE, reason="LIBERO needs an environment of its own: make test-libero")
SUITE, STOVE, CHEESE = "libero_goal", "turn_on_the_stove", "put_the_cream_cheese_in_the_bowl"


@pytest.fixture(scope="module")
def simulator() -> Libero:
    found = Libero(SUITE)
    try:
        found.identity()
    except InputError as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="module")
def env(simulator: Libero) -> Iterator[LiberoEnv]:
    made = simulator.environment(STOVE, "hand", tuple(CAMERAS), 16)
    yield made
    made.close()


def test_missing_and_unknown_suites_are_refused() -> None:
    with pytest.raises(InputError, match="name one with --suite: libero_spatial, libero_object"):
        get_simulator("libero")
    with pytest.raises(InputError, match=r"no suite 'libero_gaol'\. Did you mean 'libero_goal'\?"):
        get_simulator("libero", "libero_gaol")


@pytest.mark.skipif(HERE, reason="LIBERO is installed")
def test_a_missing_package_is_reported_with_its_installation(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^LIBERO is not installed; pip install 'hf-libero>=0\.1\.4,<0\.2' \(Linux\)$"
    ):
        evaluate_in(Libero(SUITE), tmp_path, None, 1)


def test_episodes_are_the_initial_states() -> None:
    found = Libero(SUITE)
    seeds = [found.episode_seed(base, STOVE, number) for base in range(3) for number in range(INITIAL_STATES)]
    assert len(set(seeds)) == 150
    with pytest.raises(InputError, match="has 50 initial states, evaluate at most 50 episodes"):
        found.episode_seed(0, STOVE, 50)
    with pytest.raises(InputError, match="seed is -1"):
        found.episode_seed(-1, STOVE, 0)


@with_libero
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1.3")
    with pytest.raises(
        InputError, match=r"installed as hf-libero 0\.1\.3, but >=0\.1\.4,<0\.2 is required; pip install"
    ):
        Libero(SUITE).tasks(None)


@with_libero
def test_missing_settings_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LIBERO would prompt on the terminal instead."""
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"LIBERO has no settings in .*config\.yaml; create them: echo N"):
        Libero(SUITE).identity()


@with_libero
@pytest.mark.parametrize("suite", SUITES)
def test_every_task_has_an_instruction_and_initial_states(suite: str) -> None:
    from libero.libero import get_libero_path

    found = Libero(suite)
    tasks = found.tasks(None)
    assert len(tasks) == (90 if suite == "libero_90" else 10)
    assert found.tasks(["1", tasks[0]]) == [tasks[1], tasks[0]]
    for task in tasks:
        # Names of the large suites start with the scene.
        assert task.endswith(found.instruction(task).replace(" ", "_"))
        states = _initial_states(Path(get_libero_path("init_states")) / suite / f"{task}.pruned_init")
        assert states.shape[0] == INITIAL_STATES and np.isfinite(states).all()
    with pytest.raises(InputError, match="Did you mean"):
        found.tasks([tasks[0][:-2]])


@with_libero
def test_an_episode_starts_in_its_initial_state(simulator: Libero, env: LiberoEnv) -> None:
    first, again, other = (env.reset(simulator.episode_seed(0, STOVE, number))[STATE] for number in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (8,) and first.dtype == np.float32
    # The fingers are open, the hand points down above the table, and ten settling steps have passed.
    np.testing.assert_allclose(first[6:], [0.039, -0.039], atol=2e-3)
    assert env._env.env.timestep == 10 and env._env.sim.data.time == pytest.approx(env._states[4][0] + 0.5, abs=1e-6)
    raw = env._env.env._get_observations()
    np.testing.assert_allclose(other[:3], raw["robot0_eef_pos"], atol=1e-6)
    turned = Rotation.from_rotvec(other[3:6].astype(float)) * Rotation.from_quat(raw["robot0_eef_quat"]).inv()
    assert turned.magnitude() < 1e-5
    assert env.instruction == simulator.instruction(STOVE) == "turn on the stove"


@with_libero
def test_actions_are_displacements_of_the_hand_and_the_gripper(simulator: Libero, env: LiberoEnv) -> None:
    before = env.reset(simulator.episode_seed(0, STOVE, 0))[STATE]
    for _ in range(10):
        # Values above 1 are clipped to 1.
        after = env.step(np.array([5.0, 0, 0, 0, 0, 0, 1.0]))[STATE]
    moved = after[:3] - before[:3]
    assert moved[0] > 0.05 and np.abs(moved[1:]).max() < 0.03
    assert after[6] < 0.005 < before[6]
    assert not env.success


@with_libero
def test_images_are_rotated_by_180_degrees(simulator: Libero, env: LiberoEnv) -> None:
    """Images equal LIBERO's own observations as rotated by LeRobot, in the order of the policy's cameras."""
    from libero.libero import get_libero_path
    from libero.libero.envs import OffScreenRenderEnv

    env.reset(simulator.episode_seed(0, STOVE, 0))
    seen = env.images()
    assert seen.shape == (2, 256, 256, 3) and seen.dtype == np.uint8
    file = Path(get_libero_path("bddl_files")) / SUITE / f"{STOVE}.bddl"
    own = OffScreenRenderEnv(bddl_file_name=str(file), camera_heights=256, camera_widths=256)
    own.seed(0)
    own.reset()
    own.set_init_state(env._states[0])
    for _ in range(10):
        observed, *_ = own.step([0, 0, 0, 0, 0, 0, -1])
    own.close()
    for image, camera in zip(seen, ("agentview_image", "robot0_eye_in_hand_image"), strict=True):
        assert np.abs(image.astype(int) - observed[camera][::-1, ::-1]).mean() < 1.0
        assert np.abs(image.astype(int) - observed[camera][::-1]).mean() > 5.0


@with_libero
def test_success_requires_the_goal_at_any_step(simulator: Libero, env: LiberoEnv) -> None:
    env.reset(simulator.episode_seed(0, STOVE, 0))
    (knob,) = (
        name for name in env._env.sim.model.joint_names if name.startswith("flat_stove") and name.endswith("button")
    )
    still = np.array([0.0] * 6 + [-1.0])
    env.step(still)
    assert not env.success
    env._env.sim.data.set_joint_qpos(knob, 1.0)
    env.step(still)
    assert env.success
    env._env.sim.data.set_joint_qpos(knob, 0.0)
    env.step(still)
    assert env.success
    env.reset(simulator.episode_seed(0, STOVE, 0))
    assert not env.success


@with_libero
def test_a_checkpoint_is_evaluated(simulator: Libero, tmp_path: Path) -> None:
    instructions = [simulator.instruction(task) for task in (STOVE, CHEESE)]
    folder = save_policy(tmp_path / "policy", simulator.interfaces["hand"], instructions, tuple(CAMERAS))
    settings = {"max_steps": 6, "workers": 1, "cache": tmp_path / "cache"}
    result = evaluate_in(simulator, folder, [STOVE], 2, **settings)
    assert list(result.tasks) == [STOVE] and result.overall.episodes == 2
    (kept,) = (tmp_path / "cache").iterdir()
    assert '"libero": "0.1' in kept.read_text() and f'"suite": "{SUITE}"' in kept.read_text()
    with pytest.raises(InputError, match="no embedding for the instruction 'put the bowl on the stove'"):
        evaluate_in(simulator, folder, ["put_the_bowl_on_the_stove"], 1, **settings)
    strange = save_policy(
        tmp_path / "strange", simulator.interfaces["hand"], instructions, ["observation.images.front"]
    )
    with pytest.raises(InputError, match=r"LIBERO has only observation\.images\.image, observation\.images\.image2\."):
        evaluate_in(simulator, strange, [STOVE], 1, **settings)
