"""Episodes in which nothing moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.motion import medians_by_task, moving_dimensions
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT, inner_rows

# Noise of a planted episode without motion, units.
NOISE = 0.01


class NoMotion(Check):
    """
    An episode in which the robot hardly moves, though it does in the others of its task.

    Why it harms: the policy learns to do nothing from a start that is like all others.

    Example: the recording was started by mistake, with the robot switched off.

    What to do: leave the episode out.

    Limits: an episode with an eighth of the usual motion is reported, and one with a quarter of it is not.
    """

    name, unit = "time/no_motion", "doublings"
    rule = True
    reads = ("state",)
    action = "leave the episode out"
    material = 3.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = moving_dimensions(context.signals.state)
        episodes = context.signals.episodes
        self._usual = medians_by_task(episodes, [self._extent(episode) for episode in episodes])

    def _extent(self, episode: Episode) -> float:
        values = inner_rows(episode.state)
        return float(np.sqrt(values[:, self._used].var(axis=0).sum()))

    def measure(self, view: View) -> Measurement:
        usual, own = self._usual[view.episode.task], self._extent(view.episode)
        amount = max(0.0, float(np.log2((usual + 1e-12) / (own + 1e-12))))
        return {EVENT: Candidates.events([0], [len(view.episode)], [amount])}

    def cause(self, found: Found) -> str:
        return f"the robot hardly moves: {2.0**-found.amount:.1%} of the usual motion"

    def plants(self) -> Sequence[Plant]:
        return [Plant("an episode without motion", _stand, partial=False)]


def _stand(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del context
    noise = [rng.normal(0, NOISE, values.shape) for values in (episode.state, episode.action)]
    return episode.with_signals(state=episode.state[:1] + noise[0], action=episode.action[:1] + noise[1])
