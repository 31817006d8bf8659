"""A light tremor on the commands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Context, Found
from hf_ptr.detection.checks.noise import ActionNoise, white_noise
from hf_ptr.detection.motion import moving_dimensions
from hf_ptr.detection.notes import Event, Note
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import inner_rows, windows_of


class Tremor(Note):
    """
    Light white noise on the commands, too little to be a fault.

    Why it harms: not at all, in general: averages over many episodes do not tremble.

    Example: an operator with an unsteady hand, or a noisy potentiometer.

    What to do: nothing.

    Limits: a tremor of most episodes cannot be seen. A stronger one is reported as `action/noise`.
    """

    name, unit = "action/tremor", "std"
    reads = ("action",)
    action = "nothing has to be done"
    material, most = 0.02, ActionNoise.material

    def __init__(self, context: Context) -> None:
        self._used = moving_dimensions(context.signals.action)
        super().__init__(context)

    def events(self, episode: Episode) -> Sequence[Event]:
        if not len(self._used) or not windows_of(len(episode), self.context.fps):
            return []
        amount = float(np.sqrt((white_noise(inner_rows(episode.action[:, self._used])) ** 2).mean()))
        return [Event(0, len(episode), amount)]

    def cause(self, found: Found) -> str:
        return f"a light tremor of {found.amount:.2f} standard deviations on the commands"
