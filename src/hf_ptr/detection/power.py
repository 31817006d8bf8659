"""Which planted faults would be found in a dataset, and with what probability."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from math import sqrt
from typing import Any
from zlib import crc32

import numpy as np

from hf_ptr.detection.check import Check, Plant, View
from hf_ptr.detection.contamination import FAULTY, contaminated, number_faulty
from hf_ptr.detection.detector import Detector, Measurements
from hf_ptr.detection.planting import in_part
from hf_ptr.detection.response import Limits
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.unseen import Unseen, unseen
from hf_ptr.utils.progress import progress_bar

# Copies with a planted fault: so many first, and more where the fault is found in some of them and not in others.
FIRST_COPIES, MOST_COPIES = 12, 24
# Copies that are judged at least, some of them among several draws of faulty episodes.
LEAST_DRAWN = 24
# Copies below which the probability cannot be estimated.
LEAST_COPIES = 5
# Standard deviations of a 95 % interval.
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Power:
    """
    The probability that a fault would be found in an episode of this dataset, if a fifth of the episodes had it.

    Attributes:
        check: name of the check that plants the fault.
        fault: the fault with its amount.
        part: whether a fifth of the episode has the fault; otherwise all of it.
        probability: share of the planted copies in which any check finds a fault; None if it cannot be estimated.
        low, high: its 95 % Wilson interval; 0 and 1 if it cannot be estimated.
        copies: number of planted copies.
    """

    check: str
    fault: str
    part: bool
    probability: float | None
    low: float
    high: float
    copies: int

    @classmethod
    def of(cls, check: str, fault: str, part: bool, found: float, copies: int) -> Power:
        """The power from the number of copies in which the fault was found, a mean over draws."""
        if copies < LEAST_COPIES:
            return cls(check, fault, part, None, 0.0, 1.0, copies)
        share, z = found / copies, NORMAL_95
        middle = (share + z**2 / (2 * copies)) / (1 + z**2 / copies)
        half = z / (1 + z**2 / copies) * sqrt(share * (1 - share) / copies + z**2 / (4 * copies**2))
        return cls(check, fault, part, share, max(0.0, middle - half), min(1.0, middle + half), copies)


@dataclass(frozen=True)
class PowerCard:
    """
    What would be found in a dataset.

    Attributes:
        powers: each planted fault, whole and in a part.
        unseen: what cannot be found in this dataset.
    """

    powers: tuple[Power, ...]
    unseen: tuple[Unseen, ...]

    def as_json(self) -> dict[str, Any]:
        """
        The card as JSON values.

        Returns:
            `faulty_share`: share of faulty episodes that the probabilities are for. `powers`: one object for each
            fault and extent with the attributes of [`Power`][hf_ptr.detection.power.Power]; `probability` is null
            where it cannot be estimated. `unseen`: objects with `fault`, `reason` and `dimensions`.
        """
        return {
            "faulty_share": FAULTY,
            "powers": [asdict(power) for power in self.powers],
            "unseen": [{**asdict(one), "dimensions": list(one.dimensions)} for one in self.unseen],
        }


def power_card(detector: Detector, seed: int = 0) -> PowerCard:
    """
    Plants every fault of every check in copies of episodes and counts those that the detector finds.

    The bulk of the amounts contains those of a fifth of faulty episodes; the response model does not.

    Args:
        detector: the detector of the dataset.
        seed: random seed.
    """
    jobs = [
        (check, plant, part)
        for check in detector.checks
        for plant in check.plants()
        for part in ((False, True) if plant.partial else (False,))
    ]
    # A finding in the original would count as one in the copy.
    damaged = np.array([_faults(detector, *pair) for pair in zip(detector.views, detector.measured, strict=True)])
    powers = []
    with progress_bar() as progress:
        task = progress.add_task("planting faults", total=len(jobs))
        for check, plant, part in jobs:
            powers.append(_power(detector, check, plant, part, damaged, seed))
            progress.advance(task)
    return PowerCard(tuple(powers), unseen(detector))


@dataclass(frozen=True)
class _Copy:
    """An episode with a planted fault, its measurements, and the frames that have the fault."""

    view: View
    measured: Measurements
    frames: slice


def _faults(detector: Detector, view: View, measured: Measurements) -> bool:
    return any(hit.check.severity == "fault" for hit in detector.hits(view, measured))


def _power(detector: Detector, check: Check, plant: Plant, part: bool, damaged: np.ndarray, seed: int) -> Power:
    rng = np.random.default_rng([seed, crc32(f"{check.name} {plant.label} {part}".encode())])
    order = rng.permutation(len(damaged))
    order = order[np.argsort(damaged[order], kind="stable")]
    candidates = (_planted(detector, plant, part, int(position), rng) for position in order)
    able = (planted for planted in candidates if planted is not None)
    first = list(islice(able, FIRST_COPIES))
    # Commands of a fifth of the episodes set limits as well: what is beyond those of the others counts.
    limits = detector.context.model.limits_with([episode for episode, _ in first], FAULTY) if first else None
    copies = [_copy(detector, *planted, limits) for planted in first]
    counting = [other for other in detector.checks if other is check or other.severity == check.severity == "fault"]
    # Most faults are found by their own check alone; what the others would measure need not be known then.
    found = float(len(copies)) if _all_found(detector, check, copies, rng) else _found(detector, counting, copies, rng)
    if 0 < found < len(copies):
        more = islice(able, MOST_COPIES - FIRST_COPIES)
        copies += [_copy(detector, *planted, limits) for planted in more]
        found = _found(detector, counting, copies, rng)
    return Power.of(check.name, plant.label, part, found, len(copies))


def _all_found(detector: Detector, check: Check, copies: list[_Copy], rng: np.random.Generator) -> bool:
    """Whether the check finds the fault in every copy."""
    draws = np.zeros(len(copies))
    while (draws < 1).any():
        drawn, found = _draw(detector, [check], copies, draws, rng)
        if not all(found):
            return False
        draws[drawn] += 1
    return True


def _found(detector: Detector, checks: list[Check], copies: list[_Copy], rng: np.random.Generator) -> float:
    """
    The number of copies in which one of the checks finds the fault.

    What is found depends on which others are faulty: in small datasets, the mean of several draws.
    """
    found, draws = np.zeros(len(copies)), np.zeros(len(copies))
    several = number_faulty(len(detector.views)) < len(copies)
    # A fault that a first draw of each copy always or never finds is near to 1 or 0, and further draws say little.
    while (draws < 1).any() or (several and 0 < found.sum() < draws.sum() < LEAST_DRAWN):
        drawn, whether = _draw(detector, checks, copies, draws, rng)
        found[drawn] += whether
        draws[drawn] += 1
    return float((found / draws).sum())


def _draw(
    detector: Detector, checks: list[Check], copies: list[_Copy], draws: np.ndarray, rng: np.random.Generator
) -> tuple[list[int], list[bool]]:
    """
    Copies that are faulty at once, of those that were drawn least, `draws` `(N,)` times; and whether one of the checks
    finds the fault in each, by a detector that knows a fifth of faulty episodes.
    """
    faulty = min(number_faulty(len(detector.views)), len(copies))
    drawn = np.lexsort((rng.random(len(copies)), draws))[:faulty].tolist()
    chosen = [copies[number] for number in drawn]
    positions = np.array([copy.view.episode.position for copy in chosen])
    knowing = contaminated(detector, positions, [copy.measured for copy in chosen], rng, checks)
    return drawn, [_is_found(knowing, checks, copy) for copy in chosen]


def _planted(
    detector: Detector, plant: Plant, part: bool, position: int, rng: np.random.Generator
) -> tuple[Episode, slice] | None:
    """An episode with a planted fault, and the frames that have it; None where it cannot have the fault."""
    context = detector.context
    episode = context.signals.episodes[position]
    faulty = plant.make(episode, context, rng)
    if faulty is None:
        return None
    frames = slice(0, len(faulty))
    if part:
        faulty, frames = in_part(episode, faulty, context.fps, rng)
    return faulty, frames


def _copy(detector: Detector, episode: Episode, frames: slice, limits: Limits | None) -> _Copy:
    view = detector.context.changed_view(episode, limits)
    return _Copy(view, detector.measure_changed(view), frames)


def _is_found(detector: Detector, checks: list[Check], copy: _Copy) -> bool:
    """Whether one of the checks finds a fault in the frames that have it."""
    return any(
        hit.found.first < copy.frames.stop and hit.found.stop > copy.frames.start
        # No amount of a rule matters to the others: it is measured only where they find nothing.
        for rule in (False, True)
        for hit in detector.hits(copy.view, copy.measured, [check for check in checks if check.rule == rule])
    )
