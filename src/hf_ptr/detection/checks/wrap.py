"""One dimension of the state that leaves the range of its encoder and enters it at the other end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# A wrap is a step of at least this share of the range of the dimension over all episodes but the outermost: an encoder
# has a larger range than the motion.
RANGE = 0.8
OUTER = 0.1
# It is so many times as large as the largest step of most episodes; up to three in ten may be faulty.
USUAL, FACTOR = 0.67, 4.0
# Frames on either side between which it stays: a spike comes back at once.
STAYS = 3
# Most dimensions that leap at once.
ALONE = 2


class Wrap(Check):
    """
    One dimension of the state that leaps by about its whole range and stays there, as an encoder that wraps around.

    Why it harms: the policy sees a place where the robot is not, and learns a leap.

    Example: a joint passes half a turn in three of fifty episodes, and its angle leaps from pi to -pi.

    What to do: add the range of the encoder to the frames after the leap, and subtract it after the leap back.

    Limits: where most episodes have such leaps, they belong to the signal. A leap at either end of the episode is not
    distinguished from a stale frame.
    """

    name, unit = "state/wrap", "std"
    reads = ("state",)
    rule = True
    action = "add the range of the encoder to these frames, or leave them out"
    material = 1.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._used = moving_dimensions(signals.state)
        inner = [episode.state[STALE:-STALE, self._used] for episode in signals.episodes if len(episode) > 4 * STALE]
        if not inner or not len(self._used):
            self._used, self._least = self._used[:0], np.empty(0)
            return
        steps = np.quantile([np.abs(np.diff(part, axis=0)).max(axis=0) for part in inner], USUAL, axis=0)
        # The range of the sound episodes: a wrapped one has another.
        low = np.quantile([part.min(axis=0) for part in inner], OUTER, axis=0)
        high = np.quantile([part.max(axis=0) for part in inner], 1 - OUTER, axis=0)
        self._least = np.maximum(RANGE * (high - low), FACTOR * steps)

    def measure(self, view: View) -> Measurement:
        state = view.episode.state[:, self._used]
        found: list[tuple[int, int, float, int]] = []
        if len(state) > 4 * STALE:
            steps = np.diff(state, axis=0)
            leaps = np.abs(steps) > np.maximum(self._least, self.material)
            # Where many dimensions leap, takes were joined.
            leaps &= ((np.abs(steps) > 0.5 * self._least).sum(axis=1) <= ALONE)[:, None]
            for at, column in zip(*np.nonzero(leaps), strict=True):
                if STALE <= at < len(steps) - STALE and self._stays(state[:, column], int(at)):
                    found.append((int(at) + 1, len(state), float(abs(steps[at, column])), int(column)))
        if not found:
            return {EVENT: Candidates.events([], [], [])}
        first, _, amount, column = zip(*found, strict=True)
        # A wrap lasts until the next one of its dimension.
        later = [
            [f for f, c in zip(first, column, strict=True) if c == own and f > at]
            for at, own in zip(first, column, strict=True)
        ]
        stop = [min(others, default=len(state)) for others in later]
        detail = [float(self._used[c]) for c in column]
        return {EVENT: Candidates.events(first, stop, amount, detail)}

    @staticmethod
    def _stays(values: np.ndarray, at: int) -> bool:
        """Whether the leap after a frame is still there a few frames later."""
        before, after = values[max(0, at + 1 - STAYS) : at + 1], values[at + 1 : at + 1 + STAYS]
        leap = values[at + 1] - values[at]
        return bool(np.abs(np.subtract.outer(after, before) - leap).max() < 0.5 * abs(leap))

    def cause(self, found: Found) -> str:
        scale = self.context.signals.state
        dimension = int(found.detail)
        return f"{scale.names[dimension]} leaps by {found.amount * scale.unit[dimension]:.3g} and stays there"

    def plants(self) -> Sequence[Plant]:
        return [Plant("one state wraps around", self._wrap, partial=False)]

    def _wrap(self, episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        state = episode.state.copy()
        inside = slice(len(state) // 4, len(state) * 3 // 4)
        for dimension in busy_dimensions(state, context.signals.state, rng):
            column = np.flatnonzero(self._used == dimension)
            if not len(column):
                return None
            state[inside, dimension] -= 2 * max(float(self._least[column[0]]), self.material)
            return episode.with_signals(state=state)
        return None
