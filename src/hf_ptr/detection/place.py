"""Where in an episode a fault is: the stretch with the most evidence."""

from __future__ import annotations

import numpy as np


def densest_stretch(evidence: np.ndarray) -> tuple[int, int]:
    """
    The stretch with the greatest sum of evidence.

    Args:
        evidence: `(T,)`, positive where a fault is likely and negative elsewhere.

    Returns:
        Its first frame and the frame after its last; `(0, 0)` if no frame has positive evidence.
    """
    total = np.concatenate([[0.0], np.cumsum(evidence)])
    # For each end, the best start is where the sum before it is least.
    least = np.minimum.accumulate(total[:-1])
    gain = total[1:] - least
    if not len(gain) or gain.max() <= 0:
        return 0, 0
    stop = int(gain.argmax()) + 1
    return int(total[:stop].argmin()), stop
