"""Simulators by the name that users give them."""

from __future__ import annotations

from collections.abc import Callable

from hf_ptr.envs.protocol import Simulator
from hf_ptr.errors import InputError, nearest


def get_simulator(name: str, suite: str | None = None) -> Simulator:
    """
    Look up a simulator by name.

    Args:
        name: `metaworld`, `libero` or `robocasa`.
        suite: suite of tasks, for simulators with several.

    Raises:
        InputError: the simulator or the suite is unknown; the message suggests the nearest name.
    """
    if name not in SIMULATORS:
        raise InputError(f"unknown environment {name!r}.{nearest(name, SIMULATORS)} Known: {', '.join(SIMULATORS)}")
    return SIMULATORS[name](suite)


# Each function imports its simulator on call, so that `hf-ptr evaluate` loads only the selected one.
def _metaworld(suite: str | None) -> Simulator:
    from hf_ptr.envs.metaworld.environment import MetaWorld

    if suite is not None:
        raise InputError(f"Meta-World has no suites; leave --suite {suite} out, and name --tasks")
    return MetaWorld()


def _libero(suite: str | None) -> Simulator:
    from hf_ptr.envs.libero import Libero

    return Libero(suite)


def _robocasa(suite: str | None) -> Simulator:
    from hf_ptr.envs.robocasa import RoboCasa

    return RoboCasa(suite)


SIMULATORS: dict[str, Callable[[str | None], Simulator]] = {
    "metaworld": _metaworld,
    "libero": _libero,
    "robocasa": _robocasa,
}
