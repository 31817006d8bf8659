"""The recorded signal around a finding, and the command that the state implies."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.grippers import SHORTEST, find_grippers
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Episode, Scale, Signals
from hf_ptr.errors import InputError

# Other episodes that the response model of a report is fitted to, beside those with findings.
OTHERS = 150
# Dimensions in a plot, and the share of the largest difference that a further one must have.
MOST, LEAST_SHARE = 2, 0.4
# Frames shown on both sides of a finding: this share of its length, and at least that many seconds.
MARGIN_SHARE, MARGIN_SECONDS = 0.5, 1.0
RETRY = "progress/retry"
# Where the name of a dimension can begin in a cause: "commands of NAME and NAME exchanged", "NAME shifted", "most in
# dimension NAME".
NAMED = re.compile(r"^|\bof |\band |\bdimension ")


@dataclass(frozen=True)
class Line:
    """
    One dimension around a finding.

    Attributes:
        name: its feature and its name or number.
        frames: `(n,)` int64, frames of the episode.
        recorded: `(n,)`, raw values.
        expected: `(n,)`, raw values that the other episodes imply; None where nothing implies any.
    """

    name: str
    frames: np.ndarray
    recorded: np.ndarray
    expected: np.ndarray | None


class Expectation:
    """
    The response model of some episodes, fitted again for a report.

    Args:
        table: the dataset.
        state_feature, action_feature: the features that were checked.
        episodes: ids of the episodes with findings.
    """

    def __init__(
        self, table: EpisodeTable, state_feature: str, action_feature: str, episodes: Collection[int]
    ) -> None:
        others = [number for number in table.episode_index.tolist() if number not in set(episodes)]
        step = max(1, -(-len(others) // OTHERS))
        table = table.select(sorted({*episodes, *others[::step]}))
        self._fps = table.fps
        self._signals = Signals.of_table(table, state_feature, action_feature)
        self._model = ResponseModel(self._signals)
        self._grippers = find_grippers(self._signals)

    def lines(self, found: Finding) -> list[Line]:
        """
        The dimensions that the cause of a finding names, or those that differ most within it.

        A command is compared with the expected one, a state with that of the frame before. Retries have the gripper
        that switches most, other findings of progress and time the states that vary most around the place. Findings of
        images and of language have no lines.
        """
        episode = self._signals.episodes[self._signals.episode_index.index(found.episode_index)]
        kind = found.check.partition("/")[0]
        shown = around(found, len(episode), self._fps)
        inside = slice(found.first_frame, found.last_frame + 1)
        if kind == "action" and len(self._model.dimensions):
            scale, dimensions = self._signals.action, self._model.dimensions
            # The model clips commands to their usual range; the episode's own have the leap that was found.
            recorded, expected = episode.action[:, dimensions], self._model.predict(episode).expected
            difference = np.abs(recorded - expected)[inside].mean(axis=0) / self._model.sigma
            chosen = _named(found.cause, self._model.names) or _largest(difference)
            return [
                _line("action", scale, dimensions[one], shown, recorded[:, one], expected[:, one]) for one in chosen
            ]
        if kind == "state":
            scale = self._signals.state
            steps = np.abs(np.diff(episode.state, axis=0, prepend=episode.state[:1]))[inside].max(axis=0)
            chosen = _named(found.cause, scale.names) or _largest(steps * scale.moves)
            return [_line("state", scale, one, shown, episode.state[:, one], None) for one in chosen]
        if found.check == RETRY and self._grippers:
            return self._gripper_lines(episode, found, shown)
        if kind in ("progress", "time"):
            scale = self._signals.state
            chosen = _largest(np.ptp(episode.state[shown], axis=0) * scale.moves)
            return [_line("state", scale, one, shown, episode.state[:, one], None) for one in chosen]
        return []

    def _gripper_lines(self, episode: Episode, found: Finding, shown: np.ndarray) -> list[Line]:
        """The dimensions of the gripper that opens and closes most often within a finding."""
        inside = slice(found.first_frame, found.last_frame + 1)
        shortest = self._signals.frames(SHORTEST, 2)
        gripper = max(self._grippers, key=lambda one: int(np.diff(one.closed(episode, shortest)[inside]).sum()))
        scale = getattr(self._signals, gripper.feature)
        values, weights = getattr(episode, gripper.feature), np.abs(gripper.weights)
        return [_line(gripper.feature, scale, one, shown, values[:, one], None) for one in _largest(weights)]


def expectation_of(table: EpisodeTable, made: dict[str, object], episodes: Collection[int]) -> Expectation | None:
    """
    The expectation for a report; None where the dataset no longer has the features, or has one episode only.

    Args:
        table: the dataset.
        made: how the findings were made.
        episodes: ids of the episodes with findings.
    """
    state, action = made.get("state_feature"), made.get("action_feature")
    if not isinstance(state, str) or not isinstance(action, str) or not episodes:
        return None
    try:
        return Expectation(table, state, action, episodes)
    except InputError:
        return None


def around(found: Finding, length: int, fps: float) -> np.ndarray:
    """The frames of a finding and some before and after it, of an episode of `length` frames."""
    last = min(found.last_frame, length - 1)
    margin = round(max(MARGIN_SHARE * (last - found.first_frame), MARGIN_SECONDS * fps))
    return np.arange(max(0, found.first_frame - margin), min(length, last + margin + 1))


def _line(
    kind: str, scale: Scale, dimension: int, shown: np.ndarray, recorded: np.ndarray, expected: np.ndarray | None
) -> Line:
    """A dimension in raw units; `recorded` and `expected` are `(T,)`, in those of the scale."""
    unit, centre = scale.unit[dimension], scale.centre[dimension]
    return Line(
        f"{kind} {scale.names[dimension]}",
        shown,
        recorded[shown] * unit + centre,
        None if expected is None else expected[shown] * unit + centre,
    )


def _named(cause: str, names: Sequence[str]) -> list[int]:
    """The dimensions that a cause names, `MOST` at most, in the order of the cause; amounts are not names."""
    found = []
    for match in NAMED.finditer(cause):
        # The longest name that starts here: names may contain spaces, and begin with another name.
        starting = [name for name in names if re.match(rf"{re.escape(name)}(?![\w.%])", cause[match.end() :])]
        if starting:
            found.append(list(names).index(max(starting, key=len)))
    return list(dict.fromkeys(found))[:MOST]


def _largest(values: np.ndarray) -> list[int]:
    order = np.argsort(-values)[:MOST]
    return [int(number) for number in order if values[number] >= LEAST_SHARE * values[order[0]]]
