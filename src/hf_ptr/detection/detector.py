"""Measures all checks on all episodes and decides which amounts are findings."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from hf_ptr.detection.check import (
    SIGNALS,
    Candidates,
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

# Share of false ones among the episodes with a finding (Benjamini and Hochberg), and the largest probability of a
# sound amount, over all checks and scales of an episode, that is a finding.
FALSE_SHARE = 0.03
LEVEL = 0.01
# A fault must be larger to count in a window than in a whole episode: a window has less evidence.
WINDOW_MATERIAL = {SHORT: 1.3, MIDDLE: 1.2, WHOLE: 1.0, EVENT: 1.0}
SCALES = (SHORT, MIDDLE, WHOLE, EVENT)


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
        self.measured = [self.measure(view) for view in self.views]
        self._tasks = np.array([episode.task for episode in signals.episodes])
        self._severity = {check.name: check.severity for check in self.checks}
        # Of each check and scale, the largest amount of each episode and dimension.
        self.amounts: dict[tuple[str, str], np.ndarray] = {}
        for number, check in enumerate(self.checks):
            for scale in SCALES:
                amounts = largest([measured[number] for measured in self.measured], scale)
                if amounts is not None and not check.rule:
                    self.amounts[check.name, scale] = amounts
        # Of each episode, what is large enough to matter: little, where most episodes are sound.
        self._large = [self._material_amounts(measured) for measured in self.measured]
        self._bulks: dict[tuple[str, str], Bulk] = {}
        self._levels: dict[Severity, float] = {}

    def contaminated(self, positions: np.ndarray, measured: Sequence[list[Measurement]]) -> Detector:
        """
        The detector of this dataset with other measurements of some episodes, for example those of planted faults. The
        response model stays the same.

        Args:
            positions: `(N,)` positions of the episodes.
            measured: N measurements of all checks.
        """
        other = copy(self)
        other.amounts, other._bulks, other._levels = dict(self.amounts), {}, {}
        other.measured, other._large = list(self.measured), list(self._large)
        for position, measurement in zip(positions.tolist(), measured, strict=True):
            other.measured[position] = measurement
            other._large[position] = self._material_amounts(measurement)
        for number, check in enumerate(self.checks):
            for scale in SCALES:
                amounts = largest([measurement[number] for measurement in measured], scale)
                if amounts is None or check.rule:
                    continue
                usual = self.amounts.get((check.name, scale))
                changed = np.zeros((len(self.views), amounts.shape[1])) if usual is None else usual.copy()
                changed[positions] = amounts
                other.amounts[check.name, scale] = changed
        return other

    def bulk(self, check: Check, scale: str, width: int) -> Bulk:
        """The sound amounts of a check at a scale, in `width` dimensions; zeros where no episode has a candidate."""
        key = check.name, scale
        if key not in self._bulks:
            amounts = self.amounts.get(key, np.zeros((len(self.views), width)))
            self._bulks[key] = Bulk.of(amounts, self._tasks, check.material, check.least_tail)
        return self._bulks[key]

    def level(self, severity: Severity) -> float:
        """The probability of a sound amount below which an amount is a finding of this severity, at most `LEVEL`."""
        if severity not in self._levels:
            p = [
                self._least_material(large, task, severity)
                for large, task in zip(self._large, self._tasks.tolist(), strict=True)
            ]
            self._levels[severity] = min(LEVEL, false_discovery_level(np.array(p), FALSE_SHARE))
        return self._levels[severity]

    def measure(self, view: View) -> list[Measurement]:
        """The measurements of all checks."""
        return [measurement_of(check, view) for check in self.checks]

    def measure_changed(self, view: View) -> list[Measurement]:
        """The measurements of a copy of an episode; those of checks that read none of the changed signals are kept."""
        episode, original = view.episode, self.views[view.episode.position].episode
        if episode.task != original.task or episode.seconds is not original.seconds:
            return self.measure(view)
        changed = {name for name in SIGNALS if getattr(episode, name) is not getattr(original, name)}
        return [
            measurement_of(check, view) if changed.intersection(check.reads) else measurement
            for check, measurement in zip(self.checks, self.measured[episode.position], strict=True)
        ]

    def hits(self, view: View, measured: list[Measurement]) -> list[Hit]:
        """The findings in an episode."""
        found = []
        for check, measurement in zip(self.checks, measured, strict=True):
            for scale, candidates in measurement.items():
                enough = _material(check, scale, candidates)
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

    def _material_amounts(self, measured: list[Measurement]) -> list[tuple[Check, str, np.ndarray, np.ndarray]]:
        """The checks and scales with material amounts in an episode, all amounts `(N, d)` and which are material."""
        found = []
        for check, measurement in zip(self.checks, measured, strict=True):
            for scale, candidates in measurement.items():
                enough = _material(check, scale, candidates)
                if enough.any():
                    found.append((check, scale, candidates.amount, enough))
        return found

    def _least_material(
        self, large: list[tuple[Check, str, np.ndarray, np.ndarray]], task: int, severity: Severity
    ) -> float:
        """The least probability of a material amount of this severity in an episode; 1 without any."""
        least = 1.0
        for check, scale, amount, enough in large:
            # A rule is certain by itself, and says nothing of the other checks.
            if check.severity == severity and not check.rule:
                least = min(least, float(self.p_values(check, scale, amount, task)[enough].min()))
        return least

    def p_values(self, check: Check, scale: str, amount: np.ndarray, task: int) -> np.ndarray:
        """Probability of such amounts in a sound episode, over all checks of this severity and all scales."""
        if check.rule:
            return np.where(amount >= check.material, 0.0, 1.0)
        tests = sum(self._severity[name] == check.severity for name, _ in self.amounts)
        return np.minimum(self.bulk(check, scale, amount.shape[1]).p(amount, task) * tests, 1.0)

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


def _material(check: Check, scale: str, candidates: Candidates) -> np.ndarray:
    """The amounts of candidates that are large enough to matter, `(N, d)` bool."""
    return candidates.amount >= check.material * (1.0 if check.sure_windows else WINDOW_MATERIAL[scale])


def largest(measured: Sequence[Measurement], scale: str) -> np.ndarray | None:
    """The largest amount of each episode and dimension, `(E, d)`; 0 without candidates. None if no episode has any."""
    widths = [m[scale].amount.shape[1] for m in measured if scale in m and len(m[scale].amount)]
    if not widths:
        return None
    rows = [
        m[scale].amount.max(axis=0) if scale in m and len(m[scale].amount) else np.zeros(widths[0]) for m in measured
    ]
    return np.stack(rows)
