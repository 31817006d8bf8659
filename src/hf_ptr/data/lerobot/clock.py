"""The time stamps of an episode: do its rows have the frame rate of the dataset, and where is time missing?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Relative tolerance of the frame rate. Where a recorder dropped many frames, the rate is known less well.
FPS_TOLERANCE = 0.02
IRREGULAR_TOLERANCE = 0.1
IRREGULAR_SHARE = 0.05
# A step that takes this many usual steps may lack a frame.
GAP_STEPS = 1.75
# A step of this many frames is listed as a gap. The jitter of good recorders stays below it.
LISTED_GAP = 1.9
# Frames by which a clock may differ over an episode in any case: stamps are rounded, and they jitter.
MIN_DRIFT = 1.0
# Seconds of a tick of the coarsest clock.
COARSEST = 1.0
# Relative deviation of the rate of an episode, pauses left out, that is worth a note.
NOTED_RATE = 0.05
# A gap of at least this many seconds and frames is a pause of the recording, in which anything may have happened.
PAUSE_SECONDS, PAUSE_FRAMES = 0.5, 3.5


@dataclass(frozen=True)
class ClockProblem:
    """
    A problem of an episode's time stamps.

    Attributes:
        kind: `"timestamp_nan"`, `"timestamp_order"`, `"fps"`, `"frame_rate"`, `"timestamp_gaps"` or
            `"timestamp_drift"`.
        message: the problem, in one line.
        frame: the first affected frame, or None.
        amount: seconds of the longest gap, frames of drift, measured frames per second (`"fps"`), or the relative
            deviation of the rate (`"frame_rate"`); None otherwise.
        severity: `"error"`; otherwise the episode is usable: `"warning"` if stamps are damaged, `"note"` if they are
            as they were recorded.
    """

    kind: str
    message: str
    frame: int | None = None
    amount: float | None = None
    severity: str = "error"


def clock_problems(seconds: np.ndarray, fps: float) -> list[ClockProblem]:
    """
    The problems of an episode's time stamps `(n,)`, in seconds.

    The rate is that of a straight line through all stamps, so jitter and rounding do not matter. Where frames were
    dropped, the rate between the gaps may be right instead. Only if neither is, the rate is wrong.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    if not np.isfinite(seconds).all():
        bad = int(np.isfinite(seconds).argmin())
        return [ClockProblem("timestamp_nan", "timestamp is NaN or infinite; it is not used", bad, severity="warning")]
    if len(seconds) < 2:
        return []
    steps = np.diff(seconds)
    if (steps < 0).any():
        return [ClockProblem("timestamp_order", "timestamps are out of order", int((steps < 0).argmax()) + 1)]
    if seconds[-1] == seconds[0]:
        return [ClockProblem("timestamp_order", "all timestamps are equal", 1)]
    usual = max(float(np.median(steps)), float(steps.mean()) / 2)
    unit = _unit(steps)
    gaps = steps > GAP_STEPS * usual + unit
    overall, time_between, steps_between = _rate(seconds), float(steps[~gaps].sum()), int((~gaps).sum())
    # A coarse clock may not tick between two gaps.
    between = steps_between / time_between if time_between > 0 else overall
    tolerance = IRREGULAR_TOLERANCE if gaps.mean() > IRREGULAR_SHARE else FPS_TOLERANCE

    def fits(rate: float) -> bool:
        drift = abs(fps / rate - 1) * len(steps)
        return abs(rate / fps - 1) <= tolerance or drift <= max(MIN_DRIFT, unit * fps)

    # Each gap rounds the time between the gaps once more; the rounding errors are independent.
    ticks = unit * (1 + math.sqrt(gaps.sum()))
    within_ticks = abs(time_between - steps_between / fps) <= ticks
    if not fits(overall) and not fits(between) and not within_ticks:
        rate = between if gaps.any() else overall
        message = f"fps mismatch: timestamps give {rate:.4g} frames per second, info.json {fps:g}"
        return [ClockProblem("fps", message, amount=rate)]
    problems = _rate_note(steps, fps)
    missing = steps > max(LISTED_GAP * usual, LISTED_GAP / fps) + unit
    if missing.any():
        longest = int(np.argmax(steps.round(6)))
        count = int(missing.sum())
        what = "1 gap" if count == 1 else f"{count} gaps"
        message = f"{what} in the timestamps, the longest {steps[longest]:.3g} s before frame {longest + 1}"
        first = int(missing.argmax()) + 1
        problems.append(ClockProblem("timestamp_gaps", message, first, float(steps[longest]), "note"))
    # A recorder may count from any time, but the jitter of its first stamp is no offset.
    start = seconds[0] if abs(seconds[0]) * fps > 0.5 else 0.0
    away = np.abs(seconds - start - np.arange(len(seconds)) / fps) * fps
    far = away > 0.5 + unit * fps
    if far.any():
        frame = int(far.argmax())
        message = f"timestamps drift up to {away.max():.1f} frames from frame / fps, from frame {frame} onward"
        problems.append(ClockProblem("timestamp_drift", message, frame, float(away.max()), "note"))
    return problems


def stretches(seconds: np.ndarray, fps: float) -> np.ndarray:
    """The number of the stretch without a pause that each row of an episode is in, `(n,)` int64 from 0."""
    steps = np.diff(np.asarray(seconds, dtype=np.float64))
    return np.concatenate((np.zeros(min(len(seconds), 1), dtype=np.int64), np.cumsum(_pauses(steps, fps))))


def _rate_note(steps: np.ndarray, fps: float) -> list[ClockProblem]:
    """A note where many small gaps make an episode slower, or faster, than the frame rate of the dataset."""
    kept = steps[~_pauses(steps, fps)]
    seconds, frames = float(kept.sum()), len(kept)
    if not seconds or abs(frames - seconds * fps) <= max(MIN_DRIFT, _unit(steps) * fps):
        return []
    rate = frames / seconds
    if abs(rate / fps - 1) <= NOTED_RATE:
        return []
    looks = f"{abs(fps / rate - 1):.0%} {'faster' if rate < fps else 'slower'}"
    message = f"{rate:.3g} frames per second on average, info.json says {fps:g}: the motion looks {looks} than it was"
    return [ClockProblem("frame_rate", message, amount=abs(rate / fps - 1), severity="note")]


def _pauses(steps: np.ndarray, fps: float) -> np.ndarray:
    """Whether each step between stamps is a pause of the recording, `(n,)` bool."""
    return steps > max(PAUSE_SECONDS, PAUSE_FRAMES / fps) + _unit(steps)


def _unit(steps: np.ndarray) -> float:
    """Seconds of one tick of a coarse clock, which equal stamps reveal and which is not a gap; 0 for a fine clock."""
    if not (steps == 0).any() or not (steps > 0).any():
        return 0.0
    # In a short episode, a pause may be the only step.
    return min(float(steps[steps > 0].min()), COARSEST)


def _rate(seconds: np.ndarray) -> float:
    """Frames per second of the least-squares line through the stamps."""
    frame = np.arange(len(seconds)) - (len(seconds) - 1) / 2
    return float((frame**2).sum() / (frame * (seconds - seconds.mean())).sum())
