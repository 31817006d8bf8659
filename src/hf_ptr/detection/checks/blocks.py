"""Blocks of consecutive episodes with another unit, polarity, gain, zero or lag than the others of their tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_ptr.detection.changes import Change, find_change
from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, View
from hf_ptr.detection.lag_words import lag_words
from hf_ptr.detection.planting import resample
from hf_ptr.detection.redundancy import StateModel
from hf_ptr.detection.signals import Scale
from hf_ptr.detection.windows import EVENT, inner_rows

# Least motion of a dimension that is scaled, as a share of its motion in the median episode.
LEAST_MOTION = 0.05
# Points of the path of an episode.
POINTS = 24
# Least episodes that can be compared.
LEAST_EPISODES = 10
# A factor of the motion that another way of doing the task does not explain, as a logarithm to base 2.
UNITS = 1.5
# The same for all dimensions together where no task has episodes on both sides: tasks have different motions.
UNITS_ACROSS = 3.0
# A factor of the commands relative to what the state implies, likewise.
GAIN = 0.4
LEAST_GAIN = 0.2
# Variance of the expected commands below which an episode rests, squared units.
RESTING = 0.05
# Shift of a zero in units.
ZERO = 0.2
# Probability that episodes of two ways to do the task happen to form a block.
ORDER = 0.001
# Amount of a changed polarity, in doublings.
POLARITY = 2.0


@dataclass(frozen=True)
class Block:
    """
    A changed block.

    Attributes:
        change: the episodes.
        amount: in units of the check.
        what: what has changed, in words.
    """

    change: Change
    amount: float
    what: str


class Blocks(Check):
    """A check of consecutive episodes against the others of their tasks; each of the block has a finding."""

    reads = ()
    rule = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._tasks = np.array([episode.task for episode in context.signals.episodes])
        self.blocks = sorted(self._changed(), key=lambda block: -block.amount)
        self._of = [
            next((number for number, block in enumerate(self.blocks) if block.change.inside[position]), None)
            for position in range(len(self._tasks))
        ]

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        count = len(context.signals.episodes)
        return None if count >= LEAST_EPISODES else f"fewer than {LEAST_EPISODES} episodes"

    def measure(self, view: View) -> Measurement:
        number = self._of[view.episode.position]
        if number is None:
            return {EVENT: Candidates.events([], [], [])}
        return {EVENT: Candidates.events([0], [len(view.episode)], [self.blocks[number].amount], [float(number)])}

    def cause(self, found: Found) -> str:
        return self.text(int(found.detail))

    def text(self, number: int) -> str:
        """What has changed in a block, and where."""
        block = self.blocks[number]
        ids = np.array(self.context.signals.episode_index)[block.change.inside]
        last = block.change.inside[-1]
        first = block.change.inside[0]
        where = f"from episode {ids[0]} on" if last and not first else f"in episodes {ids[0]} to {ids[-1]}"
        halves = "; the other half may be the wrong one" if block.change.halves else ""
        return f"{block.what} {where}{halves}"

    @abstractmethod
    def _changed(self) -> Iterator[Block]:
        """The changed blocks."""

    def _find(self, figures: np.ndarray, tests: int, least: float, across_tasks: bool = False) -> Change | None:
        """The change of a figure within tasks, or else across them where it does not begin and end with tasks."""
        change = find_change(figures, self._tasks, tests, least)
        if change is not None or not across_tasks:
            return change
        change = find_change(figures, self._tasks * 0, tests, least)
        if change is None or (np.diff(self._tasks)[np.diff(change.inside.astype(int)) != 0] != 0).all():
            return None
        return change

    def _features(self) -> Iterator[tuple[str, Scale, list[np.ndarray]]]:
        signals = self.context.signals
        yield "state", signals.state, [episode.state for episode in signals.episodes]
        yield "action", signals.action, [episode.action for episode in signals.episodes]

    def _responses(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Commands of each episode and those that its state implies, in the dimensions that the model knows."""
        model = self.context.model
        for view in self.context.views:
            # The prediction limits commands to their usual range; those of a changed block may be beyond.
            action = view.episode.action[:, model.dimensions[model.known]]
            yield inner_rows(action), inner_rows(view.prediction.expected[:, model.known])

    def _known(self) -> list[str]:
        model = self.context.model
        return [name for name, known in zip(model.names, model.known, strict=True) if known]


