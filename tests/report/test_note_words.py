"""Notes by kind, in a sentence and in a table."""

from __future__ import annotations

import io

from rich.console import Console

from hf_ptr.detection.findings import Finding
from hf_ptr.detection.registry import all_checks
from hf_ptr.report.note_words import KINDS, note_kinds, notes_line, notes_table


def note(check: str, episode: int, amount: float = 1.0) -> Finding:
    return Finding(check, episode, 4, 9, 1.0, "note", amount, "s", f"[b]cause[/b] of {amount}", "watch it")


NOTES = [
    *(note("state/stale_start", episode, episode) for episode in range(10)),
    *(note("progress/retry", episode) for episode in (7, 3, 3)),
    note("time/pause", 5),
    note("my/odd_thing", 6),
]


def test_every_built_in_note_has_a_name() -> None:
    assert set(KINDS) == {check.name for check in all_checks() if check.severity == "note"}


def test_the_line_names_the_episodes_with_retries_and_counts_what_many_have() -> None:
    assert notes_line(NOTES, 20) == (
        "Worth knowing, but not faults: retries in episodes 3, 7 (2); pauses in episode 5; odd thing in episode 6; "
        "and 1 more kind."
    )
    assert notes_line(NOTES[:10], 20) == "Worth knowing, but not faults: stale first frames in 10 episodes."
    assert notes_line([], 20) == ""


def test_a_long_list_is_cut() -> None:
    kind = note_kinds([note("time/pause", episode) for episode in range(20)], 200)[0]
    assert kind.where() == "episodes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more (20)"


def test_the_table_has_a_row_a_kind_with_its_largest_note() -> None:
    printed = io.StringIO()
    Console(width=140, file=printed).print(notes_table(NOTES, {number: 100 for number in range(20)}, {}))
    text = printed.getvalue()
    assert "10 of 20 " in text and "2 of 20: 3, 7" in text
    assert "episode 9, frame 4: [b]cause[/b] of 9" in text and "episode 8," not in text and "watch it" in text
    # Only a retry lowers weights by default.
    assert text.count("lower weights") == 1 and text.index("lower weights") < text.index("pauses")
