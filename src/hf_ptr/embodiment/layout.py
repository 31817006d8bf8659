"""Slots of the unified vector, end-exclusive (PTR Sec. 11; the layout of Being-H0.5)."""

from __future__ import annotations

from hf_ptr.errors import InputError, nearest

WIDTH = 200
SLOTS: dict[str, range] = {
    "right_eef_position": range(0, 3),
    "right_eef_rotation": range(3, 6),
    "left_eef_position": range(9, 12),
    "left_eef_rotation": range(12, 15),
    "right_gripper": range(18, 19),
    "left_gripper": range(19, 20),
    "right_hand": range(20, 26),
    "left_hand": range(32, 38),
    "libero_gripper": range(44, 46),
    "right_arm": range(50, 57),
    "left_arm": range(57, 64),
    "head": range(64, 66),
    "waist": range(66, 69),
    "base_position": range(70, 73),
    "base_motion": range(73, 74),
    "control_mode": range(74, 75),
    "right_mano_shape": range(90, 100),
    "left_mano_shape": range(100, 110),
    "right_mano_pose": range(110, 155),
    "left_mano_pose": range(155, 200),
}
# A hand's shape can be observed, not commanded.
STATE_ONLY = ("right_mano_shape", "left_mano_shape")


def slots_of(part: str) -> range:
    """
    The slots of a part.

    Raises:
        InputError: the part is unknown; the nearest name is suggested.
    """
    if part not in SLOTS:
        raise InputError(f"no part {part!r}.{nearest(part, SLOTS)} There are: {', '.join(SLOTS)}")
    return SLOTS[part]
