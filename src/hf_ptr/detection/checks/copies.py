"""Episodes that are copies of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import other_episode
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Points in time at which episodes are compared.
POINTS = 64
# Frames by which the lengths of copies may differ.
LENGTH = 3
# Variance of the steps of a difference, as a share of its variance, above which it is noise.
NOISE = 0.7


class Copies(Check):
    """
    An episode that is a copy of another, up to noise.

    Why it harms: the copy counts twice, and leaks from training into evaluation.

    Example: a dataset was merged with an older version of itself.

    What to do: keep one of the two.

    Limits: demonstrations of one script may be as similar as copies; then none is reported.
    """

    name, unit = "episode/copy", "doublings"
    action = "keep one of the two episodes"
    material = 2.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._signatures = np.stack([self._signature(episode) for episode in context.signals.episodes])
        distance, _ = self._nearest(self._signatures, np.arange(len(self._signatures)))
        self._usual = max(float(np.median(distance)), 1e-6)

    def measure(self, view: View) -> Measurement:
        position = view.episode.position
        distance, nearest = self._nearest(self._signature(view.episode)[None], np.array([position]))
        amount = max(0.0, float(np.log2(self._usual / max(distance[0], 1e-6))))
        if not self._differs_by_noise(view.episode, self.context.signals.episodes[nearest[0]]):
            amount = 0.0
        return {EVENT: Candidates.events([0], [len(view.episode)], [amount], [float(nearest[0])])}

    def cause(self, found: Found) -> str:
        return f"a copy of episode {self.context.signals.episode_index[int(found.detail)]}"

    def plants(self) -> Sequence[Plant]:
        return [Plant("a copy of another episode", _copy, partial=False)]

    def _signature(self, episode: Episode) -> np.ndarray:
        signals = self.context.signals
        values = np.concatenate(
            [episode.state[:, signals.state.moves], episode.action[:, signals.action.moves]], axis=1
        )
        rows = np.linspace(0, len(values) - 1, POINTS)
        low = np.floor(rows).astype(np.int64)
        high = np.minimum(low + 1, len(values) - 1)
        return (values[low] + (values[high] - values[low]) * (rows - low)[:, None]).astype(np.float32).reshape(-1)

    def _nearest(self, some: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Root mean square distance to the nearest other episode, and its position; each `(n,)`."""
        square = (self._signatures**2).sum(axis=1)
        distance = square[None] + (some**2).sum(axis=1)[:, None] - 2 * some @ self._signatures.T
        distance = np.maximum(distance, 0.0) / max(some.shape[1], 1)
        distance[np.arange(len(some)), positions] = np.inf
        best = distance.argmin(axis=1)
        return np.sqrt(distance[np.arange(len(some)), best]), best

    def _differs_by_noise(self, one: Episode, other: Episode) -> bool:
        """Two similar recordings differ smoothly; copies by nothing or by noise."""
        if abs(len(one) - len(other)) > LENGTH:
            return False
        length = min(len(one), len(other))
        difference = (one.state[:length] - other.state[:length])[:, self.context.signals.state.moves]
        spread = difference.var(axis=0).sum()
        return bool(spread < 1e-12 or np.diff(difference, axis=0).var(axis=0).sum() > NOISE * spread)


def _copy(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    other = other_episode(episode, context.signals.episodes, rng)
    # The copy's place is that of the original, so that it is not compared with what it replaces.
    return Episode(other.state, other.action, other.seconds, other.stretch, episode.position, other.task)
