"""Meta-World's tabletop tasks in MuJoCo, with feature names and units of a LeRobot dataset."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from hf_ptr.envs.metaworld.controls import CONTROL_MODES, control_mode
from hf_ptr.envs.metaworld.tasks import DEFAULT_TASKS, INSTRUCTIONS, evaluation_seed, task_name, task_names
from hf_ptr.envs.protocol import RobotInterface
from hf_ptr.envs.rendering import Camera
from hf_ptr.errors import InputError

if TYPE_CHECKING:
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

FPS = 80
ENVIRONMENT_STATE = "observation.environment_state"
STATE = "observation.state"
ACTION = "action"
IMAGE = "observation.images.corner2"
# Step limit of Meta-World's environments.
LONGEST_EPISODE = 500
# The experts need 47 (reach) to 112 (peg-insert-side) steps on average. One of 600 episodes of the default tasks took
# longer than this limit.
MAX_STEPS = 300
# Camera position of LeRobot's Meta-World environment. At Meta-World's own, more distant position, a puck covers one
# pixel of a small image.
CAMERA_POSITION = (0.75, 0.075, 0.7)

_CAMERAS: WeakValueDictionary[tuple[str, int, int], Camera] = WeakValueDictionary()
_NOT_INSTALLED = "Meta-World is not installed; pip install 'hf-ptr[metaworld]'"
_OBJECTS = [f"object_{part}" for part in range(14)]
_NOW = ["hand_x", "hand_y", "hand_z", "gripper_opening", *_OBJECTS]
_OBSERVED = [*_NOW, *(f"previous_{name}" for name in _NOW), "goal_x", "goal_y", "goal_z"]


def dataset_features(pixels: int | None = None, control: str = "hand") -> dict[str, dict[str, Any]]:
    """Features of a recording as in LeRobot's `meta/info.json`; includes a video of `pixels` by `pixels` if given."""
    mode = control_mode(control)
    names = {ENVIRONMENT_STATE: _OBSERVED, STATE: list(mode.state_names), ACTION: list(mode.action_names)}
    features: dict[str, dict[str, Any]] = {
        name: {"dtype": "float32", "shape": [len(parts)], "names": parts} for name, parts in names.items()
    }
    if pixels is not None:
        features[IMAGE] = {"dtype": "video", "shape": [pixels, pixels, 3], "names": ["height", "width", "channels"]}
    return features


def metaworld_version() -> str:
    """Version of the installed `metaworld` package.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return importlib.metadata.version("metaworld")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(_NOT_INSTALLED) from error


class MetaWorldEnv:
    """One Meta-World task with an observable goal; each seed draws new object and goal positions.

    Positions are in metres and the gripper opening in `[0, 1]`. The control mode defines the action units. The
    environment runs at [`FPS`] steps per second. On one machine, equal seeds and actions give bit-identical
    trajectories.

    Args:
        task: name, with or without `-v3`.
        pixels: width and height of camera images; None disables the camera.
        control: `"hand"` or `"joints"`, see `hf_ptr.envs.metaworld.controls`.

    Raises:
        InputError: the task or control mode is unknown, Meta-World is not installed, or rendering does not work.
    """

    def __init__(self, task: str, pixels: int | None = None, control: str = "hand") -> None:
        self._control = control_mode(control)
        self.task = task_name(task)
        self.instruction = INSTRUCTIONS[self.task]
        self._env = _observable_environment(self.task)
        self._camera: Camera | None = None
        if pixels is not None:
            self._env.model.camera("corner2").pos = CAMERA_POSITION
            self._camera = _camera_of(self._env, pixels)
        self._observation = np.zeros(39)
        self._solved = False
        self.steps = 0

    @property
    def has_camera(self) -> bool:
        """Whether the environment renders images."""
        return self._camera is not None

    @property
    def success(self) -> bool:
        """Whether the task was solved at any step since `reset`."""
        return self._solved

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Start the episode with this seed; returns its first observation in the format of `step`."""
        self._env.seed(seed)
        self._observation, _ = self._env.reset()
        self._expert = _expert_class(self.task)()
        self._solved = False
        self.steps = 0
        return self._features()

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute an action `(da,)` for one frame; the resulting command is clipped to Meta-World's range.

        Returns:
            `observation.environment_state (39,)` and `observation.state (ds,)`, float32.
        """
        # The simulator receives the recorded float32 values, so that recordings can be replayed exactly.
        executed = self._control.command(self._env, np.asarray(action, dtype=np.float32))
        self._observation, _, _, _, info = self._env.step(executed)
        self._solved = self._solved or bool(info["success"])
        self.steps += 1
        return self._features()

    def expert_action(self) -> np.ndarray:
        """The scripted expert's next command: hand displacement and gripper effort, `(4,)` in `[-1, 1]`."""
        with warnings.catch_warnings():
            # The experts exceed the command range by design; clipping their commands is expected.
            warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high", category=UserWarning)
            action = self._expert.get_action(self._observation)
        return np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)

    def action_of(self, command: np.ndarray) -> np.ndarray:
        """Action `(da,)` float32 equivalent to a command `(4,)` in the format of `expert_action`."""
        return self._control.action(self._env, np.asarray(command))

    def images(self) -> np.ndarray:
        """Current image of the only camera, `(1, pixels, pixels, 3)` uint8 RGB."""
        return self.image()[None]

    def image(self) -> np.ndarray:
        """Current camera image, `(pixels, pixels, 3)` uint8 RGB."""
        if self._camera is None:
            raise RuntimeError("the environment was created without pixels; it has no camera")
        return self._camera.image(self._env.model, self._env.data)

    def close(self) -> None:
        """Release the camera."""
        self._camera = None

    def _features(self) -> dict[str, np.ndarray]:
        observation = self._observation.astype(np.float32)
        return {ENVIRONMENT_STATE: observation, STATE: self._control.state(self._env, self._observation)}


