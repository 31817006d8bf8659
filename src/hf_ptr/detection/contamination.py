"""The detector of a dataset in which a fifth of the episodes are faulty."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from hf_ptr.detection.check import Check
from hf_ptr.detection.detector import Detector, Measurements

# Share of the episodes that have a fault when it is to be found.
FAULTY = 0.2


def number_faulty(episodes: int) -> int:
    """The number of faulty episodes in a dataset."""
    return max(1, round(FAULTY * episodes))


def contaminated(
    detector: Detector,
    positions: np.ndarray,
    copies: Sequence[Measurements],
    rng: np.random.Generator,
    checks: Collection[Check] | None = None,
) -> Detector:
    """
    The detector with the measurements of faulty copies in the place of a fifth of the episodes.

    Each copy takes the place of its original. If there are fewer copies than faulty episodes, they are also put in the
    place of others, drawn at random. The response model does not know them.

    Args:
        detector: the detector of the dataset.
        positions: `(N,)` positions of the copies' originals, different ones.
        copies: N measurements of all checks, at least one.
        rng: draws the others.
        checks: the checks that the fault shows in; all by default.
    """
    episodes = len(detector.views)
    free = np.setdiff1d(np.arange(episodes), positions)
    more = rng.choice(free, max(0, number_faulty(episodes) - len(positions)), replace=False)
    repeated = rng.integers(len(copies), size=len(more))
    return detector.contaminated(
        np.concatenate([positions, more]), [*copies, *(copies[number] for number in repeated.tolist())], checks
    )
