"""Notes in words: each kind with its episodes, the most useful kind first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from hf_ptr.detection.findings import Finding
from hf_ptr.detection.harm import harm_of
from hf_ptr.report.verdict import plain_table
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
    """

    check: str
    name: str
    episodes: list[int]
    findings: list[Finding]
    common: bool

    def where(self) -> str:
        """The episodes in words, for example `episodes 3, 7, 12 (3)`."""
        count = len(self.episodes)
        if count == 1:
            return f"episode {self.episodes[0]}"
        return f"{count} episodes" if self.common else f"episodes {listed(self.episodes, MOST_IDS)} ({count})"


def note_kinds(findings: Iterable[Finding], episodes: int) -> list[NoteKind]:
    """
    The notes by check. Kinds about the outcome come first, and kinds of many episodes last.

    Args:
        findings: the findings; faults are left out.
        episodes: the number of episodes of the dataset.
    """
    of_check: dict[str, list[Finding]] = {}
    for found in findings:
        if found.severity == "note":
            of_check.setdefault(found.check, []).append(found)
    kinds = []
    for check, notes in of_check.items():
        ids = sorted({found.episode_index for found in notes})
        name = KINDS.get(check, check.rpartition("/")[2].replace("_", " "))
        notes.sort(key=lambda found: -found.amount)
        kinds.append(NoteKind(check, name, ids, notes, len(ids) > max(COMMON_EPISODES, COMMON * episodes)))
    # A retry is worth watching however many episodes have one.
    outcome = [kind.check.startswith("progress/") for kind in kinds]
    order = sorted(range(len(kinds)), key=lambda k: (not outcome[k], kinds[k].common, -len(kinds[k].episodes)))
    return [kinds[k] for k in order]


def notes_line(findings: Iterable[Finding], episodes: int) -> str:
    """The notes in a sentence, `MOST_KINDS` kinds at most; "" without any."""
    kinds = note_kinds(findings, episodes)
    if not kinds:
        return ""
    named = "; ".join(f"{kind.name} in {kind.where()}" for kind in kinds[:MOST_KINDS])
    more = len(kinds) - MOST_KINDS
    rest = f"; and {more} more kind{'s' if more > 1 else ''}" if more > 0 else ""
    return f"Worth knowing, but not faults: {named}{rest}."


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
    for kind in note_kinds(findings, len(lengths)):
        first = kind.findings[0]
        ids = f"{len(kind.episodes)} of {len(lengths)}"
        ids += "" if kind.common else f": {listed(kind.episodes, MOST_IDS)}"
        where = f"episode {first.episode_index}, frame {first.first_frame}: "
        name = escape(kind.name) + ("\n[dim]lower weights[/dim]" if harm_of(first, harm) else "")
        shown.add_row(name, ids, f"{where}{escape(first.cause)}\n[dim]{escape(first.action)}[/dim]")
    return shown
