"""Control modes of Meta-World's Sawyer arm: hand displacements or joint displacements.

Meta-World itself moves the hand, and the arm follows. In joint control, a joint displacement is converted into the
hand displacement that it produces (resolved-rate control). An expert's hand displacement is converted into the
smallest joint displacement that produces it at constant hand orientation. Both conversions use the current Jacobian,
so one inverts the other.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hf_ptr.errors import InputError, nearest

JOINTS = tuple(f"right_j{number}" for number in range(7))
# Hand displacement in metres, and joint displacement in radians, at an action of 1.
HAND_STEP = 0.01
JOINT_STEP = 0.02


class ControlMode(Protocol):
    """
    One way to command the robot. The `env` arguments are Meta-World environments with MuJoCo's `data` and `model`.

    Attributes:
        robot_type: stored in recordings.
        state_names, action_names: one name per dimension.
    """

    robot_type: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]

    def state(self, env: Any, observation: np.ndarray) -> np.ndarray:
        """Proprioceptive state `(ds,)` float32 from Meta-World's observation `(39,)`."""
        ...

    def command(self, env: Any, action: np.ndarray) -> np.ndarray:
        """Meta-World command `(4,)` float64 in `[-1, 1]` for an action `(da,)` float32."""
        ...

    def action(self, env: Any, command: np.ndarray) -> np.ndarray:
        """Inverse of `command`."""
        ...


class HandControl:
    """Meta-World's own control: hand displacement, at most 1 cm per step and axis, and gripper effort."""

    robot_type: str = "sawyer"
    state_names: tuple[str, ...] = ("hand_x", "hand_y", "hand_z", "gripper_opening")
    action_names: tuple[str, ...] = ("delta_x", "delta_y", "delta_z", "gripper_effort")

    def state(self, env: Any, observation: np.ndarray) -> np.ndarray:
        return observation[:4].astype(np.float32)

    def command(self, env: Any, action: np.ndarray) -> np.ndarray:
        return np.clip(action, -1.0, 1.0).astype(np.float64)

    def action(self, env: Any, command: np.ndarray) -> np.ndarray:
        return command.astype(np.float32)


class JointControl:
    """Displacements of the seven joints, in units of 0.02 rad, and gripper effort."""

    robot_type: str = "sawyer_joints"
    state_names: tuple[str, ...] = (*JOINTS, "gripper_opening")
    action_names: tuple[str, ...] = (*(f"delta_{joint}" for joint in JOINTS), "gripper_effort")

    def state(self, env: Any, observation: np.ndarray) -> np.ndarray:
        angles = [env.data.joint(joint).qpos[0] for joint in JOINTS]
        return np.array([*angles, observation[3]], dtype=np.float32)

    def command(self, env: Any, action: np.ndarray) -> np.ndarray:
        moved = _jacobian(env)[:3] @ (action[:7].astype(np.float64) * JOINT_STEP)
        return np.clip([*(moved / HAND_STEP), action[7]], -1.0, 1.0)

    def action(self, env: Any, command: np.ndarray) -> np.ndarray:
        moved = np.linalg.pinv(_jacobian(env)) @ np.array([*(command[:3] * HAND_STEP), 0.0, 0.0, 0.0])
        return np.array([*(moved / JOINT_STEP), command[3]], dtype=np.float32)


def _jacobian(env: Any) -> np.ndarray:
    """Jacobian `(6, 7)` of the hand's position and orientation with respect to the joint angles."""
    import mujoco

    rows = np.zeros((6, env.model.nv))
    mujoco.mj_jacBody(env.model, env.data, rows[:3], rows[3:], env.data.body("hand").id)
    return rows[:, [int(env.model.joint(joint).dofadr[0]) for joint in JOINTS]]


CONTROL_MODES: dict[str, ControlMode] = {"hand": HandControl(), "joints": JointControl()}


def control_mode(name: str) -> ControlMode:
    """
    Look up a control mode by name.

    Raises:
        InputError: the name is unknown; the message suggests the nearest one.
    """
    if name not in CONTROL_MODES:
        raise InputError(f"no control {name!r}.{nearest(name, CONTROL_MODES)} Available: {', '.join(CONTROL_MODES)}")
    return CONTROL_MODES[name]