class BlockScale(Blocks):
    """
    Consecutive episodes in another unit, with another gain or with the opposite sign than the others of their tasks.

    Why it harms: the same motion has two sets of numbers, and the policy learns a mixture.

    Example: from episode 120 on, the recorder wrote degrees; before, radians.

    What to do: convert the block to the unit of the others.

    Limits: two halves do not show which one is right, and the later is named. A block that begins and ends with its
    tasks is found only if all dimensions changed. A factor below three is found in commands only, relative to the
    state; another way of doing the task would explain it as well.
    """

    name, unit = "block/scale", "doublings"
    action = "convert these episodes to the unit, gain and sign of the others"
    material = GAIN

    def _changed(self) -> Iterator[Block]:
        for feature, scale, parts in self._features():
            moving = np.flatnonzero(scale.moves)
            if not len(moving):
                continue
            raw = [(inner_rows(part) * scale.unit + scale.centre)[:, moving] for part in parts]
            least = np.maximum(LEAST_MOTION * np.median([np.ptp(part, axis=0) for part in raw], axis=0), 1e-9)
            size = np.log2(np.maximum([np.sqrt((part**2).mean(axis=0)) for part in raw], least))
            spread = np.log2(np.maximum([np.ptp(part, axis=0) for part in raw], least))
            together = np.median(size - np.median(size, axis=0), axis=1)
            change = self._find(together, 2, UNITS) or find_change(together, self._tasks * 0, 2, UNITS_ACROSS)
            if change is not None:
                yield Block(change, abs(change.difference), f"{feature} {_times(change.difference)}")
                continue
            paths = np.stack(
                [
                    resample(inner_rows(part)[:, moving], np.linspace(0, len(inner_rows(part)) - 1, POINTS))
                    for part in parts
                ]
            )
            slopes = self._slopes(paths)
            for column, dimension in enumerate(moving):
                what = f"{feature} {scale.names[dimension]}"
                change = self._find(spread[:, column], 2 * len(moving), UNITS)
                # Where a dimension rests on one side, nothing is scaled.
                rests = spread[:, column] < np.log2(2 * least[column])
                if change is not None and not _either(rests, change):
                    yield Block(change, abs(change.difference), f"{what} {_times(change.difference)}")
                change = self._find(slopes[:, column], 2 * len(moving), 1.0)
                if change is not None and self._opposite(slopes[:, column], change):
                    yield Block(change, POLARITY, f"{what} with the opposite sign")
        yield from self._gains()

    def _slopes(self, paths: np.ndarray) -> np.ndarray:
        """Slope `(E, d)` of the paths `(E, n, d)` of episodes on the median path of their task."""
        slopes = np.zeros((len(paths), paths.shape[2]))
        for task in np.unique(self._tasks):
            members = self._tasks == task
            centred = paths[members] - paths[members].mean(axis=1, keepdims=True)
            usual = np.median(centred, axis=0)
            power = (usual**2).sum(axis=0)
            slope = (centred * usual).sum(axis=1) / np.maximum(power, 1e-9)
            slopes[members] = np.where(power > 0.05 * POINTS, slope, 0.0)
        return slopes

    @staticmethod
    def _opposite(slopes: np.ndarray, change: Change) -> bool:
        # A way of the task in the opposite direction has no place in the order of the recording.
        if change.chance > ORDER:
            return False
        one, other = np.median(slopes[change.inside]), np.median(slopes[~change.inside])
        return bool(one * other < 0 and 0.5 < abs(one / other) < 2 and min(abs(one), abs(other)) > 0.4)

    def _gains(self) -> Iterator[Block]:
        pairs = [(a - a.mean(axis=0), e - e.mean(axis=0), e.var(axis=0)) for a, e in self._responses()]
        # An episode that rests in a dimension shows no gain of it, and counts as the usual one.
        gains = np.array(
            [np.where(v > RESTING, (a * e).mean(axis=0) / np.maximum(v, RESTING), np.nan) for a, e, v in pairs]
        )
        usual = np.ma.median(np.ma.masked_invalid(gains), axis=0).filled(0.0)
        gains = np.where(np.isfinite(gains), gains, usual)
        for column, name in enumerate(self._known()):
            change = self._find(gains[:, column], gains.shape[1], LEAST_GAIN, across_tasks=True)
            if change is None:
                continue
            one, other = np.median(gains[change.inside, column]), np.median(gains[~change.inside, column])
            if one * other < 0 and min(abs(one), abs(other)) > 0.4:
                yield Block(change, POLARITY, f"commands of {name} with the opposite sign")
            elif one * other > 0:
                factor = float(np.log2(one / other))
                yield Block(change, abs(factor), f"commands of {name} {_times(factor)} relative to the state")


