"""The probability that a finding is a fault and not chance, with false discoveries under control."""

from __future__ import annotations

import numpy as np


def probabilities(p: np.ndarray, position: np.ndarray, episodes: int) -> np.ndarray:
    """
    Probability of each finding that it is not chance: one minus its local false discovery rate.

    The rate is the number of sound episodes that one expects around a value of `p`, over the number that was found
    there; the latter is the slope of the least concave majorant of the empirical distribution (Grenander; Efron,
    Large-Scale Inference, ch. 5). Every episode may be a sound one. Hence, among the findings with a probability of at
    least x, the expected share of true ones is at least x.

    An episode is one discovery, however many checks find something in it: one fault shows in several checks, which
    would make every other finding look less like chance.

    Args:
        p: `(N,)` probability that a sound episode has such a finding, over all checks.
        position: `(N,)` the episode of each.
        episodes: number of episodes that were tested.

    Returns:
        `(N,)` in [0, 1], the same or smaller for a larger `p`.
    """
    least = np.sort([p[position == one].min() for one in np.unique(position)])
    # Corners of the majorant: an episode without a finding may have any p up to 1.
    at, share = [0.0], [0.0]
    for x, y in zip([*least, 1.0], [*np.arange(1, len(least) + 1) / episodes, 1.0], strict=True):
        while len(at) > 1 and (y - share[-1]) * (at[-1] - at[-2]) >= (share[-1] - share[-2]) * (x - at[-1]):
            at.pop()
            share.pop()
        if x > at[-1]:
            at.append(float(x))
            share.append(float(y))
        else:
            share[-1] = float(y)
    density = np.diff(share) / np.diff(at)
    rate = 1.0 / np.maximum(density[np.clip(np.searchsorted(at, p) - 1, 0, len(density) - 1)], 1.0)
    return np.where(p > 0.0, 1.0 - rate, 1.0)
