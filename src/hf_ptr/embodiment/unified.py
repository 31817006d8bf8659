"""The unified action space: a vector of 200 dimensions whose slots have the same meaning on every robot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_ptr.embodiment.description import Embodiment, load_embodiment
from hf_ptr.embodiment.layout import SLOTS, WIDTH, slots_of
from hf_ptr.errors import InputError

__all__ = ["SLOTS", "WIDTH", "UnifiedActionSpace"]


class UnifiedActionSpace:
    """
    Packs named parts of a robot's state or action into the unified vector, and unpacks them.

    Slots of parts that a robot does not have are zero. `mask` is False there: they are excluded from the loss, and
    predictions for them are not executed.

    Example:
        ```python
        space = UnifiedActionSpace()
        vector = space.pack({"right_arm": arm, "right_gripper": gripper})  # (…, 7), (…, 1) -> (…, 200)
        space.unpack(vector, "metaworld_sawyer")["right_gripper"]  # (…, 1)
        space.mask("unitree_g1_inspire").sum()  # 26
        ```
    """

    def pack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """
        Named parts, each `(…, width of its slots)`, to the unified vector `(…, 200)`.

        Raises:
            InputError: a part is unknown (the nearest name is suggested) or has another width, or there are none.
        """
        if not parts:
            raise InputError(f"there is no part to pack; name some of {', '.join(SLOTS)}")
        first = next(iter(parts.values()))
        vector = first.new_zeros((*first.shape[:-1], WIDTH))
        for name, values in parts.items():
            slots = slots_of(name)
            if values.shape[-1] != len(slots):
                raise InputError(f"{name} has {values.shape[-1]} dimensions; its slots are {len(slots)}")
            if values.shape[:-1] != first.shape[:-1]:
                raise InputError(
                    f"{name} has the shape {tuple(values.shape)}, and another part {tuple(first.shape)}; all but the "
                    "last dimension must agree"
                )
            vector[..., slots.start : slots.stop] = values
        return vector

    def unpack(self, vector: Tensor, embodiment: str | Embodiment, kind: str = "action") -> dict[str, Tensor]:
        """
        The robot's parts of a unified vector: `{name: (…, width)}`.

        Args:
            vector: `(…, 200)`.
            embodiment: the robot, or its name.
            kind: `"action"` or `"state"`.
        """
        self._require_width(vector)
        parts = _of(embodiment).parts(kind)
        return {name: vector[..., slots_of(name).start : slots_of(name).stop] for name in parts}

    def mask(self, embodiment: str | Embodiment, kind: str = "action") -> Tensor:
        """`(200,)` bool: the slots that the robot's action (or state) fills."""
        mask = torch.zeros(WIDTH, dtype=torch.bool)
        for name in _of(embodiment).parts(kind):
            slots = slots_of(name)
            mask[slots.start : slots.stop] = True
        return mask

    def unify(self, vector: Tensor, embodiment: str | Embodiment, kind: str = "action") -> Tensor:
        """
        A robot's own vector `(…, d)` as the unified one `(…, 200)`.

        Raises:
            InputError: the number of dimensions is not the robot's.
        """
        robot = _of(embodiment)
        parts, width = robot.parts(kind), robot.width(kind)
        if vector.shape[-1] != width:
            raise InputError(f"the {kind} of {robot.name} has {width} dimensions, this has {vector.shape[-1]}")
        return self.pack({name: vector[..., columns.start : columns.stop] for name, columns in parts.items()})

    def separate(self, vector: Tensor, embodiment: str | Embodiment, kind: str = "action") -> Tensor:
        """The robot's own vector `(…, d)` from a unified one; inverse of `unify`."""
        robot = _of(embodiment)
        own = vector.new_zeros((*vector.shape[:-1], robot.width(kind)))
        for name, values in self.unpack(vector, robot, kind).items():
            columns = robot.parts(kind)[name]
            own[..., columns.start : columns.stop] = values
        return own

    @staticmethod
    def _require_width(vector: Tensor) -> None:
        if vector.shape[-1] != WIDTH:
            raise InputError(f"a unified vector has {WIDTH} dimensions, this has {vector.shape[-1]}")


def _of(embodiment: str | Embodiment) -> Embodiment:
    return load_embodiment(embodiment) if isinstance(embodiment, str) else embodiment
