"""What a calibrated score file means, for those who write it and for those who read it, who need nothing heavy."""

from __future__ import annotations

# Bounds of the weight.
W_MIN = 0.25
W_MAX = 4.0
# The elements of a transition that are identified, each with a column of its own.
ELEMENTS = ("next_observation", "action", "instruction")
# The distance at and below which a view counts as failed.
FAILED = 0.5
# Episodes, real and faulted, without which there is no scale, of a group or at all.
MIN_GROUP = 8
