"""Meta-World's tabletop tasks in MuJoCo, with the names and units of a LeRobot dataset."""

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

from hf_ptr.envs.controls import CONTROLS, control_of
from hf_ptr.envs.rendering import Camera
from hf_ptr.envs.simulator import Interface
from hf_ptr.envs.tasks import DEFAULT_TASKS, INSTRUCTIONS, evaluation_seed, task_name, task_names
from hf_ptr.errors import InputError

if TYPE_CHECKING:
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

FPS = 80
ENVIRONMENT_STATE = "observation.environment_state"
STATE = "observation.state"
ACTION = "action"
IMAGE = "observation.images.corner2"
# Meta-World refuses to step an episode further than this.
LONGEST_EPISODE = 500
# The experts need 47 (reach) to 112 (peg-insert-side) steps on average; of 600 episodes of the default tasks, one was
# solved later than this.
MAX_STEPS = 300
# Where LeRobot's Meta-World environment puts the camera. Meta-World's own place is so far away that a puck has one
# pixel of a small picture.
CAMERA_POSITION = (0.75, 0.075, 0.7)

_CAMERAS: WeakValueDictionary[tuple[str, int, int], Camera] = WeakValueDictionary()
_NOT_INSTALLED = "Meta-World is not installed; pip install 'hf-ptr[metaworld]'"
_OBJECTS = [f"object_{part}" for part in range(14)]
_NOW = ["hand_x", "hand_y", "hand_z", "gripper_opening", *_OBJECTS]
_OBSERVED = [*_NOW, *(f"previous_{name}" for name in _NOW), "goal_x", "goal_y", "goal_z"]


def dataset_features(pixels: int | None = None, control: str = "hand") -> dict[str, dict[str, Any]]:
    """The features of a recording, as in LeRobot's `meta/info.json`; with a video when `pixels` is its size."""
    told = control_of(control)
    names = {ENVIRONMENT_STATE: _OBSERVED, STATE: list(told.state_names), ACTION: list(told.action_names)}
    features: dict[str, dict[str, Any]] = {
        name: {"dtype": "float32", "shape": [len(parts)], "names": parts} for name, parts in names.items()
    }
    if pixels is not None:
        features[IMAGE] = {"dtype": "video", "shape": [pixels, pixels, 3], "names": ["height", "width", "channels"]}
    return features


def metaworld_version() -> str:
    """The version of the installed `metaworld` package.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.metadata.version("metaworld")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(_NOT_INSTALLED) from error


class MetaWorldEnv:
    """One Meta-World task whose goal can be observed and whose objects and goal are drawn anew from every seed.

    Positions are in metres, the gripper's opening in `[0, 1]`, actions as their control says; [`FPS`] steps a second.
    The same seed and actions give the same trajectory, bit for bit, on the same machine.

    Args:
        task: its name, with or without `-v3`.
        pixels: width and height of the camera's pictures, if there shall be any.
        control: `"hand"` or `"joints"`, see `hf_ptr.envs.controls`.

    Raises:
        InputError: the task or the control is unknown, Meta-World is not installed, or this machine cannot render.
    """

    def __init__(self, task: str, pixels: int | None = None, control: str = "hand") -> None:
        self._control = control_of(control)
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
        """Whether there are pictures."""
        return self._camera is not None

    @property
    def success(self) -> bool:
        """Whether the task has been solved at any step since `reset`."""
        return self._solved

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin the episode of a seed; returns its first observation, see `step`."""
        self._env.seed(seed)
        self._observation, _ = self._env.reset()
        self._expert = _expert_class(self.task)()
        self._solved = False
        self.steps = 0
        return self._features()

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Execute an action `(da,)` for one frame; what it tells the robot is clipped to what it can do.

        Returns:
            `observation.environment_state (39,)` and `observation.state (ds,)`, float32.
        """
        # The simulator gets the float32 numbers that are recorded, so that a recording can be played back exactly.
        executed = self._control.command(self._env, np.asarray(action, dtype=np.float32))
        self._observation, _, _, _, info = self._env.step(executed)
        self._solved = self._solved or bool(info["success"])
        self.steps += 1
        return self._features()

    def expert_action(self) -> np.ndarray:
        """What the scripted expert would do now: a displacement of the hand and the effort, `(4,)` in `[-1, 1]`."""
        with warnings.catch_warnings():
            # That the experts' commands are clipped is how they are written.
            warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high", category=UserWarning)
            action = self._expert.get_action(self._observation)
        return np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)

    def action_of(self, displacement: np.ndarray) -> np.ndarray:
        """The action `(da,)` float32 that tells the robot what an operator does, `(4,)` as of `expert_action`."""
        return self._control.action(self._env, np.asarray(displacement))

    def pictures(self) -> np.ndarray:
        """What its only camera sees now, `(1, pixels, pixels, 3)`."""
        return self.picture()[None]

    def picture(self) -> np.ndarray:
        """What the camera sees now: `(pixels, pixels, 3)` uint8 RGB."""
        if self._camera is None:
            raise RuntimeError("the environment was made without pixels; it has no camera")
        return self._camera.picture(self._env.model, self._env.data)

    def close(self) -> None:
        """Let go of the camera."""
        self._camera = None

    def _features(self) -> dict[str, np.ndarray]:
        observation = self._observation.astype(np.float32)
        return {ENVIRONMENT_STATE: observation, STATE: self._control.state(self._env, self._observation)}


class MetaWorld:
    """Meta-World as a [`Simulator`]: no policy is tested on an initial state that is ever recorded."""

    name = "Meta-World"
    frame_rates: tuple[float, ...] = (FPS,)
    longest_episode = LONGEST_EPISODE
    # Each with its own simulation of some 25 MB.
    episodes_together = 25
    cameras: tuple[str, ...] = (IMAGE,)

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """Displacements of the hand, or of the joints."""
        return {control: _interface(control) for control in CONTROLS}

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


def _interface(control: str) -> Interface:
    widths = {name: int(feature["shape"][0]) for name, feature in dataset_features(control=control).items()}
    action_dim = widths.pop(ACTION)
    return Interface(widths, action_dim)


@cache
def _metaworld() -> Any:
    """The `metaworld` package."""
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

    # MuJoCo's default is to write MUJOCO_LOG.TXT into the current folder when a policy makes the simulation unstable;
    # Meta-World then repeats the last stable observation, and the episode fails.
    mujoco.set_mju_user_warning(lambda message: None)
    return metaworld


def _expert_class(task: str) -> Any:
    return _metaworld().policies.ENV_POLICY_MAP[task]


def _observable_environment(task: str) -> SawyerXYZEnv:
    """As Meta-World's own `…-goal-observable`, with the scene compiled once a process: a tenth of the time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env: SawyerXYZEnv = _environment_class(task)()
    env._partially_observable = False
    # The space is cached, and was computed when the goal was still hidden.
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

        # Environments move bodies of their model at every reset, hence a copy each.
        model = copy.deepcopy(_compiled(self.fullpath))
        return model, mujoco.MjData(model)

    return type(base.__name__, (base,), {"_initialize_simulation": initialize_simulation})


def _camera_of(env: SawyerXYZEnv, pixels: int) -> Camera:
    """The camera of all environments with the same scene in this thread; it goes with the last of them."""
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
