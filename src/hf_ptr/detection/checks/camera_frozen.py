"""Images that stand still while the robot moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.camera_model import APART, CameraModel
from hf_ptr.detection.check import Candidates, Context, Found, Measurement, Plant, View
from hf_ptr.detection.checks.camera_check import CameraCheck
from hf_ptr.detection.planting import one_camera
from hf_ptr.detection.runs import runs_of
from hf_ptr.detection.signals import STALE, Episode
from hf_ptr.detection.windows import EVENT

# Changes below this share of an ordinary motion's are none.
STILL = 0.15
# An image must change less than this share of what the motion implies to count as frozen.
FAR_BELOW = 0.5
# Share of an episode that the planted fault freezes.
PLANTED = 0.3


class CameraFrozen(CameraCheck):
    """
    Images that stand still while the robot moves.

    Why it harms: the policy learns to move without looking, and sees where the robot was and not where it is.

    Example: the driver of a camera hung for six seconds, and the recorder wrote the last image again and again.

    What to do: leave these frames out.

    Limits: where nothing that the camera sees moves, a frozen image cannot be seen. A freeze of less than about a
    second is not reported.
    """

    name, unit = "camera/frozen", "s"
    reads = ("state", "cameras")
    action = "leave these frames out"
    material = 0.4
    # In sound episodes, no image stands still while the robot moves: their amount is zero.
    least_tail = 0.08

    def measure_camera(self, view: View, model: CameraModel) -> Measurement:
        look = model.look(view.episode.cameras[model.camera])
        still = (look.apart < STILL * model.usual) & (look.contrast > model.least_contrast)
        still[:STALE] = still[len(still) - STALE :] = False
        # In seconds of ordinary motion: a slow motion is weak evidence.
        unseen = np.maximum(model.expected_change(view.episode) - look.apart / FAR_BELOW, 0.0)
        unseen /= max(model.usual, 1e-9) * self.context.fps
        first, stop = runs_of(still)
        total = np.concatenate([[0.0], np.cumsum(unseen)])
        # The image at the end of the last comparison is the same, too.
        end = np.minimum(stop + round(APART * self.context.fps), len(still))
        return {EVENT: Candidates.events(first, end, total[stop] - total[first])}

    def cause(self, found: Found) -> str:
        return f"images of {self.camera_of(found)} stand still while the robot moves for {found.amount:.1f} s"

    def plants(self) -> Sequence[Plant]:
        return [Plant(f"images frozen for {PLANTED:.0%} of the episode", _freeze, partial=False)]


def _freeze(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del context
    length = len(episode)
    size = round(PLANTED * length)
    first = int(rng.integers(STALE, max(length - size, STALE + 1)))
    rows = np.arange(length)
    rows[first : first + size] = first
    return one_camera(episode, rng, lambda track: track.rows(rows))
