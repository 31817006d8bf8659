"""Episodes that are copies of others, whole or in part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# Frames of an episode that are looked for in all others, and the seconds of motion that belong to each.
ANCHORS = 8
SPAN = 0.25
# Frames that an anchor is compared with at most; a longer dataset is thinned out, and the shift refined afterwards.
FRAMES = 50_000
# Directions of greatest variance that anchors are compared in.
DIRECTIONS = 24
# Other episodes that are looked at closely for each anchor.
NEAREST = 3
# Mean square of the steps of the difference of two episodes, over that of the difference: 2 for noise, and small for
# two recordings of similar motions.
WHITE = 0.8
# Least variance of the motion over that of the difference.
SIGNAL = 30.0
# Least standard deviation of the dimension that moves most, in units: rest looks alike everywhere.
LEAST_MOTION = 0.1
# Differences below this share of a unit are rounding.
ROUNDING = 1e-5
# The shortest copied stretch: seconds and frames.
SECONDS = 0.5
LEAST_FRAMES = 15
# A stretch at one end of the episode that so many others share belongs to the task, such as a scripted way out of the
# rest pose.
SHARED = 3
# A copy has more noise than its original: the excess, over the noise of the difference.
NOISIER = 0.5
# Frames around one by which its motion is called straight, and those in the middle that are left out.
CURVES, OWN_CURVES = 17, 5
# Difference of the copied shares of two episodes beyond which the shorter one is the copy.
CUT = 0.2
# The leap at a seam is this many times that of the other episode at the same place.
SEAM = 2.0
# The end of an episode has no following frames to compare.
LONE_SEAM = 3.0


@dataclass(frozen=True)
class _Match:
    """Frames `[first, stop)` of an episode that are those of `other`, `shift` frames later there."""

    other: int
    first: int
    stop: int
    shift: int


class Copies(Check):
    """
    An episode that is a copy of another one up to sensor noise, whole or in part.

    Why it harms: the copy counts twice, and leaks from training into evaluation.

    Example: a dataset was merged with an older version of itself; the end of a take was also saved with the next one.

    What to do: keep one of the two.

    Limits: of two identical episodes the later one is named, otherwise the one that is cut, has a seam or more noise.
    Copies that were filtered or play at another speed are not recognised, and neither are those of a robot at rest.
    """

    name, unit = "episode/copy", "share"
    reads = ("state", "action")
    rule = True
    action = "keep one of the two episodes"
    material = 0.15

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._used = signals.state.moves, signals.action.moves
        self._values = [self._of(episode) for episode in signals.episodes]
        self._span = signals.frames(SPAN, 2)
        self._least = max(LEAST_FRAMES, signals.frames(SECONDS))
        total = sum(len(values) for values in self._values)
        self._thin = max(1, -(-total // FRAMES))
        covariance = sum(values.T @ values for values in self._values) / total
        self._directions = np.linalg.eigh(covariance)[1][:, -DIRECTIONS:].astype(np.float32)
        described = [self._describe(values) for values in self._values]
        self._places = [np.arange(0, len(part), self._thin) for part in described]
        self._starts = np.concatenate([[0], np.cumsum([len(places) for places in self._places])])
        self._frames = np.concatenate([part[at] for part, at in zip(described, self._places, strict=True)])
        self._square = (self._frames**2).sum(axis=1)
        matches = [self._matches(values, position) for position, values in enumerate(self._values)]
        others = [len({match.other for match in found}) for found in matches if found]
        # Where most recordings differ from several others by noise alone, a script repeats itself.
        scripted = len(others) > 0.5 * len(matches) and np.median(others) >= SHARED
        self._found = [
            None if scripted else self._best(values, position, found)
            for position, (values, found) in enumerate(zip(self._values, matches, strict=True))
        ]

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        signals = context.signals
        return None if signals.state.moves.any() or signals.action.moves.any() else "no dimension moves"

    def measure(self, view: View) -> Measurement:
        episode = view.episode
        if episode is self.context.signals.episodes[episode.position]:
            best = self._found[episode.position]
        else:
            values = self._of(episode)
            best = self._best(values, episode.position, self._matches(values, episode.position))
        if best is None:
            return {EVENT: Candidates.events([], [], [])}
        share = (best.stop - best.first) / len(episode)
        return {EVENT: Candidates.events([best.first], [best.stop], [share], [best.other])}

    def cause(self, found: Found) -> str:
        other = self.context.signals.episode_index[int(found.detail)]
        return f"{found.amount:.0%} of the episode is a copy of episode {other}"

    def plants(self) -> Sequence[Plant]:
        return [Plant("a copy of another episode", _copy, partial=False)]

    def _of(self, episode: Episode) -> np.ndarray:
        state, action = self._used
        return np.concatenate([episode.state[:, state], episode.action[:, action]], axis=1).astype(np.float32)

    def _describe(self, values: np.ndarray) -> np.ndarray:
        """Each frame together with the one a span later, `(T - span, 2 d)`."""
        short = values @ self._directions
        return (
            np.concatenate([short[: -self._span], short[self._span :]], axis=1)
            if len(short) > self._span
            else (np.empty((0, 2 * short.shape[1]), dtype=np.float32))
        )

    def _matches(self, values: np.ndarray, position: int) -> list[_Match]:
        """The stretches of values `(T, d)` that are those of other episodes."""
        described = self._describe(values)
        if len(values) < self._least or not len(described):
            return []
        moved = np.abs(values[self._span :] - values[: -self._span]).mean(axis=1)
        # Those that move most in each part of the episode: rest looks alike everywhere.
        parts = np.array_split(np.arange(len(described)), min(ANCHORS, len(described)))
        anchors = np.array([part[moved[part].argmax()] for part in parts])
        distance = self._square - 2 * described[anchors] @ self._frames.T
        starts = self._starts
        filled = np.flatnonzero(np.diff(starts) > 0)
        nearest = np.minimum.reduceat(distance, starts[filled], axis=1)
        nearest[:, filled == position] = np.inf
        found: list[_Match] = []
        variance = float(values.var(axis=0).mean())
        for row, anchor in enumerate(anchors):
            for column in np.argsort(nearest[row])[: min(NEAREST, len(filled) - 1)]:
                other = int(filled[column])
                at = self._places[other][distance[row, starts[other] : starts[other + 1]].argmin()]
                if any(m.other == other and m.first <= anchor < m.stop for m in found):
                    continue
                match = self._around(values, variance, int(anchor), other, int(at))
                if match is not None:
                    found.append(match)
        return found

    def _around(self, values: np.ndarray, variance: float, anchor: int, other: int, at: int) -> _Match | None:
        """The copied stretch around an anchor that is near a frame of another episode."""
        theirs = self._values[other]
        reach = self._thin
        span = self._span + 1
        shifts = np.arange(
            max(at - anchor - reach, -anchor), min(at - anchor + reach, len(theirs) - anchor - span) + 1
        )
        if not len(shifts):
            return None
        near = np.lib.stride_tricks.sliding_window_view(theirs, span, axis=0)[anchor + shifts]
        errors = ((near - values[anchor : anchor + span].T) ** 2).mean(axis=(1, 2))
        best = int(errors.argmin())
        level = max(float(errors[best]), ROUNDING**2)
        if level * SIGNAL > variance:
            return None
        shift = int(shifts[best])
        low, high = max(0, -shift), min(len(values), len(theirs) - shift)
        square = ((values[low:high] - theirs[low + shift : high + shift]) ** 2).mean(axis=1)
        kernel = np.ones(self._span + 1) / (self._span + 1)
        smooth = np.convolve(np.pad(square, self._span, mode="edge"), kernel, mode="same")[self._span : -self._span]
        bad = np.flatnonzero(smooth > 5 * level)
        before, after = bad[bad < anchor - low], bad[bad > anchor - low]
        first = low + (int(before[-1]) + 1 if len(before) else 0)
        stop = low + (int(after[0]) if len(after) else len(square))
        if stop - first < self._least:
            return None
        ours = values[first:stop].astype(np.float64)
        difference = ours - theirs[first + shift : stop + shift]
        if float(ours.var(axis=0).mean()) < SIGNAL * float((difference**2).mean()):
            return None
        if float(ours.std(axis=0).max()) < LEAST_MOTION:
            return None
        # Either feature of two recordings may differ by noise alone, such as that of a scripted expert's commands.
        state = int(self._used[0].sum())
        white = _is_noise(difference[:, :state]) and _is_noise(difference[:, state:])
        return _Match(other, first, stop, shift) if white else None

    def _best(self, values: np.ndarray, position: int, matches: list[_Match]) -> _Match | None:
        """The largest stretch that is the copy and not the original."""
        ends = Counter(_end(match, len(values)) for match in matches)
        copied = [
            match
            for match in matches
            if (_end(match, len(values)) == "inner" or ends[_end(match, len(values))] < SHARED)
            and self._is_copy(values, position, match)
        ]
        return max(copied, key=lambda match: match.stop - match.first) if copied else None

    def _is_copy(self, values: np.ndarray, position: int, match: _Match) -> bool:
        theirs = self._values[match.other]
        state = int(self._used[0].sum())
        leaps = [
            [_leap(part[:, :state], at + shift, self._span) for part, shift in ((values, 0), (theirs, match.shift))]
            for at in (match.first, match.stop)
        ]
        for ours, other in sorted(leaps, key=max, reverse=True):
            if max(ours, other) > SEAM * (min(ours, other) or LONE_SEAM):
                return ours > other
        size = match.stop - match.first
        share = size / len(values) - size / len(theirs)
        if abs(share) > CUT:
            return share > 0
        rows = slice(match.first, match.stop)
        mine, original = values[rows].astype(np.float64), theirs[match.first + match.shift : match.stop + match.shift]
        excess, error = _excess_noise(mine, original)
        return excess > 0 if abs(excess) > max(NOISIER, 3 * error) else position > match.other


def _end(match: _Match, length: int) -> str:
    """The end of the episode that a stretch is at, if at one only."""
    first, last = match.first <= STALE, match.stop >= length - STALE
    return "inner" if first == last else "first" if first else "last"


def _is_noise(difference: np.ndarray) -> bool:
    """Whether a difference `(n, d)` is noise or rounding."""
    size = float((difference**2).mean()) if difference.size else 0.0
    return size < ROUNDING**2 or float((np.diff(difference, axis=0) ** 2).mean()) > WHITE * size


def _excess_noise(mine: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """
    How much more noise one of two copies `(n, d)` has than the other, over the noise of their difference.

    Returns:
        1 if all of the difference is noise of `mine`, -1 if it is that of `theirs`; and its standard error.
    """
    ours, original, difference = (np.diff(part, n=2, axis=0) ** 2 for part in (mine, theirs, mine - theirs))
    noise = difference.mean(axis=0)
    differs = noise > ROUNDING**2
    if not differs.any() or len(ours) < CURVES:
        return 0.0, np.inf
    ours, original, noise = ours[:, differs], original[:, differs], noise[differs]
    # Noise is seen where the motion is straight. That is judged by the frames around: a frame's own curvature has its
    # noise, and would prefer those in which it happens to cancel.
    wide, near = (
        uniform_filter1d((ours + original) / 2, size, axis=0, mode="nearest") * size for size in (CURVES, OWN_CURVES)
    )
    around = (wide - near) / (CURVES - OWN_CURVES)
    certainty = noise / (4 * np.maximum(around, noise))
    limit = 3 / np.sqrt(certainty)
    excess = np.clip((ours - original) / noise, -limit, limit)
    return float((certainty * excess).sum() / certainty.sum()), float(1 / np.sqrt(certainty.sum()))


def _leap(values: np.ndarray, at: int, reach: int) -> float:
    """The largest step within `reach` frames of an inner frame, over the usual steps around it."""
    if not 2 * STALE < at < len(values) - 2 * STALE:
        return 0.0
    steps = np.sqrt((np.diff(values, axis=0) ** 2).sum(axis=1))
    near = steps[max(STALE, at - reach) : min(at + reach, len(steps) - STALE)]
    around = steps[max(0, at - 3 * reach) : at + 3 * reach]
    return float(near.max() / max(np.quantile(around, 0.8), np.median(steps), 1e-9))


def _copy(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    if not episode.position:
        return None
    other = context.signals.episodes[rng.integers(episode.position)]
    # The copy's place is that of the original, so that it is not compared with what it replaces.
    return Episode(other.state, other.action, other.seconds, other.stretch, episode.position, other.task)