class BlockZero(Blocks):
    """
    Consecutive episodes in which the zero of a joint, or of its command, is another one than in the others of their
    tasks.

    Why it harms: the same pose has two sets of numbers, and the policy misses by the difference.

    Example: a joint was calibrated anew after episode 80.

    What to do: subtract the shift from the block.

    Limits: two halves do not show which one is right, and the later is named. A block that begins and ends with its
    tasks is not found, and neither is a shift of a dimension that does not follow from the others.
    """

    name, unit = "block/zero", "std"
    action = "subtract the shift from these episodes"
    material = ZERO

    def _changed(self) -> Iterator[Block]:
        signals, model = self.context.signals, self.context.model
        for commands in (True, False):
            # With the command, a shift of the state alone is seen; without it, one of both together.
            states = StateModel(signals, commands)
            means = np.array([inner_rows(states.residual(episode)).mean(axis=0) for episode in signals.episodes])
            found = self._clearest(means, states.sigma)
            if found is not None:
                column, change = found
                dimension = states.dimensions[column]
                raw = change.difference * signals.state.unit[dimension]
                what = f"zero of state {signals.state.names[dimension]} shifted by {raw:+.3g}"
                yield Block(change, abs(change.difference), what)
                break
        offsets = np.array([(action - expected).mean(axis=0) for action, expected in self._responses()])
        found = self._clearest(offsets, model.sigma[model.known])
        if found is not None:
            column, change = found
            raw = change.difference * model.unit[model.known][column]
            what = f"commands of {self._known()[column]} shifted by {raw:+.3g} relative to the state"
            yield Block(change, abs(change.difference), what)

    def _clearest(self, figures: np.ndarray, sigma: np.ndarray) -> tuple[int, Change] | None:
        """Of the dimensions that changed the one that stands out most, and its change; a shift of one moves others."""
        changes = [self._find(column, figures.shape[1], ZERO) for column in figures.T]
        size = [
            0.0 if change is None else abs(change.difference) / s for change, s in zip(changes, sigma, strict=True)
        ]
        best = int(np.argmax(size)) if size else 0
        change = changes[best] if size else None
        return None if change is None else (best, change)


class BlockLag(Blocks):
    """
    Consecutive episodes whose commands are earlier or later relative to the state than those of the others.

    Why it harms: the policy learns to act before or after the moment that needs the action.

    Example: a new version of the recorder from episode 120 on writes commands two frames later.

    What to do: shift the action column of the block by the lag.

    Limits: the amount is exact for lags that are short next to the motion, and too small for others. Two halves do not
    show which one is right, and the later is named.
    """

    name, unit = "block/lag", "frames"
    action = "shift the actions of these episodes by the lag"

    def __init__(self, context: Context) -> None:
        self.material = max(0.6, 0.03 * context.fps)
        super().__init__(context)

    def _changed(self) -> Iterator[Block]:
        lags = []
        for action, expected in self._responses():
            speed = np.gradient(expected, axis=0) if len(expected) > 2 else expected * 0
            power = (speed**2).sum()
            lags.append(-((action - expected) * speed).sum() / max(power, 1e-9))
        change = self._find(np.array(lags), 1, self.material, across_tasks=True)
        if change is not None:
            yield Block(change, abs(change.difference), f"commands about {lag_words(change.difference)}")


def _either(flags: np.ndarray, change: Change) -> bool:
    """Whether a third of the episodes on either side have a flag."""
    return max(flags[change.inside].mean(), flags[~change.inside].mean()) > 1 / 3


def _times(doublings: float) -> str:
    """A factor in words."""
    return f"times {2**doublings:.3g}"
