"""Faults that cannot be found in a dataset, whatever its episodes contain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_ptr.detection.check import LEAST_EPISODES
from hf_ptr.detection.contamination import contaminated, number_faulty
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.signals import Scale

# Episodes below which the amounts of sound ones are hardly known.
FEW_EPISODES = 12
# Episodes of a task below which it is compared with all other tasks only.
LEAST_TASK = 8


@dataclass(frozen=True)
class Unseen:
    """
    Something that cannot be found.

    Attributes:
        fault: the fault.
        reason: why it cannot be found in this dataset.
        dimensions: names of the dimensions, tasks, cameras or checks concerned; empty where all are.
    """

    fault: str
    reason: str
    dimensions: tuple[str, ...] = ()


def unseen(detector: Detector) -> tuple[Unseen, ...]:
    """The faults that cannot be found in the dataset of a detector."""
    signals, model = detector.context.signals, detector.context.model
    found = [
        Unseen("a lag, offset, gain, unit or polarity of most episodes", "episodes are compared with each other"),
        Unseen("a wrong goal or poor skill", "nothing in the recorded columns shows it"),
    ]
    for what, scale in (("state", signals.state), ("commands", signals.action)):
        resting = _names(scale, ~scale.moves)
        if resting:
            found.append(Unseen(f"any fault of {what} at rest", "these dimensions do not move", resting))
    unexplained = np.zeros(len(signals.action.names), dtype=bool)
    unexplained[model.dimensions[~model.known]] = True
    unexplained |= signals.action.moves & signals.action.two_valued
    if unexplained.any():
        found.append(
            Unseen(
                "lag, offset, gain or wrong values of single commands",
                "the state does not explain these dimensions",
                _names(signals.action, unexplained),
            )
        )
    hidden = _hidden_offsets(detector)
    if hidden.any():
        found.append(
            Unseen(
                "an offset of the state by one standard deviation",
                "neither the commands nor other dimensions depend on their level",
                _names(signals.state, hidden),
            )
        )
    count = len(signals.episodes)
    if count < FEW_EPISODES:
        found.append(Unseen("small faults", f"{count} episodes are too few to know what is usual"))
    tasks = np.bincount([episode.task for episode in signals.episodes], minlength=len(signals.tasks))
    rare = tuple(
        task for task, size in zip(signals.tasks, tasks.tolist(), strict=True) if 0 < size < min(LEAST_TASK, count)
    )
    if rare:
        found.append(
            Unseen(
                "faults that are unusual only within one task",
                f"fewer than {LEAST_TASK} episodes have these tasks",
                rare,
            )
        )
    counts = detector.context.camera_counts
    if detector.context.cameras and len(detector.context.cameras) < len(counts):
        without = tuple(name for name in counts if name not in detector.context.cameras)
        found.append(Unseen("faults of images", f"fewer than {LEAST_EPISODES} episodes have images here", without))
    reasons = {reason for reason in detector.unavailable.values() if reason is not None}
    for reason in sorted(reasons):
        checks = tuple(name for name, other in detector.unavailable.items() if other == reason)
        found.append(Unseen("the faults of checks that cannot run here", reason, checks))
    return tuple(found)


def _names(scale: Scale, chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(scale.names[dimension] for dimension in np.flatnonzero(chosen))


def _hidden_offsets(detector: Detector) -> np.ndarray:
    """`(ds,)` bool: dimensions of the state in which no check finds an offset of one standard deviation."""
    scale, episodes = detector.context.signals.state, detector.context.signals.episodes
    hidden = scale.moves & ~scale.two_valued
    rng = np.random.default_rng(0)
    order = rng.permutation(len(episodes))
    faults = [check for check in detector.checks if check.severity == "fault"]
    faulty = number_faulty(len(episodes))
    for sign in (1.0, -1.0):
        # A dimension in which one sign is found is not hidden.
        left = np.flatnonzero(hidden).tolist()
        for begin in range(0, len(left), faulty):
            chosen = left[begin : begin + faulty]
            views = []
            for dimension, position in zip(
                chosen, order[np.arange(begin, begin + len(chosen)) % len(order)], strict=True
            ):
                state = episodes[position].state.copy()
                state[:, dimension] += sign
                views.append(detector.context.changed_view(episodes[position].with_signals(state=state)))
            measured = [detector.measure_changed(view) for view in views]
            positions = np.array([view.episode.position for view in views])
            knowing = contaminated(detector, positions, measured, rng, faults)
            for dimension, view, measurement in zip(chosen, views, measured, strict=True):
                hidden[dimension] = not knowing.hits(view, measurement, faults)
    return hidden
