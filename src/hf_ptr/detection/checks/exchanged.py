"""Two dimensions of the command with each other's values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import busy_dimensions
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import running_sums

# Standard deviations by which both dimensions must differ from what the state implies.
LEAST_ERROR = 3.0


class Exchanged(Check):
    """
    Two dimensions of the command that have each other's values.

    Why it harms: the policy learns to move the wrong joint.

    Example: left and right gripper were wired the other way round in one session.

    What to do: exchange the two columns in these frames, or leave them out.

    Limits: two dimensions with nearly equal values cannot be distinguished.
    """

    name, unit = "action/exchanged", "doublings"
    reads = ("state", "action")
    action = "exchange the two dimensions of the actions, or leave the frames out"
    material = 2.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._used = np.flatnonzero(context.model.known)

    def measure(self, view: View) -> Measurement:
        model, used = self.context.model, self._used
        count = len(used)
        if count < 2:
            return {part.scale: Candidates.of(part, np.zeros(len(part.first))) for part in view.windows}
        unit, centre = model.unit[used], model.centre[used]
        action = view.prediction.action[:, used] * unit + centre
        expected = view.prediction.expected[:, used] * unit + centre
        found: Measurement = {}
        sums = [running_sums(values**2) for values in (action, expected)]
        for windows in view.windows:
            # The mean of (a_i - e_j)², by moments, in standard deviations of j.
            square = windows.mean_of(sums[0])[:, :, None] + windows.mean_of(sums[1])[:, None, :]
            cross = np.stack([action[rows].T @ expected[rows] / (rows.stop - rows.start) for rows in windows.rows()])
            error = np.sqrt(np.maximum(square - 2 * cross, 0.0)) / (model.sigma[used] * unit)
            own = np.diagonal(error, axis1=1, axis2=2)
            exchanged = np.maximum(error, error.transpose(0, 2, 1))
            recorded = np.minimum(own[:, :, None], own[:, None, :])
            ratio = np.where(recorded > LEAST_ERROR, np.log2((recorded + 1e-9) / (exchanged + 1.0)), 0.0)
            flat = np.maximum(ratio * model.trust(view.episode)[used].min(), 0.0).reshape(len(own), -1)
            best = flat.argmax(axis=1)
            found[windows.scale] = Candidates.of(windows, flat[np.arange(len(own)), best], best.astype(float))
        return found

    def cause(self, found: Found) -> str:
        pair = divmod(int(found.detail), len(self._used))
        one, other = (self.context.model.names[self._used[number]] for number in sorted(pair))
        return f"commands of {one} and {other} exchanged"

    def plants(self) -> Sequence[Plant]:
        return [Plant("two dimensions exchanged", _exchange)]


def _exchange(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    scale = context.signals.action
    pair = busy_dimensions(episode.action, scale, rng, 2)
    if len(pair) < 2:
        return None
    action = episode.action.copy()
    raw = action[:, pair] * scale.unit[pair] + scale.centre[pair]
    action[:, pair] = (raw[:, ::-1] - scale.centre[pair]) / scale.unit[pair]
    return episode.with_signals(action=action)
