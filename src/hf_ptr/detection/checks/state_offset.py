"""States that are shifted by a constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.redundancy import StateModel
from hf_ptr.detection.signals import Episode

# Parts of the episode that must all have the shift.
PARTS = 3
# Usual sizes of the residual that the shift must exceed in each part, and more in few episodes: below, sound episodes
# have it as well.
LEAST_SIGMAS = 2.5
# Usual sizes of a residual that a shift of one dimension may leave in another one. An episode in which more is
# unusual, such as another variant of the task, is not shifted.
MOST_LEFT = 3.0


class StateOffset(Check):
    """
    A dimension of the state that is shifted by a constant against what the other dimensions and the command imply.

    Why it harms: the same pose has two sets of numbers, and the policy misses by the difference.

    Example: an encoder lost its zero at power-on, for one episode.

    What to do: subtract the shift from the state column, or leave the episode out.

    Limits: a shift of most episodes cannot be seen, and neither is one of a dimension that does not follow from the
    others, or in a part of an episode. Of several shifted dimensions none is named. Where one dimension follows from
    another alone, either of the two may be named; where a command follows the state, a shift of the command may be
    reported as one of the state.
    """

    name, unit = "state/offset", "std"
    reads = ("state", "action")
    action = "subtract the shift from this dimension of the state, or leave the episode out"
    material = 0.2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._model = StateModel(context.signals, commands=True)
        self._least = LEAST_SIGMAS * (1 + 1 / np.sqrt(len(context.signals.episodes)))

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        scale = context.signals.state
        return None if (scale.moves & ~scale.two_valued).sum() > 1 else "fewer than two dimensions of the state move"

    def measure(self, view: View) -> Measurement:
        residual = self._model.residual(view.episode)
        if not residual.shape[1] or not view.windows:
            return {}
        windows = view.windows[-1]
        rows = slice(int(windows.first[0]), int(windows.stop[0]))
        means = np.stack([part.mean(axis=0) for part in _thirds(view.episode.state[rows], residual[rows])])
        mean = means.mean(axis=0)
        alike = (np.sign(means) == np.sign(mean)).all(axis=0)
        # A shift of one dimension is in the residuals of all; it is largest next to its own deviation.
        clearest = np.abs(mean) / self._model.sigma
        chosen = int(clearest.argmax())
        alike &= np.arange(len(mean)) == chosen
        left = mean - mean[chosen] * self._model.of_shift(view.episode)[chosen]
        alike &= bool((np.abs(left) <= MOST_LEFT * self._model.sigma).all())
        least = np.abs(means).min(axis=0)
        amount = np.where(alike & (least > self._least * self._model.sigma), least, 0.0)
        return {windows.scale: Candidates.of(windows, amount[None], mean[None])}

    def cause(self, found: Found) -> str:
        scale = self.context.signals.state
        dimension = self._model.dimensions[found.dimension]
        return f"{scale.names[dimension]} shifted by {found.detail * scale.unit[dimension]:+.3g}"

    def plants(self) -> Sequence[Plant]:
        return [
            Plant(f"one state shifted by {size} standard deviations", _shift(size), partial=False)
            for size in (0.5, 1.0)
        ]


def _thirds(state: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Values `(T, d)` of three parts with as much motion of the state each: a pause is in one of them."""
    steps = np.abs(np.diff(state, axis=0, prepend=state[:1])).sum(axis=1) + 1e-9
    path = np.cumsum(steps)
    edges = np.searchsorted(path, path[-1] * np.arange(1, PARTS) / PARTS)
    # Each part has a frame at least, even where all motion is in one step.
    order = np.arange(1, PARTS)
    edges = np.maximum.accumulate(np.maximum(edges, 1) - order) + order
    return np.split(values, np.minimum(edges, len(values) - PARTS + order))


def _shift(size: float):
    def make(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        state = episode.state.copy()
        chosen = busy_dimensions(state, context.signals.state, rng)
        state[:, chosen] += size * rng.choice([-1.0, 1.0])
        return episode.with_signals(state=state) if len(chosen) else None

    return make
