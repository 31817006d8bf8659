"""The notes of the page by kind: where, the film strips of the largest ones, and a table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.findings import Finding
from hf_ptr.report.episode_cards import place_of
from hf_ptr.report.expectation import around
from hf_ptr.report.film_strips import Strips, film_strips
from hf_ptr.report.finding_rows import finding_row
from hf_ptr.report.note_words import note_kinds

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
    """

    episode: int
    place: str
    cause: str
    strips: Strips


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
    findings: Sequence[Finding], lengths: Mapping[int, int], table: EpisodeTable | None, harm: Mapping[str, float]
) -> list[NoteSection]:
    """
    The notes by kind, in the order of `note_kinds`.

    Args:
        findings: the findings; faults are left out.
        lengths: the number of frames of each episode, by its id.
        table: the episodes that were scored; None if the dataset is not available.
        harm: the user's choice of harm, by name of the check.
    """
    sections = []
    for kind in note_kinds(findings, len(lengths), harm):
        most = OUTCOME_STRIPS if kind.check.startswith("progress/") else STRIPS
        # One an episode: further notes of the same one look alike.
        largest = list({found.episode_index: found for found in reversed(kind.findings)}.values())[::-1][:most]
        rows = sorted(kind.findings, key=lambda found: (found.episode_index, found.first_frame))
        sections.append(
            NoteSection(
                title=f"{kind.name} in {kind.where()}",
                action=kind.findings[0].action,
                lowers=kind.lowers,
                examples=[_example(found, lengths[found.episode_index], table) for found in largest],
                rows=[finding_row(found, lengths) for found in rows[:MOST_ROWS]],
                count=len(rows),
            )
        )
    return sections


def _example(found: Finding, length: int, table: EpisodeTable | None) -> NoteExample:
    strips: Strips = []
    if table is not None:
        frames = around(found, length, table.fps).tolist()
        strips, _ = film_strips(table, found.episode_index, frames, found.cause)
    place = place_of(found, length, None if table is None else table.fps)
    return NoteExample(found.episode_index, place, found.cause, strips)
