"""Notes in words: each kind with its episodes, those that lower weights first, then those with something to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from hf_ptr.detection.findings import Finding
from hf_ptr.detection.harm import harm_of, lowered_episodes, lowering_notes
from hf_ptr.utils.listing import listed

# Names of the kinds in a sentence; a check that is not listed has the second part of its name.
KINDS = {
    "action/held": "commands at a lower rate",
    "action/tremor": "tremor",
    "camera/moved": "a moved camera",
    "language/spelling": "spellings of an instruction",
    "progress/regression": "motions that were undone",
    "progress/retry": "retries",
    "progress/return": "return motions",
    "progress/short": "early ends",
    "progress/unusual_end": "unusual ends",
    "state/stale_start": "stale first frames",
    "time/gap": "gaps in the recording",
    "time/idle_start": "idle starts",
    "time/pause": "pauses",
    "time/slow": "slow motion",
}
# Ids of a kind that are listed, and kinds that the line of the verdict names.
MOST_IDS, MOST_KINDS = 12, 3
# A kind in more than this share of the episodes, and in more than this number of them, describes how the set was
# recorded: only its number is given.
COMMON, COMMON_EPISODES = 0.25, 3
# Start of the advice of a check that asks for nothing.
NOTHING_TO_DO = "nothing has to be done"


@dataclass(frozen=True)
class NoteKind:
    """
    The notes of one check.

    Attributes:
        check: name of the check.
        name: the kind in words, a plural.
        episodes: ids of the episodes, rising.
        findings: the notes, the largest amount first.
        common: whether so many episodes have it that only their number is given.
        lowers: whether these notes lower weights.
    """

    check: str
    name: str
    episodes: list[int]
    findings: list[Finding]
    common: bool
    lowers: bool

    def where(self) -> str:
        """The episodes in words, for example `episodes 3, 7, 12 (3)`."""
        count = len(self.episodes)
        if count == 1:
            return f"episode {self.episodes[0]}"
        return f"{count} episodes" if self.common else f"episodes {listed(self.episodes, MOST_IDS)} ({count})"


def note_kinds(
    findings: Iterable[Finding], episodes: int, harm: Mapping[str, float] = MappingProxyType({})
) -> list[NoteKind]:
    """
    The notes by check: those that lower weights, then those with something to do, and the most frequent kind first.

    Args:
        findings: the findings; faults are left out.
        episodes: the number of episodes of the dataset.
        harm: the user's choice of harm, by name of the check.
    """
    of_check: dict[str, list[Finding]] = {}
    for found in findings:
        if found.severity == "note":
            of_check.setdefault(found.check, []).append(found)
    kinds = []
    for check, notes in of_check.items():
        ids = sorted({found.episode_index for found in notes})
        notes.sort(key=lambda found: -found.amount)
        common = len(ids) > max(COMMON_EPISODES, COMMON * episodes)
        kinds.append(NoteKind(check, kind_name(check), ids, notes, common, harm_of(notes[0], harm) > 0))
    return sorted(kinds, key=_order)


def _order(kind: NoteKind) -> tuple[bool, bool, int]:
    return not kind.lowers, kind.findings[0].action.startswith(NOTHING_TO_DO), -len(kind.episodes)


def kind_name(check: str) -> str:
    """The notes of a check in words, a plural."""
    return KINDS.get(check, check.rpartition("/")[2].replace("_", " "))


def lowered_words(findings: Sequence[Finding], episodes: int, harm: Mapping[str, float] = MappingProxyType({})) -> str:
    """
    The episodes without a fault whose notes lower weights, for example `2 more have frames that count less: retries in
    episodes 3, 7 (2)`; "" without any.

    Args:
        findings, episodes, harm: as for [`note_kinds`].
    """
    count = len(lowered_episodes(findings, harm))
    if not count:
        return ""
    more = " more" if any(found.severity == "fault" for found in findings) else ""
    kinds = note_kinds(lowering_notes(findings, harm), episodes, harm)
    return f"{count}{more} {'has' if count == 1 else 'have'} frames that count less: {_named(kinds)}"


def notes_line(findings: Iterable[Finding], episodes: int, harm: Mapping[str, float] = MappingProxyType({})) -> str:
    """The notes without effect on weights in a sentence, `MOST_KINDS` kinds at most; "" without any."""
    kinds = [kind for kind in note_kinds(findings, episodes, harm) if not kind.lowers]
    return f"Notes without effect on weights: {_named(kinds)}." if kinds else ""


def _named(kinds: Sequence[NoteKind]) -> str:
    named = "; ".join(f"{kind.name} in {kind.where()}" for kind in kinds[:MOST_KINDS])
    more = len(kinds) - MOST_KINDS
    return named + (f"; and {more} more kind{'s' if more > 1 else ''}" if more > 0 else "")


def notes_table(findings: Iterable[Finding], lengths: Mapping[int, int], harm: Mapping[str, float]) -> Table:
    """
    The notes for the terminal, a row for each kind.

    Args:
        findings: the findings; faults are left out.
        lengths: the number of frames of each episode, by its id.
        harm: the user's choice of harm, by name of the check.
    """
    shown = plain_table("Notes: information, not faults")
    shown.add_column("note", no_wrap=True)
    shown.add_column("episodes", max_width=24)
    shown.add_column("the largest, and what to do")
    for kind in note_kinds(findings, len(lengths), harm):
        first = kind.findings[0]
        ids = f"{len(kind.episodes)} of {len(lengths)}"
        ids += "" if kind.common else f": {listed(kind.episodes, MOST_IDS)}"
        where = f"episode {first.episode_index}, frame {first.first_frame}: "
        name = escape(kind.name) + ("\n[dim]lower weights[/dim]" if kind.lowers else "")
        shown.add_row(name, ids, f"{where}{escape(first.cause)}\n[dim]{escape(first.action)}[/dim]")
    return shown


def plain_table(title: str) -> Table:
    """An empty table for the terminal, with a line under the names of the columns only."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
