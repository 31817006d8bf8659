"""Check that a checkpoint matches a simulator before any simulation starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ptr.data.mixture.robots import robot_of
from hf_ptr.envs.protocol import RobotInterface, Simulator
from hf_ptr.errors import InputError, nearest
from hf_ptr.evaluation.episodes import RolloutConfig


def matching_control(simulator: Simulator, checkpoint: Path, tasks: Sequence[str], source: str | None) -> str:
    """
    Select the simulator's control mode whose dimensions match a checkpoint.

    Args:
        simulator: simulator for the rollouts.
        checkpoint: folder of a saved policy.
        tasks: full names; the policy must know their instructions.
        source: source of a mixture whose robot the policy controls.

    Raises:
        InputError: dimensions, features, cameras or frame rate do not match the simulator, or the policy does not know
            an instruction.
    """
    from transformers import AutoConfig

    from hf_ptr.policies import VLAProcessor
    from hf_ptr.policies.loading import checkpoint_folders, has_rate
    from hf_ptr.policies.robot_policy import RobotConfig

    config: Any = AutoConfig.from_pretrained(checkpoint_folders(str(checkpoint))[-1])
    needed = (*RolloutConfig.__annotations__, "observation_dim", "state_dim", "action_dim")
    if not all(hasattr(config, name) for name in needed):
        raise InputError(
            f"{checkpoint} is a {config.model_type!r} model; only the native policy can be rolled out in "
            f"{simulator.name}, evaluate others with --dataset"
        )
    robot = robot_of(checkpoint, source)
    if robot is not None:
        if robot.fps not in simulator.frame_rates:
            raise InputError(
                f"source {robot.name} acts at {robot.fps:g} fps, but {simulator.name} runs at "
                f"{simulator.frame_rates[0]:g} fps; train at its own frame rate (no fps in the source), or "
                "evaluate with --dataset"
            )
        config = RobotConfig.of(config, robot)
    elif not has_rate(config, simulator.frame_rates):
        raise InputError(
            f"{checkpoint} was trained at {config.fps:g} fps, but {simulator.name} runs at "
            f"{simulator.frame_rates[0]:g} fps; train on data of that rate, or evaluate with --dataset"
        )
    _require_cameras(simulator, config)
    mismatches = {
        control: [
            (name, width) for name, width in _widths(simulator, config, interface) if getattr(config, name) != width
        ]
        for control, interface in simulator.interfaces.items()
    }
    matching = [control for control in mismatches if not mismatches[control]]
    if not matching:
        name, width = next(iter(mismatches.values()))[0]
        own = getattr(config, name)
        raise InputError(
            f"{checkpoint} has {name} {own} but {simulator.name} needs {width}; it was trained for another robot"
        )
    instructions = [text for task in tasks if (text := simulator.instruction(task)) is not None]
    if instructions:
        VLAProcessor.from_pretrained(checkpoint).encode_instructions(instructions)
    return matching[0]


def _require_cameras(simulator: Simulator, config: Any) -> None:
    unknown = [camera for camera in config.cameras if camera not in simulator.cameras]
    if unknown:
        raise InputError(
            f"the policy observes {', '.join(config.observation_features)}, but {simulator.name} has only "
            f"{', '.join(simulator.cameras)}.{nearest(unknown[0], simulator.cameras)}"
        )


def _widths(simulator: Simulator, config: Any, interface: RobotInterface) -> list[tuple[str, int]]:
    """Dimensions that a policy needs for an interface, by config attribute."""
    observed = () if config.cameras else config.observation_features
    return [
        ("observation_dim", sum(_width(simulator, interface, name) for name in observed)),
        ("state_dim", _width(simulator, interface, config.state_feature)),
        ("action_dim", interface.action_dim),
    ]


def _width(simulator: Simulator, interface: RobotInterface, feature: str) -> int:
    """Width of an observed feature."""
    if feature not in interface.observations:
        known = list(interface.observations)
        raise InputError(
            f"the policy observes {feature!r}, which {simulator.name} lacks (it has {', '.join(known)})."
            f"{nearest(feature, known)}"
        )
    return interface.observations[feature]
