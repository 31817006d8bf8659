"""The notes of the page by kind: where, the film strips of the largest ones, and a table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.findings import Finding
from hf_ptr.report import plots
from hf_ptr.report.clock import frame_edges
from hf_ptr.report.episode_cards import place_of
from hf_ptr.report.expectation import Expectation, around
from hf_ptr.report.film_strips import Strips, film_strips
from hf_ptr.report.finding_rows import finding_row
from hf_ptr.report.note_words import NoteKind, note_kinds
from hf_ptr.utils.progress import progress_bar

# Film strips of a kind about the outcome, which must be watched, and of another kind; rows of a kind.
OUTCOME_STRIPS, STRIPS, MOST_ROWS = 3, 1, 100


@dataclass(frozen=True)
class NoteExample:
    """
    A note that is shown.

    Attributes:
        episode: id of the episode.
        place: its frames and times in words.
        cause: the likely cause.
        strips: of each camera at the place.
        plot: the recorded signal, and the expected one of commands, an SVG; None without a dimension.
        dimensions: the names of the plotted dimensions.
        expected: whether an expected signal is drawn.
    """

    episode: int
    place: str
    cause: str
    strips: Strips
    plot: Markup | None
    dimensions: list[str]
    expected: bool


@dataclass(frozen=True)
class NoteSection:
    """
    The notes of one kind.

    Attributes:
        title: the kind and its episodes in words.
        action: what to do.
        lowers: whether these notes lower weights.
        examples: the largest notes.
        rows: as in `finding_row`, by episode, `MOST_ROWS` at most.
        count: the number of notes.
    """

    title: str
    action: str
    lowers: bool
    examples: list[NoteExample]
    rows: list[tuple[str, ...]]
    count: int


def note_sections(
    findings: Sequence[Finding],
    lengths: Mapping[int, int],
    table: EpisodeTable | None,
    harm: Mapping[str, float],
    expectation: Expectation | None = None,
) -> list[NoteSection]:
    """
    The notes by kind, in the order of `note_kinds`.

    Args:
        findings: the findings; faults are left out.
        lengths: the number of frames of each episode, by its id.
        table: the episodes that were scored; None if the dataset is not available.
        harm: the user's choice of harm, by name of the check.
        expectation: the expected signals of the episodes of [`shown_notes`], if they are known.
    """
    sections = []
    kinds = note_kinds(findings, len(lengths), harm)
    with progress_bar() as progress:
        task = progress.add_task("drawing notes", total=sum(len(_largest(kind)) for kind in kinds))
        for kind in kinds:
            examples = []
            for found in _largest(kind):
                examples.append(_example(found, lengths[found.episode_index], table, expectation))
                progress.advance(task)
            rows = sorted(kind.findings, key=lambda found: (found.episode_index, found.first_frame))
            sections.append(
                NoteSection(
                    title=f"{kind.name} in {kind.where()}",
                    action=kind.findings[0].action,
                    lowers=kind.lowers,
                    examples=examples,
                    rows=[finding_row(found, lengths) for found in rows[:MOST_ROWS]],
                    count=len(rows),
                )
            )
    return sections


def shown_notes(findings: Sequence[Finding], episodes: int, harm: Mapping[str, float]) -> list[Finding]:
    """
    The notes that are shown with film strip and signal.

    Args:
        findings: the findings; faults are left out.
        episodes: the number of episodes of the dataset.
        harm: as for [`note_sections`].
    """
    return [found for kind in note_kinds(findings, episodes, harm) for found in _largest(kind)]


def _largest(kind: NoteKind) -> list[Finding]:
    most = OUTCOME_STRIPS if kind.check.startswith("progress/") else STRIPS
    # One an episode: further notes of the same one look alike.
    return list({found.episode_index: found for found in reversed(kind.findings)}.values())[::-1][:most]


def _example(found: Finding, length: int, table: EpisodeTable | None, expectation: Expectation | None) -> NoteExample:
    strips: Strips = []
    plot, edges = None, None
    lines = [] if expectation is None else expectation.lines(found)
    if table is not None:
        frames, edges = around(found, length, table.fps).tolist(), frame_edges(table, found.episode_index)
        place = found.first_frame, found.last_frame
        strips, _ = film_strips(table, found.episode_index, frames, found.cause, place)
        if lines:
            plot = Markup(plots.expected_lines(lines, *place, edges))
    return NoteExample(
        episode=found.episode_index,
        place=place_of(found, length, edges),
        cause=found.cause,
        strips=strips,
        plot=plot,
        dimensions=[line.name for line in lines],
        expected=any(line.expected is not None for line in lines),
    )
