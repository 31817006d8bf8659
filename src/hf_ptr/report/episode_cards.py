"""Cards of single episodes: the findings with place and expected signal, a film strip or the motion, the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.score_file import ELEMENT_PREFIX
from hf_ptr.detection.findings import Finding
from hf_ptr.report import plots, verdict
from hf_ptr.report.clock import frame_edges
from hf_ptr.report.expectation import Expectation, around
from hf_ptr.report.film_strips import Strips, Without, film_strips
from hf_ptr.report.wording import explain_episode

# Film strips of an episode; further findings are shown without one.
MAX_STRIPS = 3


@dataclass(frozen=True)
class FindingPart:
    """
    One finding of a card.

    Attributes:
        cause: the likely cause.
        place: its frames and times in words.
        facts: probability and amount in words, and the name of the check.
        action: what to do.
        plot: the recorded signal, and the expected one of commands, an SVG; None without a dimension, or where another
            finding shows it.
        dimensions: the names of the plotted dimensions.
        expected: whether an expected signal is drawn.
        strips: of each camera at the place; empty where another finding shows the place.
    """

    cause: str
    place: str
    facts: str
    action: str
    plot: Markup | None
    dimensions: list[str]
    expected: bool
    strips: Strips


@dataclass(frozen=True)
class EpisodeCard:
    """
    One episode: with findings, or with the lowest or highest weight of a score without findings.

    Attributes:
        episode: its id.
        task: its instruction.
        weight: its mean weight.
        fault: its known faults, joined by `+`.
        flagged: whether it has a finding of severity `fault`.
        findings: its findings, the most probable first.
        reasons: the reasons for its score, in sentences.
        lines: weight and scores over time, an SVG.
        strips: of each camera along the whole episode.
        without_video: `(camera, reason)` of each camera whose video of this episode cannot be read.
        motion: state and action over time, an SVG; None if there are film strips.
    """

    episode: int
    task: str
    weight: float
    fault: str
    flagged: bool
    findings: list[FindingPart]
    reasons: list[str]
    lines: Markup
    strips: Strips
    without_video: Without = field(default_factory=list)
    motion: Markup | None = None


def episode_card(
    row: pd.Series,
    frames: pd.DataFrame,
    bounds: tuple[float, float],
    table: EpisodeTable | None,
    task: str,
    findings: Sequence[Finding] = (),
    expectation: Expectation | None = None,
) -> EpisodeCard:
    """
    Builds the card of one episode.

    Args:
        row: its row of `summarise_episodes`.
        frames: its rows of the score file.
        bounds: the lowest and highest possible weight.
        table: the episodes that were scored; None if the dataset is not available.
        task: its instruction.
        findings: its findings of severity `fault`, the most probable first.
        expectation: the expected signals, if they are known.
    """
    episode = int(row.name)
    edges = None if table is None else frame_edges(table, episode)
    unit = "frame" if edges is None else "seconds"
    elements = {name: frames[name].to_numpy() for name in frames if name.startswith(ELEMENT_PREFIX)}
    numbers = frames.frame_index.to_numpy()
    time = numbers if edges is None else edges[numbers]
    length = int(frames.frame_index.max()) + 1
    parts, without = _findings(findings, length, table, expectation)
    strips: Strips = []
    if table is not None and not findings:
        strips, without = film_strips(table, episode, range(length))
    motion = None
    if table is not None and not strips and not any(part.strips or part.plot for part in parts):
        features = [name for name in ("observation.state", "action") if name in table.columns]
        position = int(np.flatnonzero(table.episode_index == episode)[0])
        if features:
            motion = Markup(plots.state_and_action(table, position, features, frame_edges(table, episode)))
    return EpisodeCard(
        episode=episode,
        task=task,
        weight=float(row.weight),
        fault=str(row.fault),
        flagged=bool(row.flagged),
        findings=parts,
        reasons=explain_episode(row, frames, edges),
        lines=Markup(plots.episode_lines(frames.weight.to_numpy(), elements, time, bounds, unit)),
        strips=strips,
        without_video=without,
        motion=motion,
    )


def _findings(
    findings: Sequence[Finding], length: int, table: EpisodeTable | None, expectation: Expectation | None
) -> tuple[list[FindingPart], Without]:
    parts: list[FindingPart] = []
    without: Without = []
    shown: list[np.ndarray] = []
    plotted: set[tuple[str, int, int]] = set()
    for found in findings:
        lines = [] if expectation is None else expectation.lines(found)
        strips: Strips = []
        if table is not None:
            place = around(found, length, table.fps)
            if len(shown) < MAX_STRIPS and not any(_same(place, other) for other in shown):
                shown.append(place)
                strips, without = film_strips(
                    table,
                    found.episode_index,
                    place.tolist(),
                    found.cause,
                    (found.first_frame, found.last_frame),
                )
        edges = None if table is None else frame_edges(table, found.episode_index)
        drawn = {(line.name, int(line.frames[0]), int(line.frames[-1])) for line in lines}
        plot = None
        if edges is not None and drawn - plotted:
            plot = Markup(plots.expected_lines(lines, found.first_frame, found.last_frame, edges))
            plotted |= drawn
        parts.append(
            FindingPart(
                found.cause,
                place_of(found, length, edges),
                f"amount {verdict.amount_of(found)}; probability {verdict.probability_of(found)}; check {found.check}",
                found.action,
                plot,
                [line.name for line in lines],
                any(line.expected is not None for line in lines),
                strips,
            )
        )
    return parts, without


def place_of(found: Finding, length: int, edges: np.ndarray | None) -> str:
    """
    The frames of a finding in words, with their times where those of the episode are known.

    Args:
        found: the finding.
        length: the number of frames `T` of its episode.
        edges: `(T + 1,)` seconds of [`frame_edges`]; None without the dataset.
    """
    frames = verdict.frames_of(found, {found.episode_index: length})
    words = "whole episode" if frames == "all" else f"frame{'s' if '-' in frames else ''} {frames}"
    if edges is None or frames == "all":
        return words
    return f"{words} ({edges[found.first_frame]:.1f} to {edges[found.last_frame + 1]:.1f} s)"


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two stretches of frames share most of the shorter one."""
    shared = min(one[-1], other[-1]) - max(one[0], other[0]) + 1
    return bool(shared > 0.7 * min(len(one), len(other)))
