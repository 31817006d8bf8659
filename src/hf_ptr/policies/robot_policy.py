"""A policy trained on a mixture of robots, in one robot's own features, vectors and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_ptr.data.mixture.robots import Robot, observes_state, robot_of
from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder
from hf_ptr.policies.action_queue import ActionQueueMixin
from hf_ptr.policies.contract import PolicyInputs
from hf_ptr.policies.loading import load_policy


@dataclass(frozen=True)
class RobotConfig:
    """The policy's configuration in the robot's own feature names and dimensions."""

    observation_features: list[str]
    cameras: tuple[str, ...]
    state_feature: str
    action_feature: str
    observation_dim: int
    state_dim: int
    action_dim: int
    chunk_size: int
    n_action_steps: int
    image_resolution: tuple[int, int] | None

    @classmethod
    def of(cls, config: Any, robot: Robot) -> RobotConfig:
        """From the configuration of a mixture's policy."""

        def own(name: str) -> str:
            return robot.features.get(name, name)

        state_dim = robot.embodiment.width("state")
        sees_state = observes_state(config.observation_features, config.state_feature)
        return cls(
            observation_features=[own(name) for name in config.observation_features],
            cameras=tuple(own(name) for name in config.cameras),
            state_feature=own(config.state_feature),
            action_feature=own(config.action_feature),
            observation_dim=state_dim if sees_state else config.observation_dim,
            state_dim=state_dim,
            action_dim=robot.embodiment.width("action"),
            chunk_size=config.chunk_size,
            n_action_steps=config.n_action_steps,
            image_resolution=config.image_resolution if config.cameras else None,
        )


class RobotPolicy(ActionQueueMixin):
    """
    A policy in the unified action space that reads and returns one robot's own vectors, in raw units.

    Args:
        policy: a policy trained on a mixture.
        robot: one of the mixture's robots.

    Example:
        ```python
        policy, processor, robot = load_for_robot("runs/mixture/ptr", "g1_bottle")
        policy.reset()  # at the start of every episode
        action = policy.select_action(**processor(instructions=[task], observation=image, state=joints))  # (1, 26)
        ```
    """

    def __init__(self, policy: Any, robot: Robot) -> None:
        self.policy = policy
        self.robot = robot
        self.config = RobotConfig.of(policy.config, robot)
        self._masks = {f"{kind}_dim_mask": robot.mask(kind) for kind in ("state", "action")}
        self.reset()

    def reset(self) -> None:
        """As [`ActionQueueMixin.reset`]."""
        super().reset()
        self.policy.reset()

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """
        The next chunk `(B, L, da)`, at the robot's frame rate.

        Args:
            batch: inputs from the processor: `observation` (camera images, vectors, or the state, depending on the
                policy's features), `state` `(B, ds)`, and the instruction.
            generator: random generator for the noise.
        """
        device = self.policy.device
        state = self.robot.unified(batch["state"].cpu(), "state").to(device)
        masks = {name: mask.to(device).expand(len(state), -1) for name, mask in self._masks.items()}
        unified = {**{name: tensor.to(device) for name, tensor in batch.items()}, "state": state, **masks}
        config = self.policy.config
        if observes_state(config.observation_features, config.state_feature):
            unified["observation"] = state
        chunk = self.policy.predict_action_chunk(unified, generator)
        return self.robot.separate(chunk.cpu())


def load_for_robot(
    checkpoint: str, source: str | None = None, hints: Sequence[str] = ()
) -> tuple[Any, Any, Robot | None]:
    """
    Loads a saved policy for acting, its processor, and for the policy of a mixture the robot that it acts for.

    Args:
        checkpoint: a folder, `user/name` or `user/name@revision`.
        source: name of a source of the mixture; by default the only one, or the one named in `hints`.
        hints: further names by which a source may be found.

    Raises:
        InputError: the source is unknown or ambiguous, or as [`load_policy`].
    """
    folder = model_folder(checkpoint)
    robot = robot_of(Path(folder), source, tuple(hints))
    policy, processor = load_policy(str(folder))
    if robot is None:
        return policy, processor, None
    if policy.config.state_dim != len(robot.mask("state")):
        raise InputError(
            f"{checkpoint} is not a policy in the unified action space, although it has a mixture.json; train again"
        )
    return RobotPolicy(policy, robot), processor, robot
