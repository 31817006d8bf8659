"""Episodes of one task, stepped together: the policy looks, predicts chunks for all of them, and each acts its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import torch

from hf_ptr.envs.simulator import Environment, Simulator
from hf_ptr.errors import InputError


class RolloutConfig(Protocol):
    """What a rollout needs to know of a policy."""

    observation_features: Sequence[str]
    state_feature: str
    n_action_steps: int
    cameras: tuple[str, ...]
    image_resolution: tuple[int, int]


class RolloutPolicy(Protocol):
    """A policy that predicts action chunks for a batch of episodes that began together."""

    config: RolloutConfig

    def reset(self) -> None:
        """Begin new episodes."""
        ...

    def predict_action_chunk(self, *, generator: torch.Generator | None, **inputs: torch.Tensor) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw action units, from what the processor returned."""
        ...


class RolloutProcessor(Protocol):
    """Turns instructions and raw observations into a policy's inputs."""

    def __call__(
        self, instructions: Sequence[str], observation: np.ndarray, state: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """
        `instructions` of length B, `observation (B, do)` or of C cameras `(B, C, height, width, 3)` uint8 RGB,
        `state (B, ds)`.
        """
        ...


def rollout_task(
    simulator: Simulator,
    policy: RolloutPolicy,
    processor: RolloutProcessor,
    task: str,
    seeds: Sequence[int],
    max_steps: int,
    generator: torch.Generator | None = None,
    control: str | None = None,
) -> list[bool]:
    """Run one episode per environment seed, all together, and say which solved the task.

    Every `n_action_steps` steps the policy predicts a chunk for all episodes at once. Episodes that have ended keep
    their row, because the belief state of the policy is per row, but are not simulated further.

    Args:
        simulator: where.
        policy, processor: see [`RolloutPolicy`], [`RolloutProcessor`].
        task: full name.
        seeds: of the environments, one an episode.
        max_steps: after which an episode has failed.
        generator: of the policy's noise.
        control: what the robot is told, one of the simulator's interfaces, by default the first.

    Raises:
        InputError: the policy's actions are NaN or infinite, or it does not know an instruction.
    """
    cameras = policy.config.cameras
    pixels = max(policy.config.image_resolution) if cameras else 0
    control = control or next(iter(simulator.interfaces))
    with ExitStack() as open_ones:
        environments = []
        for _ in seeds:
            environments.append(simulator.environment(task, control, cameras, pixels))
            open_ones.callback(environments[-1].close)
        return _roll_out(policy, processor, environments, task, seeds, max_steps, generator)


def _roll_out(
    policy: RolloutPolicy,
    processor: RolloutProcessor,
    environments: Sequence[Environment],
    task: str,
    seeds: Sequence[int],
    max_steps: int,
    generator: torch.Generator | None,
) -> list[bool]:
    config = policy.config
    observations = [env.reset(seed) for env, seed in zip(environments, seeds, strict=True)]
    pictures = [env.pictures() for env in environments] if config.cameras else []
    instructions = [env.instruction for env in environments]
    policy.reset()
    steps = 0
    while steps < max_steps and not all(env.success for env in environments):
        inputs = processor(
            instructions=instructions,
            observation=np.stack(pictures) if config.cameras else _rows(observations, config.observation_features),
            state=_rows(observations, [config.state_feature]),
        )
        chunk = policy.predict_action_chunk(**inputs, generator=generator)
        actions = chunk[:, : min(config.n_action_steps, max_steps - steps)].cpu().numpy()
        for row, env in enumerate(environments):
            if not (env.success or np.isfinite(actions[row]).all()):
                raise InputError(f"the policy's actions for {task!r} are NaN or infinite; its training has diverged")
            for action in actions[row]:
                if env.success:
                    break
                observations[row] = env.step(action)
            if config.cameras and not env.success:
                pictures[row] = env.pictures()
        steps += actions.shape[1]
    return [env.success for env in environments]


def _rows(observations: Sequence[Mapping[str, np.ndarray]], features: Sequence[str]) -> np.ndarray:
    """`(B, d)`: each episode's features, concatenated."""
    return np.stack([np.concatenate([observation[name] for name in features]) for observation in observations])
