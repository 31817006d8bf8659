"""Commands that are shifted by a constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import running_sums

MATERIAL = 0.2
# Least share of a window's frames that the mean of those that move is taken over.
LEAST_MOVING = 0.8


class Offset(Check):
    """
    A dimension of the command that is shifted by a constant against what the state implies.

    Why it harms: the policy learns targets next to the right ones, and misses.

    Example: the zero of a joint was calibrated anew between two sessions.

    What to do: subtract the offset from the action column, or leave the episodes out.

    Limits: an offset of most episodes cannot be seen. Under velocity or relative commands, an offset of the state
    cannot be seen.
    """

    name, unit = "action/offset", "std"
    reads = ("state", "action")
    action = "subtract the offset from this dimension of the actions, or leave the frames out"
    material = MATERIAL

    def measure(self, view: View) -> Measurement:
        # A frame that lasts is not more evidence: where nothing moves, the error of one moment is not a shift.
        moving = view.moving
        residual = np.where(moving[:, None], view.prediction.action - view.prediction.expected, 0.0)
        found: Measurement = {}
        sums, squares, count = running_sums(residual), running_sums(residual**2), running_sums(moving.astype(float))
        for windows in view.windows:
            share = np.maximum(windows.mean_of(count), LEAST_MOVING)[:, None]
            mean = windows.mean_of(sums) / share
            # A shift is constant: the rest of the residual must be small next to it.
            rest = np.sqrt(np.maximum(windows.mean_of(squares) / share - mean**2, 0.0))
            amount = np.where(self.context.model.known, np.maximum(np.abs(mean) - 0.5 * rest, 0.0), 0.0)
            amount *= self.context.model.trust(view.episode)
            found[windows.scale] = Candidates.of(windows, amount, mean)
        return found

    def cause(self, found: Found) -> str:
        name = self.context.model.names[found.dimension]
        raw = found.detail * self.context.model.unit[found.dimension]
        return f"commands of {name} shifted by {raw:+.3g}"

    def plants(self) -> Sequence[Plant]:
        return [Plant(f"one dimension shifted by {size} standard deviations", _shift(size)) for size in (0.5, 1.0)]


def _shift(size: float):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        action = episode.action.copy()
        chosen = busy_dimensions(action, context.signals.action, rng)
        action[:, chosen] += size * rng.choice([-1.0, 1.0])
        return episode.with_signals(action=action) if len(chosen) else None

    return make
