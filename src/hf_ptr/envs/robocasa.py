"""
RoboCasa's kitchen tasks (RoboCasa365, arXiv 2406.02523 and its release 1.0) through the package's Gymnasium wrapper,
with names, units and order of RoboCasa's own LeRobot datasets.

Each episode's seed draws a kitchen and objects, so the instruction differs between episodes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.envs.checks import require_seed, require_suite, require_version, select_tasks
from hf_ptr.envs.protocol import RobotInterface
from hf_ptr.envs.rendering import select_backend
from hf_ptr.errors import InputError

# RoboCasa's task sets, each with its split of kitchens and objects.
SUITES = {
    "atomic_seen": "target",
    "composite_seen": "target",
    "composite_unseen": "target",
    "target50": "target",
    "pretrain50": "pretrain",
    "pretrain100": "pretrain",
    "pretrain200": "pretrain",
    "pretrain300": "pretrain",
}
STATE = "observation.state"
# Parts of state and action with their widths, in the order of the datasets' `meta/modality.json`.
STATE_PARTS = {
    "base_position": 3,
    "base_rotation": 4,
    "end_effector_position_relative": 3,
    "end_effector_rotation_relative": 4,
    "gripper_qpos": 2,
}
ACTION_PARTS = {
    "base_motion": 4,
    "control_mode": 1,
    "end_effector_position": 3,
    "end_effector_rotation": 3,
    "gripper_close": 1,
}
# Leading action dimensions that select and move the base; zero under arm control.
BASE_DIM = 5
ACTION_DIM = sum(ACTION_PARTS.values())
CAMERAS = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")
PIXELS = 256
EPISODES_PER_TASK = 1_000_000

ACCEPTED = ">=1.0,<1.1"
_INSTALL = "install it from source, see docs/simulators.md"


class RoboCasa:
    """
    One of RoboCasa's task sets as a [`Simulator`].

    The robot is PandaOmron, a Franka arm on a mobile base with a lift. Actions have twelve dimensions in `[-1, 1]`:
    base motion, base/arm mode, hand displacement and rotation, and gripper. Arm control uses only the last seven.

    Args:
        suite: one of [`SUITES`].

    Raises:
        InputError: no suite is given, or it is unknown; the message suggests the nearest one.
    """

    name = "RoboCasa"
    frame_rates: tuple[float, ...] = (20.0,)
    # The longest task has 7,200 steps.
    longest_episode = 10_000
    # A kitchen needs a few gigabytes.
    episodes_together = 1
    cameras: tuple[str, ...] = tuple(f"observation.images.{camera}" for camera in CAMERAS)
    interfaces: Mapping[str, RobotInterface] = {
        "whole": RobotInterface({STATE: sum(STATE_PARTS.values())}, ACTION_DIM),
        "arm": RobotInterface({STATE: sum(STATE_PARTS.values())}, ACTION_DIM - BASE_DIM),
    }

    def __init__(self, suite: str | None) -> None:
        self.suite = require_suite(suite, SUITES, self.name, "task sets")

    def identity(self) -> dict[str, str]:
        robosuite = require_version("robosuite", ">=1.5.2,<1.6", "robosuite", _INSTALL)
        found = {"robocasa": _version(), "robosuite": robosuite, "suite": self.suite}
        assets = Path(_robocasa().models.assets_root)
        for folder in ("textures", "fixtures", "objects"):
            if not (assets / folder).is_dir():
                raise InputError(
                    f"RoboCasa's kitchens are not in {assets / folder}; download them: "
                    "python -m robocasa.scripts.download_kitchen_assets"
                )
        return found

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        _robocasa()
        from robocasa.utils.dataset_registry import TASK_SET_REGISTRY

        known = list(TASK_SET_REGISTRY[self.suite])
        return known if names is None else select_tasks(names, known, self.suite)

    def steps(self, task: str) -> int:
        _robocasa()
        from robocasa.utils.dataset_registry_utils import get_task_horizon

        return int(get_task_horizon(task))

    def instruction(self, task: str) -> None:
        return None

    def episode_seed(self, base: int, task: str, number: int) -> int:
        require_seed(base)
        if number >= EPISODES_PER_TASK:
            raise InputError(f"episode {number} of {task!r} is out of range; a task has {EPISODES_PER_TASK} seeds")
        return base * EPISODES_PER_TASK + number

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> RoboCasaEnv:
        return RoboCasaEnv(task, SUITES[self.suite], control, cameras)


class RoboCasaEnv:
    """
    One task of RoboCasa.

    Args:
        task: class name, such as `OpenDrawer`.
        split: split of kitchens and objects, `target` or `pretrain`.
        control: `whole` or `arm`, see [`RoboCasa`].
        cameras: camera features to return, in this order.

    Raises:
        InputError: RoboCasa is not installed, or rendering does not work.
    """

    def __init__(self, task: str, split: str, control: str = "whole", cameras: Sequence[str] = ()) -> None:
        select_backend()
        _robocasa()
        from robocasa.wrappers.gym_wrapper import RoboCasaGymEnv

        self.instruction = ""
        self._arm_only = control == "arm"
        self._cameras = [f"video.{camera.removeprefix('observation.images.')}" for camera in cameras]
        with redirect_stdout(io.StringIO()):
            self._env = RoboCasaGymEnv(env_name=task, split=split, camera_widths=PIXELS, camera_heights=PIXELS, seed=0)
        self._observed: Mapping[str, Any] = {}
        self._solved = False

    @property
    def success(self) -> bool:
        """Whether the task was solved after any step since `reset`."""
        return self._solved

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Start the episode with this seed in a newly drawn kitchen; returns its first observation."""
        with redirect_stdout(io.StringIO()):
            self._observed, _ = self._env.reset(seed=seed)
        self.instruction = str(self._observed["annotation.human.task_description"])
        self._solved = False
        return self._features()

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute an action `(12,)` or `(7,)`, clipped to `[-1, 1]`; returns `observation.state (16,)` float32."""
        full = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if self._arm_only:
            full = np.concatenate([np.zeros(BASE_DIM), full])
        ends = np.cumsum(list(ACTION_PARTS.values()))[:-1]
        parts = dict(zip(ACTION_PARTS, np.split(full, ends), strict=True))
        self._observed, _, _, _, info = self._env.step({f"action.{name}": part for name, part in parts.items()})
        self._solved = self._solved or bool(info["success"])
        return self._features()

    def images(self) -> np.ndarray:
        """Current camera images, `(cameras, 256, 256, 3)` uint8 RGB."""
        return np.stack([self._observed[camera] for camera in self._cameras])

    def close(self) -> None:
        """Release the kitchen and its renderer."""
        self._env.close()

    def _features(self) -> dict[str, np.ndarray]:
        parts = [self._observed[f"state.{name}"] for name in STATE_PARTS]
        return {STATE: np.concatenate(parts).astype(np.float32)}


def _version() -> str:
    return require_version("robocasa", ACCEPTED, "RoboCasa", _INSTALL)


@cache
def _robocasa() -> Any:
    """Import the `robocasa` package, which asserts exact versions of MuJoCo and numpy."""
    _version()
    try:
        with redirect_stdout(io.StringIO()):
            import robocasa.models
    except (AssertionError, ImportError) as error:
        raise InputError(f"RoboCasa cannot be loaded: {error}") from error
    return robocasa
