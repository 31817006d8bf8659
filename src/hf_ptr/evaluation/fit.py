"""Whether a checkpoint can act in a simulator, told before anything is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ptr.data.mixture.robots import robot_of
from hf_ptr.envs.simulator import Interface, Simulator
from hf_ptr.errors import InputError, nearest
from hf_ptr.evaluation.episodes import RolloutConfig


def fitting_control(simulator: Simulator, checkpoint: Path, tasks: Sequence[str], source: str | None) -> str:
    """
    The control whose dimensions a checkpoint has.

    Args:
        simulator: where it is to act.
        checkpoint: a saved policy's folder.
        tasks: full names; the policy must know what it is told in them.
        source: of a mixture's policy, the source that it acts for.

    Raises:
        InputError: it is of another robot, sees or observes what the simulator does not have, acts at another rate, or
            does not know an instruction.
    """
    from transformers import AutoConfig

    from hf_ptr.policies import VLAProcessor
    from hf_ptr.policies.loading import checkpoint_places
    from hf_ptr.policies.robot_policy import RobotConfig

    config: Any = AutoConfig.from_pretrained(checkpoint_places(str(checkpoint))[-1])
    needed = (*RolloutConfig.__annotations__, "observation_dim", "state_dim", "action_dim")
    if not all(hasattr(config, name) for name in needed):
        raise InputError(
            f"{checkpoint} is a {config.model_type!r} model; the native policy alone is rolled out in "
            f"{simulator.name}, evaluate others with --dataset"
        )
    robot = robot_of(checkpoint, source)
    if robot is not None:
        if robot.fps not in simulator.frame_rates:
            raise InputError(
                f"source {robot.name} acts {robot.fps:g} times a second, and {simulator.name} is stepped "
                f"{simulator.frame_rates[0]:g} times; train with its own frame rate (no fps in the source), or "
                "evaluate with --dataset"
            )
        config = RobotConfig.of(config, robot)
    _require_cameras(simulator, config)
    wrong = {
        control: [
            (name, width) for name, width in _widths(simulator, config, interface) if getattr(config, name) != width
        ]
        for control, interface in simulator.interfaces.items()
    }
    fitting = [control for control in wrong if not wrong[control]]
    if not fitting:
        name, width = next(iter(wrong.values()))[0]
        own = getattr(config, name)
        raise InputError(f"{checkpoint} has {name} {own} but {simulator.name} needs {width}; it is of another robot")
    told = [text for task in tasks if (text := simulator.instruction(task)) is not None]
    if told:
        VLAProcessor.from_pretrained(checkpoint).encode_instructions(told)
    return fitting[0]


def _require_cameras(simulator: Simulator, config: Any) -> None:
    unknown = [camera for camera in config.cameras if camera not in simulator.cameras]
    if unknown:
        raise InputError(
            f"the policy sees through {', '.join(config.observation_features)}, {simulator.name} has "
            f"{', '.join(simulator.cameras)} alone.{nearest(unknown[0], simulator.cameras)}"
        )


def _widths(simulator: Simulator, config: Any, interface: Interface) -> list[tuple[str, int]]:
    """What the policy's dimensions must be to speak through an interface."""
    observed = () if config.cameras else config.observation_features
    return [
        ("observation_dim", sum(_width(simulator, interface, name) for name in observed)),
        ("state_dim", _width(simulator, interface, config.state_feature)),
        ("action_dim", interface.action_dim),
    ]


def _width(simulator: Simulator, interface: Interface, feature: str) -> int:
    """The length of one of a simulator's observations."""
    if feature not in interface.observations:
        known = list(interface.observations)
        raise InputError(
            f"the policy observes {feature!r}, which {simulator.name} lacks (it has {', '.join(known)})."
            f"{nearest(feature, known)}"
        )
    return interface.observations[feature]
