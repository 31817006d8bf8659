"""What the planted faults of the atlas are made of: a dataset's episodes, their units, sensor noise and lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hf_ptr.detection.planting import resample

# Least correlation of a command with the state that follows it, for the two to count as a pair.
PAIRED = 0.6
# Least correlation of the steps of two states, for one to be a copy of the other.
COPIED = 0.99


class Altered(NamedTuple):
    """
    An episode with a fault.

    Attributes:
        state, action: `(T, d)`, raw units; T may differ from the original's.
        frames: `(T,)` bool, the faulty frames, for faults with an extent; None for the whole episode.
        instruction: its instruction, if it changed.
        partner: another episode that is as suspect as this one, such as the original of a copy; it is left out of
            the figures.
        seconds: `(T,)` times of the frames, if they are neither the original's nor regular.
    """

    state: np.ndarray
    action: np.ndarray
    frames: np.ndarray | None = None
    instruction: str | None = None
    partner: int | None = None
    seconds: np.ndarray | None = None


@dataclass(frozen=True)
class Material:
    """
    What a fault may use.

    Attributes:
        states, actions: the episodes, each `(T, d)`, raw units.
        seconds: times of their frames, each `(T,)`.
        instructions: that of each episode.
        state_unit, action_unit: `(d,)` standard deviation within an episode; 0 for resting dimensions.
        state_noise, action_noise: `(d,)` noise of the recording.
        fps: frames per second.
        lead: frames from a command to the state that fits it best.
        velocity: whether the command is a velocity.
        slope: by the number of a dimension whose command and state are a pair, command per unit of the state, or of
            its step from frame to frame if the command is a velocity.
        copies: by the number of another state dimension that repeats a paired one, now or from the frame before, as
            in a stacked state: the paired dimension, the delay in frames and the scale.
        two_valued: `(d,)` bool, action dimensions with two values.
    """

    states: list[np.ndarray]
    actions: list[np.ndarray]
    seconds: list[np.ndarray]
    instructions: list[str]
    state_unit: np.ndarray
    action_unit: np.ndarray
    state_noise: np.ndarray
    action_noise: np.ndarray
    fps: float
    lead: int
    velocity: bool
    slope: dict[int, float]
    copies: dict[int, tuple[int, int, float]]
    two_valued: np.ndarray

    @classmethod
    def of(
        cls,
        states: list[np.ndarray],
        actions: list[np.ndarray],
        seconds: list[np.ndarray],
        instructions: list[str],
        fps: float,
    ) -> Material:
        """The material of a dataset's episodes."""
        units, noises = [], []
        for parts in (states, actions):
            spread = np.array([part.std(axis=0) for part in parts])
            unit = np.maximum(np.median(spread, axis=0), 0.3 * np.sqrt((spread**2).mean(axis=0)))
            units.append(np.where(unit > 0.25 * np.quantile(unit[unit > 0], 0.75), unit, 0.0))
            # Half of the second difference's spread where the robot is slowest: sensor noise and little else.
            second = [np.abs(np.diff(part, n=2, axis=0)) for part in parts if len(part) > 4]
            noises.append(np.quantile(np.concatenate(second), 0.25, axis=0) / 0.8)
        lead, velocity, slope = _pairing(states, actions, units, fps)
        two_valued = np.array([len(np.unique(column)) <= 3 for column in np.concatenate(actions).T])
        copies = _copies(states, units[0], sorted(slope))
        return cls(
            states, actions, seconds, instructions, *units, *noises, fps, lead, velocity, slope, copies, two_valued
        )

    def donor(self, number: int, rng: np.random.Generator) -> int:
        """Another episode, at random."""
        return int((number + rng.integers(1, len(self.actions))) % len(self.actions))

    def sensed(self, state: np.ndarray, action: np.ndarray, rng: np.random.Generator, share: float = 0.3) -> Altered:
        """Fresh sensor noise, so that no frame repeats another exactly; two-valued commands keep their values."""
        noise = np.where(self.two_valued, 0.0, self.action_noise)
        return Altered(
            state + rng.normal(0, share * self.state_noise, state.shape),
            action + rng.normal(0, share * noise, action.shape),
        )

    def warped(self, number: int, at: np.ndarray, rng: np.random.Generator) -> Altered:
        """
        The same way at other times: at frame t the robot is where it was at frame `at[t]`.

        A command keeps its lead over the state, since it is given for a time of the world and not of the task. A
        position is the state that follows `lead` frames later and a rest. Where the lead is another one, a part of the
        rest is proportional to the speed and changes its sign with the direction. The other part stays: a finger that
        presses on something does so at any speed. A velocity is multiplied by the speed.
        """
        state, action = self.states[number], self.actions[number]
        # The command of a frame has its effect `lead` frames later.
        effect = np.concatenate([at[self.lead :], np.full(min(self.lead, len(at)), at[-1])])
        speed = np.gradient(effect)
        command = resample(action, effect - self.lead)
        for d, slope in self.slope.items():
            if self.velocity:
                command[:, d] *= speed
                continue
            aim = slope * state[:, d : d + 1]
            rest = action[:, d : d + 1] - resample(aim, np.arange(len(action)) + self.lead)
            few = max(1, round(0.15 * self.fps))
            slow, way = smooth(rest - np.median(rest), few), smooth(np.gradient(aim, axis=0), few)
            moved = way * float((way * slow).sum() / max((way**2).sum(), 1e-12))
            change = (speed - 1)[:, None] * resample(moved, effect)
            command[:, d] = (resample(aim, effect) + resample(rest, effect - self.lead) + change)[:, 0]
        command[:, self.two_valued] = action[np.clip(np.round(at), 0, len(action) - 1).astype(int)][:, self.two_valued]
        # A frame that took long when it was recorded takes long again.
        passed = np.diff(self.seconds[number])
        shown = np.clip(np.floor((at[:-1] + at[1:]) / 2), 0, len(passed) - 1).astype(int)
        times = self.joined_times(np.where(np.diff(at) != 0, passed[shown], 1 / self.fps))
        return self.sensed(resample(state, at), command, rng)._replace(seconds=times)

    def joined_times(self, *steps: np.ndarray) -> np.ndarray:
        """Times of frames from the seconds between them."""
        return np.concatenate([[0.0], np.cumsum(np.concatenate(steps))])

    def moved(self, state: np.ndarray, action: np.ndarray, change: np.ndarray) -> Altered | None:
        """
        The robot moved by `change` `(T, ds)` from its way, and commanded so; None where no command has its state.

        Only changes of states that are the pair of a command are made, and those of their copies.
        """
        if not self.slope:
            return None
        state, action = state.copy(), action.copy()
        for d, (original, delay, scale) in self.copies.items():
            state[:, d] += scale * np.concatenate([change[:1], change])[1 - delay :][: len(change), original]
        for d, slope in self.slope.items():
            ahead = np.concatenate([change[self.lead :, d], np.full(min(self.lead, len(change)), change[-1, d])])
            state[:, d] += change[:, d]
            action[:, d] += slope * (np.gradient(ahead) if self.velocity else ahead)
        return Altered(state, action)


