"""What cannot be found in a dataset, whatever its episodes contain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_ptr.detection.detector import LEAST_GROUP, Detector
from hf_ptr.detection.signals import Scale

# Change of a command that an offset of one standard deviation in a state dimension must imply for it to be seen.
LEAST_EFFECT = 0.2
# Episodes below which the amounts of sound ones are hardly known.
FEW_EPISODES = 12


@dataclass(frozen=True)
class Unseen:
    """
    Something that cannot be found.

    Attributes:
        fault: the fault.
        reason: why it cannot be found in this dataset.
        dimensions: names of the dimensions, tasks or checks concerned; empty where all are.
    """

    fault: str
    reason: str
    dimensions: tuple[str, ...] = ()


def unseen(detector: Detector) -> tuple[Unseen, ...]:
    """What cannot be found in the dataset of a detector."""
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
    hidden = signals.state.moves & ~signals.state.two_valued & ~_shifts_commands(detector)
    if hidden.any():
        found.append(
            Unseen(
                "an offset of the state by one standard deviation",
                "the commands do not depend on the level of these dimensions",
                _names(signals.state, hidden),
            )
        )
    count = len(signals.episodes)
    if count < FEW_EPISODES:
        found.append(Unseen("small faults", f"{count} episodes are too few to know what is usual"))
    tasks = np.bincount([episode.task for episode in signals.episodes], minlength=len(signals.tasks))
    rare = tuple(
        task for task, size in zip(signals.tasks, tasks.tolist(), strict=True) if 0 < size < min(LEAST_GROUP, count)
    )
    if rare:
        found.append(
            Unseen("what is unusual for one task only", f"fewer than {LEAST_GROUP} episodes have these tasks", rare)
        )
    if not any(episode.cameras for episode in signals.episodes):
        found.append(Unseen("faults of the cameras", "no camera was read"))
    if not any(task.strip() for task in signals.tasks):
        found.append(Unseen("wrong instructions", "the dataset has no instructions"))
    elif (tasks > 0).sum() == 1:
        found.append(Unseen("wrong instructions", "all episodes have the same one"))
    found += [Unseen(f"what {name} finds", reason) for name, reason in detector.unavailable.items() if reason]
    return tuple(found)


def _names(scale: Scale, chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(scale.names[dimension] for dimension in np.flatnonzero(chosen))


def _shifts_commands(detector: Detector) -> np.ndarray:
    """`(ds,)` bool: whether an offset of one standard deviation in this dimension of the state changes a command."""
    signals, model = detector.context.signals, detector.context.model
    shifts = np.zeros(len(signals.state.names), dtype=bool)
    if not model.known.any():
        return shifts
    episodes = sorted(signals.episodes, key=len)
    episode = episodes[len(episodes) // 2]
    expected = model.predict(episode).expected[:, model.known]
    for dimension in np.flatnonzero(signals.state.moves):
        state = episode.state.copy()
        state[:, dimension] += 1.0
        moved = model.predict(episode.with_signals(state=state)).expected[:, model.known]
        shifts[dimension] = np.abs((moved - expected).mean(axis=0)).max() > LEAST_EFFECT
    return shifts
