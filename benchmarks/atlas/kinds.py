"""The kinds of faults and controls of the atlas, by name."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.atlas import controls, faults, set_faults, time_faults
from benchmarks.atlas.material import Fault


@dataclass(frozen=True)
class Kind:
    """
    A kind of fault.

    Attributes:
        plant: makes the faulty episode; None from it where the episode cannot have the fault.
        partial: whether it is also planted in a part of an episode.
        block: whether its carriers are consecutive episodes with the same draw.
    """

    plant: Fault
    partial: bool = False
    block: bool = False


FAULTS: dict[str, Kind] = {
    "swapped": Kind(faults.swapped, partial=True),
    "noise 0.1": Kind(faults.noise(0.1), partial=True),
    "noise 0.15": Kind(faults.noise(0.15), partial=True),
    "noise 0.5": Kind(faults.noise(0.5), partial=True),
    "coloured noise 0.3": Kind(faults.coloured_noise(0.3), partial=True),
    "state noise 0.2": Kind(faults.state_noise(0.2), partial=True),
    "late 6": Kind(faults.late(6), partial=True),
    "early 6": Kind(faults.late(-6), partial=True),
    "late 3": Kind(faults.late(3), partial=True),
    "early 3": Kind(faults.late(-3), partial=True),
    "early 4.5": Kind(faults.late(-4.5), partial=True),
    "state late 6": Kind(faults.late_state(6), partial=True),
    "jitter 3": Kind(faults.jitter(3), partial=True),
    "reversed": Kind(faults.reversed_actions, partial=True),
    "inverted group": Kind(faults.inverted_group, partial=True),
    "zeroed group": Kind(faults.zeroed_group),
    "gripper inverted": Kind(faults.inverted_gripper),
    "flipped axis": Kind(faults.flipped_axis, partial=True),
    "gain 0.5": Kind(faults.gain(0.5), partial=True),
    "gain 2": Kind(faults.gain(2.0), partial=True),
    "gain 1.7": Kind(faults.gain(1.7)),
    "gain 0.5 one": Kind(faults.gain_one(0.5), partial=True),
    "offset 0.5": Kind(faults.offset(0.5), partial=True),
    "offset 0.8": Kind(faults.offset(0.8), partial=True),
    "state offset 0.5": Kind(faults.state_offset(0.5), partial=True),
    "drift 1": Kind(faults.drift(1.0)),
    "exchanged": Kind(faults.exchanged, partial=True),
    "crosstalk 0.5": Kind(faults.crosstalk(0.5), partial=True),
    "dead": Kind(faults.dead, partial=True),
    "dead state": Kind(faults.dead_state, partial=True),
    "clipped 0.6": Kind(faults.clipped(0.6)),
    "smoothed 1": Kind(faults.smoothed(1.0)),
    "coarse 0.5": Kind(faults.coarse(0.5)),
    "action spikes 1": Kind(faults.spikes(1.0, 1)),
    "state spikes 1": Kind(faults.spikes(1.0, 0)),
    "encoder wrap": Kind(faults.wrapped),
    "frozen state 1": Kind(faults.frozen_state(1.0)),
    "stale start": Kind(faults.stale_start(3)),
    "doubled": Kind(time_faults.doubled),
    "dropped 0.2": Kind(time_faults.dropped(0.2)),
    "half the rate": Kind(time_faults.half_speed_frames),
    "idle tail 3": Kind(time_faults.idle_tail(3.0)),
    "joined": Kind(time_faults.joined),
    "false start": Kind(time_faults.false_start),
    "truncated": Kind(time_faults.truncated),
    "retry": Kind(time_faults.retry),
    "duplicate": Kind(time_faults.duplicate),
    "cut duplicate": Kind(time_faults.cut_duplicate),
    "degrees": Kind(set_faults.units(57.29578), block=True),
    "joint zero 1": Kind(set_faults.joint_zero(1.0), block=True),
    "gain 0.7 block": Kind(set_faults.gain_block(0.7), block=True),
    "wrong instruction": Kind(set_faults.wrong_instruction),
    "no instruction": Kind(set_faults.placeholder),
}
CONTROLS: dict[str, Kind] = {
    "tremor 0.05": Kind(faults.noise(0.05)),
    "half rate": Kind(controls.half_rate),
    "slower 1.5": Kind(controls.slower(1.5)),
    "slower 2": Kind(controls.slower(2.0)),
    "faster 1.4": Kind(controls.slower(0.7)),
    "pause 1": Kind(controls.pause(1.0)),
    "pause 2": Kind(controls.pause(2.0)),
    "return motion": Kind(controls.return_motion),
    "clutch": Kind(controls.clutch),
    "minority strategy": Kind(controls.minority_strategy),
    "rare task": Kind(controls.rare_task),
    "correction at the start": Kind(controls.busy_start),
    "other words": Kind(controls.near_equal_instruction),
}
