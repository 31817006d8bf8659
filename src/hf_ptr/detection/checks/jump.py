"""A jump of the whole state between two frames: takes that were joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.neighbours import median_of, neighbours
from hf_ptr.detection.planting import other_episode
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# Frames on either side whose motion predicts a step, and after which a jump must still be there.
REACH = 3
# What a dimension does by itself: this quantile over the episodes of its largest jump, times the factor. Up to three
# episodes in ten may be faulty.
USUAL, FACTOR = 0.67, 1.5
# A dimension's jump counts up to this many units.
CAP = 1.0
# Jump of the commands, units, from which they jump with the state.
COMMANDS = 0.2
# Turns by which angles wrap, and how close to one a step is, as a share of it; also how close a quaternion is to its
# negative, which is the same attitude.
TURNS = (np.pi, 2 * np.pi, 180.0, 360.0)
CLOSE = 0.05
# A jump is this many times as large as what a tenth of the episode's own steps exceed.
OFTEN = 3.0
# Least share of the dimensions that jump.
LEAST_SHARE = 0.5
# Steps longer than this many frames' time are pauses of the recording.
PAUSE = 2.5
# A robot is set back where it is nearer to a beginning of its task than all but this share of the poses in the middle
# of the episodes, of which so many are compared; and was not before the jump.
AS_NEAR, POSES = 0.05, 8


class Jump(Check):
    """
    A jump of many dimensions at once between two frames that no other episode has.

    Why it harms: the policy learns that the robot can be somewhere else at once.

    Example: two takes were joined into one episode, or a piece in the middle was cut out. If the robot was set back to
    where the episodes of its task begin, the finding covers all frames before the jump: an abandoned take.

    What to do: split the episode at the jump, and keep the parts that are complete. Leave an abandoned take out.

    Limits: takes joined where the robot is at the same place leave no jump. A pause of the recording explains a jump.
    A single dimension that jumps is not a seam.
    """

    name, unit = "state/jump", "std"
    reads = ("state", "action")
    action = "split the episode between these frames"
    rule = True
    material = 0.3

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = {name: moving_dimensions(getattr(context.signals, name)) for name in ("state", "action")}
        self._own = {}
        for name in ("state", "action"):
            largest = [
                self._sizes(e, name)[STALE : len(e) - 1 - STALE].max(axis=0, initial=0)
                for e in context.signals.episodes
            ]
            self._own[name] = FACTOR * np.quantile(largest, USUAL, axis=0)
        self._beginnings = np.stack([self._pose(episode, 0) for episode in context.signals.episodes])
        self._task = np.array([episode.task for episode in context.signals.episodes])
        middle = [
            self._from_beginning(episode, int(first))
            for episode in context.signals.episodes
            for first in np.linspace(0.35, 0.75, POSES) * len(episode)
        ]
        self._near = float(np.quantile(middle, AS_NEAR, method="lower"))

    def measure(self, view: View) -> Measurement:
        episode = view.episode
        state, action = (self._beyond(episode, name) for name in ("state", "action"))
        # The first frames are often stale.
        inner = state[STALE : len(episode) - 1 - STALE]
        if not len(inner):
            return {EVENT: Candidates.events([], [], [])}
        at = int(inner.argmax()) + STALE
        command = float(action[max(at - 1, 0) : at + 2].max())
        if state[at] > 0 and self._is_set_back(episode, at):
            return {EVENT: Candidates.events([0], [at + 1], [state[at]], [command])}
        return {EVENT: Candidates.events([at], [at + 2], [state[at]], [command])}

    def cause(self, found: Found) -> str:
        if found.stop - found.first > 2:
            return (
                f"after these frames the state jumps by {found.amount:.2f} standard deviations, to where episodes of "
                "this task begin: an abandoned take"
            )
        if found.detail > COMMANDS:
            return (
                f"state and commands jump between two frames, by {found.amount:.2f} standard deviations: joined takes"
            )
        return f"the state jumps between two frames, by {found.amount:.2f} standard deviations: frames are missing"

    def plants(self) -> Sequence[Plant]:
        return [Plant("the second half of another episode", _join, partial=False)]

    def _pose(self, episode: Episode, first: int) -> np.ndarray:
        """Where the robot is in the frames from `first` on, `(d,)`; the first frames of an episode are often stale."""
        return np.median(episode.state[first : first + 2 * STALE + 1, self._used["state"]], axis=0)

    def _from_beginning(self, episode: Episode, first: int) -> float:
        """Root mean square distance of a pose to the nearest beginning of another episode of the task."""
        others = self._task == episode.task
        others[episode.position] = False
        square = (self._beginnings[others] - self._pose(episode, first)) ** 2
        return float(np.sqrt(square.mean(axis=1).min(initial=np.inf))) if square.shape[1] else np.inf

    def _is_set_back(self, episode: Episode, at: int) -> bool:
        """Whether the robot is at a beginning of its task after the step from frame `at`, and was elsewhere before."""
        before = self._from_beginning(episode, max(at - 2 * STALE, 0))
        return self._from_beginning(episode, at + 1) < self._near < before

    def _sizes(self, episode: Episode, name: str) -> np.ndarray:
        """What each step jumps beyond the motion around it, and does not take back, `(T - 1, d)`."""
        values = getattr(episode, name)[:, self._used[name]]
        if len(values) <= 2 * REACH + 2:
            return np.zeros((max(len(values) - 1, 0), values.shape[1]))
        gap = np.diff(episode.seconds) * self.context.fps
        step = np.diff(values, axis=0)
        speed = neighbours(step / np.maximum(gap, 0.2)[:, None], REACH)
        usual = median_of(speed[:REACH] + speed[REACH + 1 :])
        before = np.maximum(np.arange(len(step)) - REACH, 0)
        after = np.minimum(np.arange(len(step)) + 1 + REACH, len(values) - 1)
        lasting = (
            values[after]
            - values[before]
            - usual * ((episode.seconds[after] - episode.seconds[before]) * self.context.fps)[:, None]
        )
        size = np.minimum(np.abs(step - usual * gap[:, None]), np.abs(lasting))
        scale = getattr(self.context.signals, name)
        wrapped = _wraps(values * scale.unit[self._used[name]] + scale.centre[self._used[name]])
        return np.where((gap >= PAUSE)[:, None] | wrapped, 0.0, size)

    def _beyond(self, episode: Episode, name: str) -> np.ndarray:
        """
        Root mean square of what each step jumps beyond the usual, `(T - 1,)`, without the dimension that jumps most;
        0 where few dimensions jump.
        """
        sizes = self._sizes(episode, name)
        # An episode that jumps all the time, as with other units, has no seam.
        often = OFTEN * np.quantile(sizes, 0.9, axis=0) if len(sizes) else self._own[name]
        square = np.clip(sizes - np.maximum(self._own[name], often), 0.0, CAP) ** 2
        rest = square.sum(axis=1) - square.max(axis=1, initial=0.0) if square.shape[1] > 1 else square.sum(axis=1)
        many = (square > 0).mean(axis=1) >= LEAST_SHARE if square.shape[1] else np.zeros(len(square), dtype=bool)
        return np.where(many, np.sqrt(np.maximum(rest, 0.0) / max(square.shape[1] - 1, 1)), 0.0)


def _wraps(raw: np.ndarray) -> np.ndarray:
    """Steps of raw values `(T, d)` that are a turn of an angle or another sign of a quaternion, `(T - 1, d)` bool."""
    step = np.abs(np.diff(raw, axis=0))
    wrapped = np.abs(raw[1:] + raw[:-1]) < CLOSE * step
    for turn in TURNS:
        wrapped |= np.abs(step - turn) < CLOSE * turn
    return wrapped


def _join(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    other = other_episode(episode, context.signals.episodes, rng)
    half, begin = len(episode) // 2, len(other) // 2
    state, action = (
        np.concatenate([getattr(episode, name)[:half], getattr(other, name)[begin:]]) for name in ("state", "action")
    )
    length = len(state)
    return Episode(
        state,
        action,
        np.arange(length) / context.fps,
        np.zeros(length, dtype=np.int64),
        episode.position,
        episode.task,
    )
