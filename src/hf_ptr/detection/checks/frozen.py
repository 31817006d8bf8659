"""States or commands that stand still while the other moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import SLOW, SPAN, moving_dimensions, speeds
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# The shortest stretch that counts, seconds and frames.
SHORTEST = 0.4
LEAST_FRAMES = 4
# Evidence of a stretch that lasts to the end of the episode, where nothing shows how far the robot had moved; and how
# many times longer it must be.
AT_END = 0.5
LONGER_AT_END = 2
# Upper share of frames, by the motion of the other signal, from which the ratio of both speeds is taken.
MOVING = 0.4
# Least correlation of the speed of commands with that of the state for commands to be positions.
POSITIONS = 0.15


class _Frozen(Check):
    """
    Stretches in which one signal stands still while the other moves, and then leaps to where it should be.

    The amount is the distance that the signal missed: the smaller one of the motion that the other signal implies and
    of the leap at the end.

    Attributes:
        fits: correlation of the signal's speed with the other signal's, and, for commands, with their size.
    """

    unit = "std"
    reads = ("state", "action")
    signal: ClassVar[Literal["state", "action"]]
    material = 0.12

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._span = signals.frames(SPAN, 2)
        self._least = signals.frames(SHORTEST, LEAST_FRAMES)
        self._used = {name: moving_dimensions(getattr(signals, name)) for name in ("state", "action")}
        episodes = signals.episodes
        # A velocity of zero is a rest.
        self._rest = -(signals.action.centre / signals.action.unit)[self._used["action"]]
        own = np.concatenate([self._speed(episode, self.signal) for episode in episodes])
        self._usual = float(np.quantile(own, 0.75)) if len(own) else 0.0
        other = np.concatenate([self._motion(episode) for episode in episodes])
        self.fits = tuple(_correlation(column, own) for column in other.T)
        self._kind = int(np.argmax(self.fits))
        motion = other[:, self._kind]
        fast = motion >= np.quantile(motion, 1 - MOVING) if len(motion) else np.zeros(0, dtype=bool)
        self._ratio = float(np.median(own[fast]) / max(np.median(motion[fast]), 1e-9)) if fast.any() else 0.0

    def _speed(self, episode: Episode, name: Literal["state", "action"]) -> np.ndarray:
        return speeds(getattr(episode, name)[:, self._used[name]], self._span)

    def _motion(self, episode: Episode) -> np.ndarray:
        """
        Motion of the other signal in its own units, `(T - span, k)`: its speed, and, as commands may be velocities,
        their size.
        """
        if self.signal == "action":
            return self._speed(episode, "state")[:, None]
        values = episode.action[: -self._span or None, self._used["action"]] - self._rest
        size = np.sqrt((values**2).sum(axis=1) / max(values.shape[1], 1))[: max(len(episode) - self._span, 0)]
        return np.stack([self._speed(episode, "action"), size], axis=1)

    def measure(self, view: View) -> Measurement:
        episode = view.episode
        values = getattr(episode, self.signal)[:, self._used[self.signal]]
        speed = self._speed(episode, self.signal)
        if not len(speed) or not self._usual:
            return {EVENT: Candidates.events([], [], np.empty((0, 2)))}
        missed = np.maximum(self._motion(episode)[:, self._kind] * self._ratio - speed, 0.0)
        steps = np.sqrt((np.diff(values, axis=0) ** 2).mean(axis=1))
        rows = []
        for begin, end in zip(*runs_of(speed < SLOW * self._usual), strict=True):
            last = end + self._span - 1
            # First frames that stand still are stale, which is common and less harmful.
            if begin < STALE or last - begin + 1 < self._least:
                continue
            distance = float(missed[begin:end].sum())
            leap = float(steps[max(last - 2, 0) : last + 3].max()) - self._usual
            inside = last + STALE < len(values)
            if not inside and last - begin + 1 < LONGER_AT_END * self._least:
                continue
            # Rests at the end are compared with each other: a gripper may press on while nothing moves. A short motion
            # of a joint that hardly ever moves does not count.
            steady = AT_END * float(np.median(missed[begin:end])) * (end - begin)
            rows.append((begin, last + 1, max(0.0, min(distance, leap)) * inside, steady * (not inside)))
        table = np.array(rows).reshape(-1, 4)
        return {EVENT: Candidates.events(table[:, 0], table[:, 1], table[:, 2:])}

    def plants(self) -> Sequence[Plant]:
        what = "state" if self.signal == "state" else "commands"
        return [
            Plant(f"the {what} frozen for {seconds:g} s", self._freeze(seconds), partial=False)
            for seconds in (0.6, 1.0)
        ]

    def _freeze(self, seconds: float):
        def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
            frames = context.signals.frames(seconds, LEAST_FRAMES)
            speed = self._speed(episode, self.signal)
            # Where it moves: the freezing of a resting robot is not a fault.
            fast = np.flatnonzero(speed >= self._usual)
            fast = fast[(fast > STALE) & (fast + frames < len(episode) - STALE)]
            if not len(fast):
                return None
            at = int(rng.choice(fast))
            values = getattr(episode, self.signal).copy()
            values[at : at + frames] = values[at]
            return episode.with_signals(**{self.signal: values})

        return make


class FrozenState(_Frozen):
    """
    States that stand still while the commands go on, and then leap to where the robot is.

    Why it harms: the policy sees a robot that does not move, with commands that move it.

    Example: the driver of the robot blocked for a second, and the recorder repeated the last state.

    What to do: leave these frames out, or cut the episode there.

    Limits: the frozen state of a resting robot leaves no trace. Needs commands whose motion the state follows. A state
    that stands still in the first frames only is not reported here.
    """

    name, signal = "state/frozen", "state"
    action = "leave these frames out, or cut the episode there"

    def cause(self, found: Found) -> str:
        return f"the state stands still while the commands move, and misses {found.amount:.2f} standard deviations"


class FrozenCommands(_Frozen):
    """
    Commands that stand still while the robot moves on, and then leap.

    Why it harms: the policy learns to hold a command in the middle of a motion.

    Example: the connection to the leader arm was lost for a second.

    What to do: leave these frames out, or cut the episode there.

    Limits: needs commands that are positions. Velocities and relative commands stand still in a steady motion.
    """

    name, signal = "action/frozen", "action"
    action = "leave these frames out, or cut the episode there"

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        if not all(len(moving_dimensions(scale)) for scale in (context.signals.state, context.signals.action)):
            return "nothing moves"
        as_positions, as_velocities = FrozenState(context).fits
        return None if as_positions > max(POSITIONS, as_velocities) else "the commands are not positions"

    def cause(self, found: Found) -> str:
        return f"the commands stand still while the robot moves, and miss {found.amount:.2f} standard deviations"


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if not len(one):
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / max(np.sqrt((one @ one) * (other @ other)), 1e-12))
