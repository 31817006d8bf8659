"""Commands that are too small or too large, inverted, or dead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.signals import Episode

# Amount of a dead or inverted dimension: as if the gain were 1/8.
MOST = 3.0
# Share of the expected variance below which a dimension is dead.
DEAD = 0.01
# Least correlation of command and expectation for a gain to mean anything.
CORRELATED = 0.8
# Least spread of the expected command in a window, units and standard deviations of the residual.
SPREAD = 0.3
SPREAD_SIGMAS = 2.5
# Units from the limit of a command within which it is at its limit, and least share of a window's other frames.
AT_LIMIT = 0.02
LEAST_FREE = 0.5


class Gain(Check):
    """
    A dimension of the command that is too small, too large, inverted or dead against what the state implies.

    Why it harms: the policy learns to do too little, too much or the opposite.

    Example: degrees and radians in one dataset, a gripper with the other polarity, a joint that was not recorded.

    What to do: rescale or invert the dimension, or leave the episodes out.

    Limits: a gain that most episodes share cannot be seen. Where a dimension rests, it has no gain.
    """

    name, unit = "action/gain", "doublings"
    reads = ("state", "action")
    action = "rescale this dimension of the actions, or leave the frames out"
    material = 0.45

    def measure(self, view: View) -> Measurement:
        action, expected = view.prediction.action, view.prediction.expected
        model = self.context.model
        found: Measurement = {}
        # A command at its limit does not move, and need not.
        free = ((action > model.lowest + AT_LIMIT) & (action < model.highest - AT_LIMIT)).astype(float)
        for windows in view.windows:
            share = windows.mean(free)
            total = np.maximum(share, 1e-9)
            mean_a, mean_e = windows.mean(free * action) / total, windows.mean(free * expected) / total
            var_a = np.maximum(windows.mean(free * action**2) / total - mean_a**2, 0.0)
            var_e = np.maximum(windows.mean(free * expected**2) / total - mean_e**2, 0.0)
            cov = windows.mean(free * action * expected) / total - mean_a * mean_e
            enough = np.sqrt(var_e) > np.maximum(SPREAD, SPREAD_SIGMAS * model.sigma)
            gain = cov / np.maximum(var_e, 1e-9)
            correlation = cov / np.sqrt(np.maximum(var_a * var_e, 1e-12))
            dead = var_a < DEAD * var_e
            size = np.where(gain > 0, np.abs(np.log2(np.maximum(gain, 2.0**-MOST))), MOST)
            size = np.where(dead, MOST, np.where(np.abs(correlation) > CORRELATED, size, 0.0))
            amount = np.where(enough & model.known & (share > LEAST_FREE), size, 0.0)
            found[windows.scale] = Candidates.of(windows, amount, np.where(dead, 0.0, gain))
        return found

    def cause(self, found: Found) -> str:
        name = self.context.model.names[found.dimension]
        if found.detail == 0:
            return f"commands of {name} do not move, though the robot does"
        kind = "inverted, gain" if found.detail < 0 else "with gain"
        return f"commands of {name} {kind} {found.detail:.2f}"

    def plants(self) -> Sequence[Plant]:
        return [
            Plant("all commands with gain 0.5", _all(0.5)),
            Plant("all commands with gain 2", _all(2.0)),
            Plant("one dimension with gain 0.5", _one(0.5)),
            Plant("one dimension inverted", _one(-1.0)),
            Plant("one dimension dead", _one(0.0)),
        ]


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    middle = values.mean(axis=0)
    return middle + factor * (values - middle)


def _all(factor: float):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del rng
        scale = context.signals.action
        return episode.with_signals(
            action=np.where(scale.moves & ~scale.two_valued, _scaled(episode.action, factor), episode.action)
        )

    return make


def _one(factor: float):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        action = episode.action.copy()
        chosen = busy_dimensions(action, context.signals.action, rng)
        action[:, chosen] = _scaled(action[:, chosen], factor)
        return episode.with_signals(action=action) if len(chosen) else None

    return make
