"""What Meta-World's Sawyer is told, and what it says of itself: positions of its hand, or angles of its joints.

Meta-World moves the hand, and the arm follows. Under joint control, a displacement of the joints is turned into the
one of the hand that it makes (resolved-rate control), and an expert's displacement of the hand into the least one of
the joints that makes it while the hand keeps its orientation. Both use the Jacobian of the moment, so one is the
inverse of the other.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hf_ptr.errors import InputError, nearest

JOINTS = tuple(f"right_j{number}" for number in range(7))
# Metres that Meta-World moves the hand by at an action of 1, and radians that a joint moves by.
HAND_STEP = 0.01
JOINT_STEP = 0.02


class Control(Protocol):
    """
    One way to command the robot; an environment's `data` and `model` are MuJoCo's.

    Attributes:
        robot_type: in the recordings.
        state_names, action_names: of each dimension.
    """

    robot_type: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]

    def state(self, env: Any, observation: np.ndarray) -> np.ndarray:
        """The proprioception `(ds,)` float32, of Meta-World's observation `(39,)`."""
        ...

    def command(self, env: Any, action: np.ndarray) -> np.ndarray:
        """What Meta-World is told, `(4,)` float64 in `[-1, 1]`, of an action `(da,)` float32."""
        ...

    def action(self, env: Any, command: np.ndarray) -> np.ndarray:
        """The inverse of `command`."""
        ...


class HandControl:
    """Displacements of the hand, at most 1 cm a step on every axis, and the gripper's effort: Meta-World's own."""

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
    """Displacements of the seven joints, in steps of 0.02 rad, and the gripper's effort."""

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
    """`(6, 7)`: how position and orientation of the hand change with the joints."""
    import mujoco

    rows = np.zeros((6, env.model.nv))
    mujoco.mj_jacBody(env.model, env.data, rows[:3], rows[3:], env.data.body("hand").id)
    return rows[:, [int(env.model.joint(joint).dofadr[0]) for joint in JOINTS]]


CONTROLS: dict[str, Control] = {"hand": HandControl(), "joints": JointControl()}


def control_of(name: str) -> Control:
    """
    The control of a name.

    Raises:
        InputError: there is none; the nearest is suggested.
    """
    if name not in CONTROLS:
        raise InputError(f"no control {name!r}.{nearest(name, CONTROLS)} There are: {', '.join(CONTROLS)}")
    return CONTROLS[name]
