"""A dimension of the command that has a share of another one in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.residual import own_frames
from hf_ptr.detection.majority import sound_quantile
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import WHOLE

# Share of a dimension's variance that the model must explain in the typical episode.
LEAST_EXPLAINED = 0.3
# Least correlation of the difference from the expected command with the other command, beyond what both have in common
# with the expected one.
CORRELATED = 0.8
# Least spread of the other command beyond the same, units, and least frames.
LEAST_SPREAD = 0.3
LEAST_FRAMES = 20.0
# Errors of an expected command, in standard deviations of its residual, that a share may be due to.
ERRORS = 1.5
# Shares that sound episodes have as well, as where two fingers press on each other: multiples of the median of whole
# episodes, for a pair of dimensions; and the least number of episodes that shows it, in which the other one moves.
USUAL, LEAST_KNOWN = 2.0, 10
# At least this part of a share must remain without any half of the episode, where the spread of the other one is above
# the second: otherwise a part of the episode has another fault.
ALIKE, STILL = 0.5, 0.1
# Turn of two commands in the planted fault, degrees.
TURN = 30.0


class Mixed(Check):
    """
    A dimension of the command that has a share of another dimension's command in it.

    Why it harms: the policy learns to move aside where the demonstrator moved straight.

    Example: in one session the operator's frame was turned against that of the robot, so that a push forward also
    moved it sideways.

    What to do: turn the commands back, or leave the episodes out.

    Limits: a share that most episodes have cannot be seen, nor one in a part of an episode, nor that of a dimension
    that hardly moves by itself, or does so in fewer than ten episodes.
    """

    name, unit = "action/mixed", "share"
    reads = ("state", "action")
    action = "separate the two dimensions of the actions, or leave the frames out"
    material = 0.15

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._usual: np.ndarray | float = 0.0
        whole = [self._shares(view, view.windows[-1].rows()[0]) for view in context.views if view.windows]
        if whole:
            share, _, spread = (np.stack(each).reshape(len(whole), -1) for each in zip(*whole, strict=True))
            moves = spread > LEAST_SPREAD
            median = sound_quantile(np.abs(share), moves, 0.5).reshape(whole[0][0].shape)
            self._usual = np.where(moves.sum(axis=0).reshape(median.shape) >= LEAST_KNOWN, USUAL * median, np.inf)

    def measure(self, view: View) -> Measurement:
        model = self.context.model
        trust, count = model.trust(view.episode), len(model.names)
        found: Measurement = {}
        for windows in view.windows:
            # In a few seconds, two commands are often alike by chance.
            shares = np.zeros((2, len(windows.first), count))
            if windows.scale == WHOLE and count > 1:
                own = own_frames(view)[:, None]
                share, clear, spread = self._shares(view, windows.rows()[0], own)
                error = ERRORS * model.sigma[:, None] / np.maximum(spread, LEAST_SPREAD)
                sure = np.where(clear, np.maximum(np.abs(share) - np.maximum(error, self._usual), 0.0), 0.0)
                if sure.any():
                    sure = np.where(self._everywhere(view, share, own), sure, 0.0)
                shares[:, 0] = sure.max(axis=1), sure.argmax(axis=1)
            found[windows.scale] = Candidates.of(windows, shares[0] * trust, shares[1])
        return found

    def _everywhere(self, view: View, share: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Whether the share of the whole episode is there without each of its windows, too, `(d, d)` bool."""
        found = np.ones(share.shape, dtype=bool)
        for windows in view.windows[-2:-1]:
            for rows in windows.rows():
                kept = own.copy()
                kept[rows] = False
                rest, _, spread = self._shares(view, slice(None), kept)
                # Where the other one does not move in the rest, this says nothing.
                found &= (rest / np.where(share, share, np.inf) > ALIKE) | (spread <= STILL)
        return found

    def cause(self, found: Found) -> str:
        names = self.context.model.names
        other = names[int(found.detail)]
        return f"commands of {names[found.dimension]} have {found.amount:.2f} times those of {other} in them"

    def plants(self) -> Sequence[Plant]:
        return [Plant(f"two dimensions turned by {TURN:.0f} degrees", _turn, partial=False)]

    def _shares(
        self, view: View, rows: slice, kept: np.ndarray | float = 1.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        The share of each dimension (column) in each other one (row), whether it means anything, and the spread of the
        other's command, each `(d, d)`; on the diagonal nothing does.
        """
        model, count = self.context.model, len(self.context.model.names)
        free, action, expected = (view.free * kept)[rows], view.prediction.action[rows], view.prediction.expected[rows]
        frames = free.sum(axis=0)
        weight = free / np.maximum(frames, 1.0)

        def mean(values: np.ndarray) -> np.ndarray:
            return (weight * values).sum(axis=0)

        # What dimensions are explained by, and what of it all commands explain, over the free frames of each: `(d,)`
        # and `(d, d)`.
        expected, difference = expected - mean(expected), action - expected - mean(action - expected)
        of_expected, of_difference = mean(expected**2) + 1e-9, mean(difference**2)
        both = mean(expected * difference)
        of_other = weight.T @ action**2 - (weight.T @ action) ** 2
        with_expected, with_difference = (weight * expected).T @ action, (weight * difference).T @ action
        # Without what they have in common with the expected command.
        own = np.maximum(of_difference - both**2 / of_expected, 1e-12)[:, None]
        other = np.maximum(of_other - with_expected**2 / of_expected[:, None], 1e-12)
        common = with_difference - (both / of_expected)[:, None] * with_expected
        spread = np.sqrt(other) * ~np.eye(count, dtype=bool)
        clear = (np.abs(common) > CORRELATED * np.sqrt(own * other)) & (spread > LEAST_SPREAD)
        clear &= ((model.explained > LEAST_EXPLAINED) & (frames >= LEAST_FRAMES))[:, None]
        return common / other, clear, spread


def _turn(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    pair = busy_dimensions(episode.action, context.signals.action, rng, 2)
    if len(pair) < 2:
        return None
    action, turn = episode.action.copy(), np.deg2rad(TURN)
    one, other = (action[:, pair] - action[:, pair].mean(axis=0)).T
    action[:, pair[0]] += (np.cos(turn) - 1) * one - np.sin(turn) * other
    action[:, pair[1]] += np.sin(turn) * one + (np.cos(turn) - 1) * other
    return episode.with_signals(action=action)
