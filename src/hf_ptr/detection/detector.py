"""Measures all checks on all episodes and decides which amounts are findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hf_ptr.detection.check import (
    SIGNALS,
    Check,
    Context,
    Found,
    Measurement,
    Severity,
    View,
    measurement_of,
)
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.significance import Bulk, false_discovery_level
from hf_ptr.detection.windows import EVENT, MIDDLE, SHORT, WHOLE
from hf_ptr.utils.progress import progress_bar

# Share of false ones among the episodes with a finding (Benjamini and Hochberg), and the largest probability of a
# sound amount, over all checks and scales of an episode, that is a finding.
FALSE_SHARE = 0.03
LEVEL = 0.01
SCALES = (SHORT, MIDDLE, WHOLE, EVENT)


class Measurements(Protocol):
    """The measurements of an episode by the place of their check."""

    def __getitem__(self, number: int, /) -> Measurement: ...


@dataclass(frozen=True)
class Hit:
    """
    A finding of one check at one scale.

    Attributes:
        check: the check.
        scale: scale of the candidates.
        found: what was found, and where.
        p: probability of so large an amount in a sound episode, over all checks and scales.
    """

    check: Check
    scale: str
    found: Found
    p: float


class Detector:
    """
    The checks, fitted to a dataset.

    Args:
        signals: the episodes.
        checks: the checks to use.
    """

    def __init__(self, signals: Signals, checks: Sequence[type[Check]]) -> None:
        self.context = Context(signals, ResponseModel(signals))
        self.unavailable = {check.name: check.unavailable(self.context) for check in checks}
        self.checks = [check(self.context) for check in checks if self.unavailable[check.name] is None]
        self.views = self.context.views
        with progress_bar() as progress:
            self.measured = [
                self.measure(view) for view in progress.track(self.views, description="comparing episodes")
            ]
        self._tasks = np.array([episode.task for episode in signals.episodes])
        # Of each check and scale, the largest amount of each episode and dimension.
        self.amounts: dict[tuple[str, str], np.ndarray] = {}
        for number, check in enumerate(self.checks):
            for scale in SCALES:
                amounts = largest([measured[number] for measured in self.measured], scale)
                if amounts is not None and not check.rule:
                    self.amounts[check.name, scale] = amounts
        severity = {check.name: check.severity for check in self.checks}
        # Probabilities are over all checks of a severity and all scales.
        self._tests = Counter(severity[name] for name, _ in self.amounts)
        self._bulks: dict[tuple[str, str], Bulk] = {}
        # Of each check and scale, the least probability of a material amount of each episode.
        self._least: dict[tuple[str, str], np.ndarray] = {}
        self._levels: dict[Severity, float] = {}

    def contaminated(
        self, positions: np.ndarray, measured: Sequence[Measurements], checks: Collection[Check] | None = None
    ) -> Detector:
        """
        The detector of this dataset with the amounts of other measurements in some episodes, for example those of
        planted faults. The response model and the checks stay the same.

        Args:
            positions: `(N,)` positions of the episodes.
            measured: N measurements of all checks.
            checks: the checks whose measurements are other ones; all by default.
        """
        other = copy(self)
        other.amounts, other._bulks, other._least = dict(self.amounts), dict(self._bulks), dict(self._least)
        other._levels, other._tests = {}, Counter(self._tests)
        for number, check in self._numbered(checks):
            if check.rule:
                continue
            for scale in SCALES:
                amounts = largest([measurement[number] for measurement in measured], scale)
                if amounts is None:
                    continue
                key = check.name, scale
                usual = self.amounts.get(key)
                if usual is None:
                    other._tests[check.severity] += 1
                changed = np.zeros((len(self.views), amounts.shape[1])) if usual is None else usual.copy()
                changed[positions] = amounts
                other.amounts[key] = changed
                other._bulks.pop(key, None)
                other._least.pop(key, None)
        if other._tests != self._tests:
            # One test more changes all probabilities.
            other._least.clear()
        return other

    def _numbered(self, checks: Collection[Check] | None) -> list[tuple[int, Check]]:
        """The chosen checks with their places in a measurement; all for None."""
        return [(number, check) for number, check in enumerate(self.checks) if checks is None or check in checks]

    def bulk(self, check: Check, scale: str, width: int) -> Bulk:
        """The sound amounts of a check at a scale, in `width` dimensions; zeros where no episode has a candidate."""
        key = check.name, scale
        if key not in self._bulks:
            amounts = self.amounts.get(key, np.zeros((len(self.views), width)))
            self._bulks[key] = Bulk.of(
                amounts,
                self._tasks,
                min(check.material, check.material_at(scale)),
                check.least_tail,
                whole=scale == WHOLE,
            )
        return self._bulks[key]

    def level(self, severity: Severity) -> float:
        """The probability of a sound amount below which an amount is a finding of this severity, at most `LEVEL`."""
        if severity not in self._levels:
            least = np.ones(len(self.views))
            for check in self.checks:
                # A rule is certain by itself, and says nothing of the other checks.
                if check.severity == severity and not check.rule:
                    for scale in SCALES:
                        if (check.name, scale) in self.amounts:
                            least = np.minimum(least, self._least_material(check, scale))
            self._levels[severity] = min(LEVEL, false_discovery_level(least, FALSE_SHARE))
        return self._levels[severity]

    def measure(self, view: View) -> list[Measurement]:
        """The measurements of all checks."""
        return [measurement_of(check, view) for check in self.checks]

    def measure_changed(self, view: View) -> ChangedMeasurements:
        """The measurements of a copy of an episode."""
        return ChangedMeasurements(self, view)

    def hits(self, view: View, measured: Measurements, checks: Collection[Check] | None = None) -> list[Hit]:
        """The findings in an episode of the given checks; of all by default."""
        found = []
        for number, check in self._numbered(checks):
            for scale, candidates in measured[number].items():
                enough = _material(check, scale, candidates.amount)
                if not enough.any():
                    continue
                p = self.p_values(check, scale, candidates.amount, view.episode.task)
                for row, dimension in zip(*np.nonzero(enough & (p <= self.level(check.severity))), strict=True):
                    at = (row, dimension)
                    place = Found(
                        int(candidates.first[row]),
                        int(candidates.stop[row]),
                        float(candidates.amount[at]),
                        int(dimension),
                        float(candidates.detail[at]),
                    )
                    found.append(Hit(check, scale, place, float(p[at])))
        return found

    def _least_material(self, check: Check, scale: str) -> np.ndarray:
        """The least probability of a material amount in each episode, `(E,)`; 1 without any."""
        key = check.name, scale
        if key not in self._least:
            # The largest amount of a dimension is the least probable one.
            amounts = self.amounts[key]
            enough = _material(check, scale, amounts)
            least = np.ones(len(amounts))
            for row in np.flatnonzero(enough.any(axis=1)).tolist():
                p = self.p_values(check, scale, amounts[row], int(self._tasks[row]))
                least[row] = p[enough[row]].min()
            self._least[key] = least
        return self._least[key]

    def p_values(self, check: Check, scale: str, amount: np.ndarray, task: int) -> np.ndarray:
        """Probability of such amounts in a sound episode, over all checks of this severity and all scales."""
        if check.rule:
            return np.where(amount >= check.material, 0.0, 1.0)
        tests = self._tests[check.severity]
        return np.minimum(self.bulk(check, scale, amount.shape[-1]).p(amount, task) * tests, 1.0)

    def least_p(self, view: View, measured: list[Measurement]) -> float:
        """The least probability over everything that was measured in an episode, for rankings."""
        values = [1.0]
        for check, measurement in zip(self.checks, measured, strict=True):
            for scale, candidates in measurement.items():
                if check.severity == "fault" and candidates.amount.size:
                    values.append(float(self.p_values(check, scale, candidates.amount, view.episode.task).min()))
        return min(values)

    def frame_evidence(self, view: View, measured: list[Measurement]) -> np.ndarray:
        """Evidence of a fault in each frame, `(T,)`: -log p of the shortest windows around it."""
        total = np.zeros(len(view.episode))
        for check, measurement in zip(self.checks, measured, strict=True):
            if check.severity != "fault":
                continue
            for scale in (SHORT, EVENT):
                candidates = measurement.get(scale)
                if candidates is None or not candidates.amount.size:
                    continue
                p = self.p_values(check, scale, candidates.amount, view.episode.task).min(axis=1)
                strength = -np.log(np.maximum(p, 1e-12))
                largest_here, weight = np.zeros(len(total)), np.zeros(len(total))
                for first, stop, value in zip(candidates.first, candidates.stop, strength, strict=True):
                    largest_here[first:stop] += value
                    weight[first:stop] += 1
                total = np.maximum(total, largest_here / np.maximum(weight, 1))
        return total


class ChangedMeasurements:
    """
    The measurements of all checks in a copy of an episode, each made when it is first asked for. Those of checks that
    read none of the changed signals are the original's.

    Args:
        detector: the detector of the dataset.
        view: the copy.
    """

    def __init__(self, detector: Detector, view: View) -> None:
        episode, original = view.episode, detector.views[view.episode.position].episode
        # Other times or another task matter to every check.
        every = episode.task != original.task or episode.seconds is not original.seconds
        changed = {name for name in SIGNALS if getattr(episode, name) is not getattr(original, name)}
        self._checks, self._view = detector.checks, view
        self._found: list[Measurement | None] = [
            None if every or changed.intersection(check.reads) else measurement
            for check, measurement in zip(detector.checks, detector.measured[episode.position], strict=True)
        ]

    def __getitem__(self, number: int) -> Measurement:
        found = self._found[number]
        if found is None:
            found = self._found[number] = measurement_of(self._checks[number], self._view)
        return found


def _material(check: Check, scale: str, amounts: np.ndarray) -> np.ndarray:
    """Which amounts are large enough to matter."""
    return amounts >= check.material_at(scale)


def largest(measured: Sequence[Measurement], scale: str) -> np.ndarray | None:
    """The largest amount of each episode and dimension, `(E, d)`; 0 without candidates. None if no episode has any."""
    widths = [m[scale].amount.shape[1] for m in measured if scale in m and len(m[scale].amount)]
    if not widths:
        return None
    rows = [
        m[scale].amount.max(axis=0) if scale in m and len(m[scale].amount) else np.zeros(widths[0]) for m in measured
    ]
    return np.stack(rows)
