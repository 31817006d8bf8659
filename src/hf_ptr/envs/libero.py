"""
LIBERO's suites of manipulation tasks (arXiv 2306.03310) from the package `hf-libero`, with feature names and units of
LeRobot's LIBERO datasets.

Evaluation follows the usual LIBERO protocol. Every task has 50 initial states, and episode N starts in state N. The
arm first holds still for ten steps while objects settle. Images are rotated by 180 degrees. An episode is successful
if the goal holds after any step.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ptr.envs.checks import require_seed, require_suite, require_version, select_tasks
from hf_ptr.envs.protocol import RobotInterface
from hf_ptr.envs.rendering import select_backend
from hf_ptr.errors import InputError

# Step limit of each suite. The limits are LeRobot's, slightly above the length of the longest demonstration.
SUITES = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
STATE = "observation.state"
# LIBERO's camera for each camera feature of LeRobot's datasets.
CAMERAS = {"observation.images.image": "agentview", "observation.images.image2": "robot0_eye_in_hand"}
PIXELS = 256
ACTION_DIM = 7
INITIAL_STATES = 50
HOLD_STILL = np.array([0.0] * 6 + [-1.0])
SETTLING_STEPS = 10

ACCEPTED = ">=0.1.4,<0.2"
_INSTALL = f"pip install 'hf-libero{ACCEPTED}' (Linux)"


class Libero:
    """
    One suite of LIBERO as a [`Simulator`].

    Actions of the Franka arm are hand displacement (three for position, three for rotation) and gripper command, each
    in `[-1, 1]`. The state is the hand's position in metres, its rotation as axis times angle, and both finger
    positions.

    Args:
        suite: one of [`SUITES`].

    Raises:
        InputError: no suite is given, or it is unknown; the message suggests the nearest one.
    """

    name = "LIBERO"
    # Published datasets contain every one of the 20 steps per second, but most of them state 10 fps.
    frame_rates: tuple[float, ...] = (20.0, 10.0)
    longest_episode = 1000
    # Each environment holds a scene of a few hundred megabytes.
    episodes_together = 5
    cameras: tuple[str, ...] = tuple(CAMERAS)
    interfaces: Mapping[str, RobotInterface] = {"hand": RobotInterface({STATE: 8}, ACTION_DIM)}

    def __init__(self, suite: str | None) -> None:
        self.suite = require_suite(suite, SUITES, self.name, "suites")

    def identity(self) -> dict[str, str]:
        _require_files()
        robosuite = require_version("robosuite", ">=1.4,<1.5", "robosuite", _INSTALL)
        return {"libero": _version(), "robosuite": robosuite, "suite": self.suite}

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        known = list(_tasks_of(self.suite))
        return known if names is None else select_tasks(names, known, self.suite)

    def steps(self, task: str) -> int:
        return SUITES[self.suite]

    def instruction(self, task: str) -> str:
        return str(_tasks_of(self.suite)[task].language)

    def episode_seed(self, base: int, task: str, number: int) -> int:
        require_seed(base)
        if not 0 <= number < INITIAL_STATES:
            raise InputError(
                f"episode {number} of {task!r} is out of range; a task of LIBERO has {INITIAL_STATES} initial states, "
                f"evaluate at most {INITIAL_STATES} episodes"
            )
        return base * INITIAL_STATES + number

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> LiberoEnv:
        return LiberoEnv(self.suite, task, cameras)


class LiberoEnv:
    """
    One task of LIBERO.

    Args:
        suite, task: full names.
        cameras: keys of [`CAMERAS`] to render, in this order.

    Raises:
        InputError: LIBERO is not installed or not set up, or rendering does not work.
    """

    def __init__(self, suite: str, task: str, cameras: Sequence[str] = ()) -> None:
        select_backend()
        _require_files()
        from libero.libero import get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        definition = _tasks_of(suite)[task]
        self.instruction = str(definition.language)
        self._cameras = [CAMERAS[camera] for camera in cameras]
        self._states = _initial_states(
            Path(get_libero_path("init_states")) / definition.problem_folder / Path(definition.init_states_file).name
        )
        # Images are rendered on request, once per chunk; LIBERO's camera observations would be rendered every step.
        self._env = OffScreenRenderEnv(
            bddl_file_name=str(Path(get_libero_path("bddl_files")) / definition.problem_folder / definition.bddl_file),
            use_camera_obs=False,
            ignore_done=True,
        )
        self._solved = False

    @property
    def success(self) -> bool:
        """Whether the goal held after any step since `reset`."""
        return self._solved

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Start the episode with this seed of [`Libero.episode_seed`]; returns its first observation."""
        base, number = divmod(seed, INITIAL_STATES)
        # Initial states omit fixed objects such as cabinets; their positions are drawn from the seed.
        self._env.seed(base)
        self._env.reset()
        self._env.set_init_state(self._states[number])
        self._solved = False
        for _ in range(SETTLING_STEPS):
            observed, *_ = self._env.step(HOLD_STILL)
        return _features(observed)

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute an action `(7,)`, clipped to `[-1, 1]`; returns `observation.state (8,)` float32."""
        observed, _, done, _ = self._env.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        self._solved = self._solved or bool(done)
        return _features(observed)

    def images(self) -> np.ndarray:
        """Current camera images, `(cameras, 256, 256, 3)` uint8 RGB, rotated by 180 degrees as in the datasets."""
        rendered = [self._env.sim.render(camera_name=name, width=PIXELS, height=PIXELS) for name in self._cameras]
        # The renderer returns the bottom row first.
        return np.stack(rendered)[:, ::-1, ::-1]

    def close(self) -> None:
        """Release the scene and its renderer."""
        self._env.close()


def _features(observed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from robosuite.utils.transform_utils import quat2axisangle

    # It clips its argument in place.
    rotation = quat2axisangle(observed["robot0_eef_quat"].copy())
    parts = (observed["robot0_eef_pos"], rotation, observed["robot0_gripper_qpos"])
    return {STATE: np.concatenate(parts).astype(np.float32)}


def _version() -> str:
    return require_version("hf-libero", ACCEPTED, "LIBERO", _INSTALL)


def _require_files() -> None:
    """Check that LIBERO is installed and set up; download its scenes from the Hub if they are missing."""
    _require_settings()
    from libero.libero import get_assets_path, get_libero_path

    for folder in (get_libero_path("bddl_files"), get_libero_path("init_states")):
        if not Path(folder).is_dir():
            raise InputError(f"LIBERO's settings in {_settings()} name {folder}, which is missing; delete the file")
    with redirect_stdout(io.StringIO()):
        scenes = Path(get_assets_path())
    if not scenes.is_dir():
        raise InputError(f"LIBERO's scenes are not in {scenes} and could not be downloaded from the Hub; retry online")


def _require_settings() -> None:
    _version()
    # Without settings, importing LIBERO prompts on the terminal, which background processes do not have.
    if not _settings().is_file():
        raise InputError(
            f"LIBERO has no settings in {_settings()}; create them: echo N | python -c 'import libero.libero'"
        )


def _settings() -> Path:
    return Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero")) / "config.yaml"


@lru_cache
def _tasks_of(suite: str) -> dict[str, Any]:
    """Tasks of a suite by name, in LIBERO's order."""
    _require_settings()
    from libero.libero.benchmark import get_benchmark

    with redirect_stdout(io.StringIO()):
        tasks = get_benchmark(suite)().tasks
    return {task.name: task for task in tasks}


def _initial_states(file: Path) -> np.ndarray:
    """Simulation states `(50, n)`; only a plain numeric array is unpickled."""
    from numpy._core.multiarray import _reconstruct

    allowed: list[Any] = [
        (_reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Float64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        return np.asarray(torch.load(file, weights_only=True))
