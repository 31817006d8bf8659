"""The detector of a dataset in which a fifth of the episodes are faulty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Measurement
from hf_ptr.detection.detector import Detector

# Share of the episodes that have a fault when it is to be found.
FAULTY = 0.2


def contaminated(detector: Detector, copies: Sequence[list[Measurement]], rng: np.random.Generator) -> Detector:
    """
    The detector with the measurements of faulty copies in the place of a fifth of the episodes.

    Few copies stand for all faulty episodes. The response model does not know them.

    Args:
        detector: the detector of the dataset.
        copies: measurements of all checks in copies of episodes with a planted fault, at least one.
        rng: draws the episodes and the copies.
    """
    episodes = len(detector.views)
    faulty = max(1, round(FAULTY * episodes))
    drawn = rng.choice(len(copies), faulty, replace=faulty > len(copies))
    return detector.contaminated(
        rng.choice(episodes, faulty, replace=False), [copies[number] for number in drawn.tolist()]
    )
