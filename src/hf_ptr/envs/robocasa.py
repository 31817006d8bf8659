"""
RoboCasa's kitchens (RoboCasa365, arXiv 2406.02523 and its release 1.0), by the package's own Gymnasium wrapper, with
the names, units and order of the LeRobotDatasets that it publishes.

Kitchen, objects and thereby the instruction differ from episode to episode; all are drawn from the episode's seed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.envs.installed import installed_version
from hf_ptr.envs.rendering import select_backend
from hf_ptr.envs.simulator import Interface, known_suite, selected
from hf_ptr.errors import InputError

# Sets of tasks by RoboCasa's names, and the kitchens and objects that belong to them.
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
# The parts of state and action, with their widths, in the order of `meta/modality.json` of the datasets.
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
# Of the whole action, what moves the base and chooses it, which stands still where the arm alone is told.
BASE_DIM = 5
ACTION_DIM = sum(ACTION_PARTS.values())
CAMERAS = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")
PIXELS = 256
EPISODES_PER_TASK = 1_000_000

ACCEPTED = ">=1.0,<1.1"
_INSTALL = "it is on no package index: see docs/simulators.md"


class RoboCasa:
    """
    A set of RoboCasa's tasks as a [`Simulator`].

    Its robot is PandaOmron, a Franka arm on wheels and a lift. It is told twelve numbers in `[-1, 1]` (motion of the
    base, which of base and arm is moved, displacement and rotation of the hand, gripper), or the last seven of them.

    Args:
        suite: one of [`SUITES`].

    Raises:
        InputError: there is no such suite; the nearest is suggested.
    """

    name = "RoboCasa"
    frame_rates: tuple[float, ...] = (20.0,)
    # The longest task has 7,200 steps.
    longest_episode = 10_000
    # A kitchen takes some gigabytes.
    episodes_together = 1
    cameras: tuple[str, ...] = tuple(f"observation.images.{camera}" for camera in CAMERAS)
    interfaces: Mapping[str, Interface] = {
        "whole": Interface({STATE: sum(STATE_PARTS.values())}, ACTION_DIM),
        "arm": Interface({STATE: sum(STATE_PARTS.values())}, ACTION_DIM - BASE_DIM),
    }

    def __init__(self, suite: str | None) -> None:
        self.suite = known_suite(suite, SUITES, self.name, "sets of tasks")

    def identity(self) -> dict[str, str]:
        robosuite = installed_version("robosuite", ">=1.5.2,<1.6", "robosuite", _INSTALL)
        found = {"robocasa": _version(), "robosuite": robosuite, "suite": self.suite}
        assets = Path(_robocasa().models.assets_root)
        for folder in ("textures", "fixtures", "objects"):
            if not (assets / folder).is_dir():
                raise InputError(
                    f"RoboCasa's kitchens are not in {assets / folder}; fetch them: "
                    "python -m robocasa.scripts.download_kitchen_assets"
                )
        return found

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        _robocasa()
        from robocasa.utils.dataset_registry import TASK_SET_REGISTRY

        known = list(TASK_SET_REGISTRY[self.suite])
        return known if names is None else selected(names, known, self.suite)

    def steps(self, task: str) -> int:
        _robocasa()
        from robocasa.utils.dataset_registry_utils import get_task_horizon

        return int(get_task_horizon(task))

    def instruction(self, task: str) -> None:
        return None

    def episode_seed(self, base: int, task: str, number: int) -> int:
        if not 0 <= base < 2**32:
            raise InputError(f"seed is {base}; it must lie in 0..{2**32 - 1}")
        if number >= EPISODES_PER_TASK:
            raise InputError(f"episode {number} of {task!r} is out of range; a task has {EPISODES_PER_TASK} seeds")
        return base * EPISODES_PER_TASK + number

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> RoboCasaEnv:
        return RoboCasaEnv(task, SUITES[self.suite], control, cameras)


class RoboCasaEnv:
    """
    One task of RoboCasa.

    Args:
        task: its class, such as `OpenDrawer`.
        split: of kitchens and objects, `target` or `pretrain`.
        control: `whole` or `arm`, see [`RoboCasa`].
        cameras: features to show, in this order.

    Raises:
        InputError: RoboCasa is not installed, or this machine cannot render.
    """

    def __init__(self, task: str, split: str, control: str = "whole", cameras: Sequence[str] = ()) -> None:
        select_backend()
        _robocasa()
        from robocasa.wrappers.gym_wrapper import RoboCasaGymEnv

        self.instruction = ""
        self._arm_alone = control == "arm"
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
        """Begin the episode of a seed, in a kitchen of its own; returns its first observation, see `step`."""
        with redirect_stdout(io.StringIO()):
            self._observed, _ = self._env.reset(seed=seed)
        self.instruction = str(self._observed["annotation.human.task_description"])
        self._solved = False
        return self._features()

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute an action `(12,)` or `(7,)`, clipped to `[-1, 1]`; returns `observation.state (16,)` float32."""
        told = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if self._arm_alone:
            told = np.concatenate([np.zeros(BASE_DIM), told])
        ends = np.cumsum(list(ACTION_PARTS.values()))[:-1]
        parts = dict(zip(ACTION_PARTS, np.split(told, ends), strict=True))
        self._observed, _, _, _, info = self._env.step({f"action.{name}": part for name, part in parts.items()})
        self._solved = self._solved or bool(info["success"])
        return self._features()

    def pictures(self) -> np.ndarray:
        """What its cameras see now: `(cameras, 256, 256, 3)` uint8 RGB."""
        return np.stack([self._observed[camera] for camera in self._cameras])

    def close(self) -> None:
        """Free the kitchen and its renderer."""
        self._env.close()

    def _features(self) -> dict[str, np.ndarray]:
        parts = [self._observed[f"state.{name}"] for name in STATE_PARTS]
        return {STATE: np.concatenate(parts).astype(np.float32)}


def _version() -> str:
    return installed_version("robocasa", ACCEPTED, "RoboCasa", _INSTALL)


@cache
def _robocasa() -> Any:
    """The `robocasa` package, which insists on one version each of MuJoCo and numpy when it is imported."""
    _version()
    try:
        with redirect_stdout(io.StringIO()):
            import robocasa.models
    except (AssertionError, ImportError) as error:
        raise InputError(f"RoboCasa cannot be loaded: {error}") from error
    return robocasa
