"""Rollouts of one task in a batch of environments; the policy predicts one action chunk per environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import torch

from hf_ptr.envs.protocol import Environment, Simulator
from hf_ptr.errors import InputError

# The belief tokens that a chunk reads: those of training, those of an earlier chunk, or `z_init`.
AS_TRAINED, CARRIED = "trained", "carried"
BELIEF = (AS_TRAINED, CARRIED, "reset")


def require_belief(belief: str) -> None:
    """
    Checks the choice of belief tokens.

    Raises:
        InputError: it is not one of `BELIEF`.
    """
    if belief not in BELIEF:
        raise InputError(f"belief is {belief!r}; known: {', '.join(BELIEF)}")


class RolloutConfig(Protocol):
    """Policy settings that a rollout reads."""

    observation_features: Sequence[str]
    state_feature: str
    n_action_steps: int
    cameras: tuple[str, ...]
    image_resolution: tuple[int, int]


class RolloutPolicy(Protocol):
    """A policy that predicts action chunks for a batch of episodes that start together."""

    config: RolloutConfig

    def reset(self) -> None:
        """Start new episodes."""
        ...

    def predict_action_chunk(
        self, batch: Mapping[str, torch.Tensor], generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Next chunk `(B, L, da)` in raw action units from the processor's outputs."""
        ...


class RolloutProcessor(Protocol):
    """Converts instructions and raw observations to policy inputs."""

    def __call__(
        self, instructions: Sequence[str], observation: np.ndarray, state: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """
        Convert `instructions` of length B, `state (B, ds)`, and `observation (B, do)` or, for C cameras,
        `(B, C, height, width, 3)` uint8 RGB.
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
    """Run one episode per environment seed in a batch; returns whether each episode solved the task.

    Every `n_action_steps` steps the policy predicts a chunk for all episodes at once. Solved episodes keep their row,
    because the policy's belief state is stored by row, but are not simulated further.

    Args:
        simulator: creates the environments.
        policy, processor: see [`RolloutPolicy`], [`RolloutProcessor`].
        task: full name.
        seeds: environment seeds, one per episode.
        max_steps: steps after which an episode counts as failed.
        generator: random generator of the policy's noise.
        control: control mode, a key of the simulator's `interfaces`; default its first.

    Raises:
        InputError: the policy's actions are NaN or infinite, or it does not know an instruction.
    """
    cameras = policy.config.cameras
    pixels = max(policy.config.image_resolution) if cameras else 0
    control = control or next(iter(simulator.interfaces))
    with ExitStack() as stack:
        environments = []
        for _ in seeds:
            environments.append(simulator.environment(task, control, cameras, pixels))
            stack.callback(environments[-1].close)
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
    images = [env.images() for env in environments] if config.cameras else []
    instructions = [env.instruction for env in environments]
    policy.reset()
    steps = 0
    while steps < max_steps and not all(env.success for env in environments):
        inputs = processor(
            instructions=instructions,
            observation=np.stack(images) if config.cameras else _rows(observations, config.observation_features),
            state=_rows(observations, config.state_feature.split(",")),
        )
        chunk = policy.predict_action_chunk(inputs, generator)
        actions = chunk[:, : min(config.n_action_steps, max_steps - steps)].cpu().numpy()
        for row, env in enumerate(environments):
            if not (env.success or np.isfinite(actions[row]).all()):
                raise InputError(f"the policy's actions for {task!r} are NaN or infinite; its training has diverged")
            for action in actions[row]:
                if env.success:
                    break
                observations[row] = env.step(action)
            if config.cameras and not env.success:
                images[row] = env.images()
        steps += actions.shape[1]
    return [env.success for env in environments]


def _rows(observations: Sequence[Mapping[str, np.ndarray]], features: Sequence[str]) -> np.ndarray:
    """Concatenated features of each episode, `(B, d)`."""
    return np.stack([np.concatenate([observation[name] for name in features]) for observation in observations])
