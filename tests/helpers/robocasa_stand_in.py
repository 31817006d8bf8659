"""
RoboCasa for tests: the installed package with a task in an empty room, or a stand-in.

The stand-in implements the names, signatures, shapes and thresholds of `robocasa` 1.0.1 that the adapter uses. Its
robot consists of two points. It does not model physics, cameras or kitchens.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

INSTALLED = importlib.util.find_spec("robocasa") is not None
TASK, SUITE, HORIZON = "CloseGripper", "atomic_seen", 12
INSTRUCTIONS = ("close the gripper", "close the gripper now")
# Distance in metres of a finger from the centre below which the gripper counts as closed; it starts at 0.021.
GRIPPED = 0.015
CAMERAS = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide `robocasa` in this process with the task [`TASK`] in [`SUITE`] and empty assets in `folder`."""
    for name in ("textures", "fixtures", "objects"):
        (folder / "assets" / name).mkdir(parents=True)
    if INSTALLED:
        _register_task()
    else:
        _stand_in(folder, monkeypatch)
    registry, models = (importlib.import_module(f"robocasa.{name}") for name in ("utils.dataset_registry", "models"))
    monkeypatch.setitem(registry.TASK_SET_REGISTRY, SUITE, [TASK])
    monkeypatch.setitem(registry.ATOMIC_TASK_DATASETS, TASK, {"horizon": HORIZON})
    monkeypatch.setattr(models, "assets_root", str(folder / "assets"))


def _register_task() -> None:
    """Register a robosuite task with a closed gripper as its goal and the interface of RoboCasa's kitchens."""
    import robocasa  # noqa: F401 (registers its robots)
    from robosuite.environments.base import REGISTERED_ENVS
    from robosuite.environments.manipulation.lift import Lift
    from robosuite.utils.mjcf_utils import new_element

    if TASK in REGISTERED_ENVS:
        return

    class CloseGripper(Lift):
        def __init__(self, obj_instance_split: str, **settings: Any) -> None:
            assert obj_instance_split == "target"
            for name in ("generative_textures", "randomize_cameras", "translucent_robot"):
                assert not settings.pop(name)
            for name in ("layout_and_style_ids", "layout_ids", "style_ids"):
                settings.pop(name)
            super().__init__(**settings)

        def _load_model(self) -> None:
            super()._load_model()
            for camera in CAMERAS[:2]:
                pose = {"pos": "0.6 0.2 1.6", "quat": "0.65 0.27 0.27 0.65"}
                self.model.worldbody.append(new_element("camera", camera, **pose))

        def _reset_internal(self) -> None:
            super()._reset_internal()
            self.instruction = INSTRUCTIONS[int(self.rng.integers(2))]

        def get_ep_meta(self) -> dict[str, Any]:
            return {**super().get_ep_meta(), "lang": self.instruction}

        def _check_success(self) -> bool:
            return bool(abs(self._get_observations()["robot0_gripper_qpos"][0]) < GRIPPED)


class StandInGymEnv:
    """Stand-in for `robocasa.wrappers.gym_wrapper.RoboCasaGymEnv`."""

    def __init__(
        self,
        env_name: str | None = None,
        camera_names: Any = None,
        camera_widths: int | None = None,
        camera_heights: int | None = None,
        enable_render: bool = True,
        split: str = "test",
        **kwargs: Any,
    ) -> None:
        if split not in ("all", "pretrain", "target") or env_name != TASK:
            raise ValueError('split must be either {None, "all", "pretrain", "target"}')
        self.size = (camera_heights or 256, camera_widths or 256, 3)
        self.reset(kwargs.get("seed"))

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        random = np.random.default_rng(seed)
        self.base, self.hand = random.normal(size=3), random.normal(size=3)
        self.opening, self.instruction = 0.04, INSTRUCTIONS[int(random.integers(2))]
        return self._observed(), {"success": False}

    def step(self, action_dict: dict[str, np.ndarray]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        parts = dict(action_dict)
        gripper, mode = (parts.pop(f"action.{name}").item() for name in ("gripper_close", "control_mode"))
        motion, turn = parts.pop("action.base_motion"), parts.pop("action.end_effector_rotation")
        moved = parts.pop("action.end_effector_position")
        assert (motion.shape, turn.shape, moved.shape) == ((4,), (3,), (3,))
        assert not parts, f"Unprocessed actions: {parts}"
        if mode < 0.5:
            self.hand = self.hand + 0.05 * moved
        else:
            self.base = self.base + 0.01 * np.array([*motion[:2], 0.0])
        self.opening = min(max(self.opening + (0.01 if gripper < 0.5 else -0.01), 0.0), 0.04)
        solved = self.opening < GRIPPED
        return self._observed(), float(solved), False, False, {"success": solved}

    def close(self) -> None:
        pass

    def _observed(self) -> dict[str, Any]:
        turned = np.array([0.0, 0.0, 0.0, 1.0])
        state = {
            "gripper_qpos": np.array([self.opening, -self.opening]),
            "base_position": self.base,
            "base_rotation": turned,
            "end_effector_position_relative": self.hand,
            "end_effector_rotation_relative": turned,
        }
        seen = {f"video.{name}": np.full(self.size, 60 * number, np.uint8) for number, name in enumerate(CAMERAS)}
        vectors = {f"state.{name}": values.astype(np.float32) for name, values in state.items()}
        return {**vectors, **seen, "annotation.human.task_description": self.instruction}


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, version in (("robocasa", "1.0.1"), ("robosuite", "1.5.2")):
        about = folder / f"{package}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)
    datasets: dict[str, dict[str, int]] = {}
    contents: dict[str, dict[str, Any]] = {
        "robocasa": {},
        "robocasa.models": {"assets_root": ""},
        "robocasa.utils": {},
        "robocasa.utils.dataset_registry": {"TASK_SET_REGISTRY": {}, "ATOMIC_TASK_DATASETS": datasets},
        "robocasa.utils.dataset_registry_utils": {"get_task_horizon": lambda task: datasets[task]["horizon"]},
        "robocasa.wrappers": {},
        "robocasa.wrappers.gym_wrapper": {"RoboCasaGymEnv": StandInGymEnv},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
