"""
LIBERO's suites of manipulation tasks (arXiv 2306.03310), by the package `hf-libero`, with the names and units of the
LeRobotDatasets of it.

The conventions are those under which LIBERO is usually evaluated. Every task has 50 initial states, and episode N
begins in state N. Then the arm stands still for ten steps, in which what hangs in the air falls. Pictures are turned
by half a turn. A task is solved when its goal holds at any step.
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

from hf_ptr.envs.installed import installed_version
from hf_ptr.envs.rendering import select_backend
from hf_ptr.envs.simulator import Interface, known_suite, selected
from hf_ptr.errors import InputError

# Suites, and the steps after which an episode has failed: LeRobot's, somewhat more than the longest demonstration has.
SUITES = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
STATE = "observation.state"
# What LeRobot's datasets call LIBERO's cameras.
CAMERAS = {"observation.images.image": "agentview", "observation.images.image2": "robot0_eye_in_hand"}
PIXELS = 256
ACTION_DIM = 7
INITIAL_STATES = 50
STILL = np.array([0.0] * 6 + [-1.0])
STILL_STEPS = 10

ACCEPTED = ">=0.1.4,<0.2"
_INSTALL = f"pip install 'hf-libero{ACCEPTED}' (Linux)"


class Libero:
    """
    One suite of LIBERO as a [`Simulator`].

    Its Franka arm is told displacements of the hand (three of position, three of rotation) and the gripper's, each in
    `[-1, 1]`. Its state are the hand's position in metres, its rotation as axis times angle, and both fingers.

    Args:
        suite: one of [`SUITES`].

    Raises:
        InputError: there is no such suite; the nearest is suggested.
    """

    name = "LIBERO"
    # Published datasets hold every step of its 20 a second, and most of them state 10.
    frame_rates: tuple[float, ...] = (20.0, 10.0)
    longest_episode = 1000
    # Each with its own scene of some hundred megabytes.
    episodes_together = 5
    cameras: tuple[str, ...] = tuple(CAMERAS)
    interfaces: Mapping[str, Interface] = {"hand": Interface({STATE: 8}, ACTION_DIM)}

    def __init__(self, suite: str | None) -> None:
        self.suite = known_suite(suite, SUITES, self.name, "suites")

    def identity(self) -> dict[str, str]:
        _require_files()
        robosuite = installed_version("robosuite", ">=1.4,<1.5", "robosuite", _INSTALL)
        return {"libero": _version(), "robosuite": robosuite, "suite": self.suite}

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        known = list(_tasks_of(self.suite))
        return known if names is None else selected(names, known, self.suite)

    def steps(self, task: str) -> int:
        return SUITES[self.suite]

    def instruction(self, task: str) -> str:
        return str(_tasks_of(self.suite)[task].language)

    def episode_seed(self, base: int, task: str, number: int) -> int:
        if not 0 <= base < 2**32:
            raise InputError(f"seed is {base}; it must lie in 0..{2**32 - 1}")
        if not 0 <= number < INITIAL_STATES:
            raise InputError(
                f"episode {number} of {task!r} is out of range; a task of LIBERO has {INITIAL_STATES} initial states, "
                "ask for no more episodes"
            )
        return base * INITIAL_STATES + number

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> LiberoEnv:
        return LiberoEnv(self.suite, task, cameras)


class LiberoEnv:
    """
    One task of LIBERO.

    Args:
        suite, task: full names.
        cameras: features of [`CAMERAS`] to render, in this order.

    Raises:
        InputError: LIBERO is not installed or set up, or this machine cannot render.
    """

    def __init__(self, suite: str, task: str, cameras: Sequence[str] = ()) -> None:
        select_backend()
        _require_files()
        from libero.libero import get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        told = _tasks_of(suite)[task]
        self.instruction = str(told.language)
        self._cameras = [CAMERAS[camera] for camera in cameras]
        self._states = _initial_states(
            Path(get_libero_path("init_states")) / told.problem_folder / Path(told.init_states_file).name
        )
        # Pictures are rendered when they are asked for, once a chunk; its own observations would be of every step.
        self._env = OffScreenRenderEnv(
            bddl_file_name=str(Path(get_libero_path("bddl_files")) / told.problem_folder / told.bddl_file),
            use_camera_obs=False,
            ignore_done=True,
        )
        self._solved = False

    @property
    def success(self) -> bool:
        """Whether the goal has held after any step since `reset`."""
        return self._solved

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin the episode of a seed, see [`Libero.episode_seed`]; returns its first observation, see `step`."""
        base, number = divmod(seed, INITIAL_STATES)
        # The initial state says nothing of what cannot be moved, as cabinets, whose places are drawn.
        self._env.seed(base)
        self._env.reset()
        self._env.set_init_state(self._states[number])
        self._solved = False
        for _ in range(STILL_STEPS):
            observed, *_ = self._env.step(STILL)
        return _features(observed)

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute an action `(7,)`, clipped to `[-1, 1]`; returns `observation.state (8,)` float32."""
        observed, _, done, _ = self._env.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        self._solved = self._solved or bool(done)
        return _features(observed)

    def pictures(self) -> np.ndarray:
        """What its cameras see now, `(cameras, 256, 256, 3)` uint8 RGB, turned by half a turn as in the datasets."""
        rendered = [self._env.sim.render(camera_name=name, width=PIXELS, height=PIXELS) for name in self._cameras]
        # The renderer gives the bottom row first.
        return np.stack(rendered)[:, ::-1, ::-1]

    def close(self) -> None:
        """Free the scene and its renderer."""
        self._env.close()


def _features(observed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from robosuite.utils.transform_utils import quat2axisangle

    # It clips in place what it is given.
    turned = quat2axisangle(observed["robot0_eef_quat"].copy())
    parts = (observed["robot0_eef_pos"], turned, observed["robot0_gripper_qpos"])
    return {STATE: np.concatenate(parts).astype(np.float32)}


def _version() -> str:
    return installed_version("hf-libero", ACCEPTED, "LIBERO", _INSTALL)


def _require_files() -> None:
    """That LIBERO is installed and set up, and its scenes lie here, or have now been fetched from the Hub."""
    _require_settings()
    from libero.libero import get_assets_path, get_libero_path

    for folder in (get_libero_path("bddl_files"), get_libero_path("init_states")):
        if not Path(folder).is_dir():
            raise InputError(f"LIBERO's settings in {_settings()} name {folder}, which is not there; remove the file")
    with redirect_stdout(io.StringIO()):
        scenes = Path(get_assets_path())
    if not scenes.is_dir():
        raise InputError(f"LIBERO's scenes are not in {scenes}, and the Hub did not give them; try again online")


def _require_settings() -> None:
    _version()
    # Without them the import asks on the terminal, which a process in the background does not have.
    if not _settings().is_file():
        raise InputError(
            f"LIBERO has no settings in {_settings()}; have them written: echo N | python -c 'import libero.libero'"
        )


def _settings() -> Path:
    return Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero")) / "config.yaml"


@lru_cache
def _tasks_of(suite: str) -> dict[str, Any]:
    """A suite's tasks in its own order, by their names."""
    _require_settings()
    from libero.libero.benchmark import get_benchmark

    with redirect_stdout(io.StringIO()):
        tasks = get_benchmark(suite)().tasks
    return {task.name: task for task in tasks}


def _initial_states(file: Path) -> np.ndarray:
    """`(50, n)` of the simulation, from a pickle of which an array of numbers alone is read."""
    from numpy._core.multiarray import _reconstruct

    allowed: list[Any] = [
        (_reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Float64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        return np.asarray(torch.load(file, weights_only=True))
