"""Commands that do not belong to the state: all dimensions together, and one dimension alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.planting import busy_dimensions, other_episode, resample
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import running_sums

# Residuals of one dimension above this many units count as this.
CAP_ONE = 3.0


class OtherData(Check):
    """
    Commands that do not belong to the state: of another episode, reversed, or noise.

    Why it harms: the policy learns actions that have nothing to do with what it sees.

    Example: an action file was attached to the wrong episode.

    What to do: find the right actions, or leave the frames out.

    Limits: needs commands that the state reflects within a third of a second.
    """

    name, unit = "action/residual", "times usual"
    reads = ("state", "action")
    action = "leave these frames out, or find the actions that belong to them"
    material = 2.0
    seen_everywhere = True

    def measure(self, view: View) -> Measurement:
        # The median: dimensions that the model does not know well must not decide. Without any known one, zeros.
        return {
            windows.scale: Candidates.of(windows, np.median(times, axis=1) if times.size else times.sum(axis=1))
            for windows, times in zip(view.windows, view.differences, strict=True)
        }

    def cause(self, found: Found) -> str:
        return f"commands do not belong to the state: {found.amount:.1f} times the usual difference"

    def plants(self) -> Sequence[Plant]:
        return [Plant("actions of another episode", _swap), Plant("actions reversed in time", _reverse)]


def own_frames(view: View) -> np.ndarray:
    """
    Frames `(T,)` bool without the windows in which most commands, and more than two, are those of other data: what is
    there says nothing of two of them.
    """
    own = np.ones(len(view.episode), dtype=bool)
    for windows, times in zip(view.windows[:-1], view.differences[:-1], strict=True):
        much = (times > OtherData.material).sum(axis=1) > max(2, times.shape[1] / 2)
        for first, stop in zip(windows.first[much], windows.stop[much], strict=True):
            own[first:stop] = False
    return own


class OneDimension(Check):
    """
    One dimension of the command that does not belong to the state.

    Why it harms: the policy learns wrong values of this dimension.

    Example: one joint's command is of another episode, or drifts.

    What to do: repair the dimension, or leave the frames out.

    Limits: needs a dimension that the state reflects within a third of a second.
    """

    name, unit = "action/dimension", "std"
    reads = ("state", "action")
    action = "repair this dimension of the actions, or leave the frames out"
    material = 0.5
    seen_everywhere = True

    def measure(self, view: View) -> Measurement:
        residual = view.prediction.action - view.prediction.expected
        found: Measurement = {}
        squares = running_sums(np.minimum(residual**2, CAP_ONE**2))
        for windows in view.windows:
            size = np.sqrt(windows.mean_of(squares))
            size *= self.context.model.trust(view.episode)
            found[windows.scale] = Candidates.of(windows, np.where(self.context.model.known, size, 0.0))
        return found

    def cause(self, found: Found) -> str:
        name = self.context.model.names[found.dimension]
        return f"commands of {name} do not belong to the state: {found.amount:.1f} standard deviations away"

    def plants(self) -> Sequence[Plant]:
        return [Plant("one dimension of another episode", _swap_one)]


def _swapped(episode: Episode, context: Context, rng: np.random.Generator) -> np.ndarray:
    other = other_episode(episode, context.signals.episodes, rng).action
    return resample(other, np.linspace(0, len(other) - 1, len(episode)))


def _swap(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    return episode.with_signals(action=_swapped(episode, context, rng))


def _reverse(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    del context, rng
    return episode.with_signals(action=episode.action[::-1])


def _swap_one(episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
    action = episode.action.copy()
    chosen = busy_dimensions(action, context.signals.action, rng)
    action[:, chosen] = _swapped(episode, context, rng)[:, chosen]
    return episode.with_signals(action=action) if len(chosen) else None