class MetaWorld:
    """Meta-World as a [`Simulator`]. Evaluation and recording use disjoint sets of initial states."""

    name = "Meta-World"
    frame_rates: tuple[float, ...] = (FPS,)
    longest_episode = LONGEST_EPISODE
    # Each environment holds a simulation of about 25 MB.
    episodes_together = 25
    cameras: tuple[str, ...] = (IMAGE,)

    @property
    def interfaces(self) -> Mapping[str, RobotInterface]:
        """Interfaces of hand and joint control."""
        return {control: _interface(control) for control in CONTROL_MODES}

    def identity(self) -> dict[str, str]:
        return {"metaworld": metaworld_version()}

    def tasks(self, names: Sequence[str] | None) -> list[str]:
        return task_names(DEFAULT_TASKS if names is None else names)

    def steps(self, task: str) -> int:
        return MAX_STEPS

    def instruction(self, task: str) -> str:
        return INSTRUCTIONS[task]

    def episode_seed(self, base: int, task: str, number: int) -> int:
        return evaluation_seed(base, task, number)

    def environment(self, task: str, control: str, cameras: Sequence[str], pixels: int) -> MetaWorldEnv:
        return MetaWorldEnv(task, pixels if cameras else None, control)


def _interface(control: str) -> RobotInterface:
    widths = {name: int(feature["shape"][0]) for name, feature in dataset_features(control=control).items()}
    action_dim = widths.pop(ACTION)
    return RobotInterface(widths, action_dim)


@cache
def _metaworld() -> Any:
    """Import the `metaworld` package."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import metaworld.policies
    except ImportError as error:
        raise InputError(_NOT_INSTALLED) from error
    except (AttributeError, RuntimeError) as error:
        backend = os.environ.get("MUJOCO_GL")
        if backend is None:
            raise
        raise InputError(f"MuJoCo cannot be loaded with MUJOCO_GL={backend}; unset it") from error
    import mujoco

    # By default MuJoCo writes MUJOCO_LOG.TXT to the working directory when a policy makes the simulation unstable.
    # Meta-World then repeats the last stable observation, and the episode fails.
    mujoco.set_mju_user_warning(lambda message: None)
    return metaworld


def _expert_class(task: str) -> Any:
    return _metaworld().policies.ENV_POLICY_MAP[task]


def _observable_environment(task: str) -> SawyerXYZEnv:
    """Meta-World's `…-goal-observable` environment, but with the scene compiled once per process (10x faster)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env: SawyerXYZEnv = _environment_class(task)()
    env._partially_observable = False
    # The cached space was computed while the goal was hidden.
    del env.sawyer_observation_space
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    return env


@cache
def _environment_class(task: str) -> Any:
    base = _metaworld().env_dict.ALL_V3_ENVIRONMENTS[task]

    def initialize_simulation(self: Any) -> tuple[Any, Any]:
        import mujoco

        # Environments move bodies of their model at every reset, so each needs a copy.
        model = copy.deepcopy(_compiled(self.fullpath))
        return model, mujoco.MjData(model)

    return type(base.__name__, (base,), {"_initialize_simulation": initialize_simulation})


def _camera_of(env: SawyerXYZEnv, pixels: int) -> Camera:
    """Camera shared by this thread's environments of one scene; freed together with the last of them."""
    # A graphics context belongs to one thread.
    key = (env.fullpath, pixels, threading.get_ident())
    camera = _CAMERAS.get(key)
    if camera is None:
        camera = _CAMERAS[key] = Camera(env.model, "corner2", pixels, upside_down=True)
    return camera


@lru_cache(maxsize=2)
def _compiled(path: str) -> Any:
    import mujoco

    return mujoco.MjModel.from_xml_path(path)