Fault = Callable[[np.ndarray, np.ndarray, int, Material, np.random.Generator], "tuple | None"]


def smooth(values: np.ndarray, frames: int) -> np.ndarray:
    """Moving average of `(T,)` or `(T, d)` over `2 * frames + 1` frames."""
    table = values.reshape(len(values), -1)
    total = np.cumsum(np.pad(table, ((frames + 1, frames), (0, 0)), mode="edge"), axis=0)
    return ((total[2 * frames + 1 :] - total[: -2 * frames - 1]) / (2 * frames + 1)).reshape(values.shape)


def busy_dimensions(
    values: np.ndarray, unit: np.ndarray, rng: np.random.Generator, count: int = 1, least: float = 0.6
) -> np.ndarray:
    """
    Dimensions that move in this episode, drawn at random; two-valued ones only where there are no others.

    The detection chooses the dimensions of its own planted faults by another rule, on which the figures do not depend.
    """
    moved = np.flatnonzero((unit > 0) & (values.std(axis=0) >= least * unit))
    two_valued = np.array([len(np.unique(values[:, d])) <= 3 for d in moved], dtype=bool)
    moved = moved[~two_valued] if (~two_valued).any() else moved
    return rng.choice(moved, min(count, len(moved)), replace=False)


def _pairing(
    states: list[np.ndarray], actions: list[np.ndarray], units: list[np.ndarray], fps: float
) -> tuple[int, bool, dict[int, float]]:
    """
    Frames from a command to the state that fits it best, whether it is a velocity, and the slopes of the pairs.

    Columns pair by position.
    """
    width = min(states[0].shape[1], actions[0].shape[1])
    used = np.flatnonzero((units[0][:width] > 0) & (units[1][:width] > 0))
    if not len(used):
        return 0, False, {}
    best: tuple[float, int, bool] = (-1.0, 0, False)
    found: dict[int, float] = {}
    for lead in range(max(2, round(0.5 * fps))):
        for velocity in (False, True):
            products = []
            for state, action in zip(states, actions, strict=True):
                target = np.gradient(state[:, used], axis=0) if velocity else state[:, used]
                if len(state) > 2 * lead + 8:
                    a, b = action[3 : len(action) - lead - 3, used], target[3 + lead : len(state) - 3]
                    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
                    products.append([(a * b).sum(axis=0), (a**2).sum(axis=0), (b**2).sum(axis=0)])
            ab, aa, bb = np.moveaxis(np.array(products), 1, 0)
            fit = ab / np.sqrt(aa * bb + 1e-12)
            if float(np.median(fit)) > best[0]:
                best = (float(np.median(fit)), lead, velocity)
                slope = ab.sum(axis=0) / np.maximum(bb.sum(axis=0), 1e-12)
                good = np.median(fit, axis=0) > PAIRED
                found = {int(d): float(k) for d, k, kept in zip(used, slope, good, strict=True) if kept}
    return best[1], best[2], found


def _copies(states: list[np.ndarray], unit: np.ndarray, paired: list[int]) -> dict[int, tuple[int, int, float]]:
    """State dimensions whose steps are those of a paired one, now or in the frame before, up to a scale."""
    found: dict[int, tuple[int, int, float]] = {}
    steps = [np.diff(state, axis=0) for state in states if len(state) > 4]
    others = [d for d in np.flatnonzero(unit > 0).tolist() if d not in paired]
    for delay in (0, 1):
        ahead = np.concatenate([part[: len(part) - delay] for part in steps])
        behind = np.concatenate([part[delay:] for part in steps])
        for d in others:
            for original in paired:
                a, b = ahead[:, original], behind[:, d]
                product = a @ b
                if product**2 > COPIED**2 * (a @ a) * (b @ b):
                    found[d] = (original, delay, float(product / (a @ a)))
    return found
