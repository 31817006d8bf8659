"""Notes by kind, in a sentence and in a table."""

from __future__ import annotations

import io

from rich.console import Console

from hf_ptr.detection.findings import Finding
from hf_ptr.detection.registry import all_checks
from hf_ptr.report.finding_rows import reasons_of
from hf_ptr.report.note_words import KINDS, lowered_words, note_kinds, notes_line, notes_table


def note(check: str, episode: int, amount: float = 1.0, action: str = "watch it") -> Finding:
    return Finding(check, episode, 4, 9, 1.0, "note", amount, "s", f"[b]cause[/b] of {amount}", action)


def fault(episode: int) -> Finding:
    return Finding("action/lag", episode, 4, 9, 1.0, "fault", 6.0, "frames", "late", "shift it")


NOTES = [
    *(note("state/stale_start", episode, episode) for episode in range(10)),
    *(note("progress/retry", episode) for episode in (7, 3, 3)),
    note("time/pause", 5),
    note("my/odd_thing", 6),
]


def test_every_built_in_note_has_a_name() -> None:
    assert set(KINDS) == {check.name for check in all_checks() if check.severity == "note"}


def test_the_line_has_the_notes_that_do_not_lower_weights_the_most_frequent_first() -> None:
    assert notes_line(NOTES, 20) == (
        "Notes without effect on weights: stale first frames in 10 episodes; pauses in episode 5; odd thing in "
        "episode 6."
    )
    chosen = notes_line(NOTES, 20, {"state/stale_start": 0.5, "progress/retry": 0.0})
    assert chosen.startswith("Notes without effect on weights: retries in episodes 3, 7 (2); pauses in")
    assert "stale" not in chosen
    assert notes_line([], 20) == ""


def test_notes_with_something_to_do_come_before_more_frequent_ones() -> None:
    idle = [note("time/slow", episode, action="nothing has to be done; or so") for episode in range(9)]
    kinds = note_kinds([*idle, *NOTES[:4], *NOTES[10:]], 20)
    assert [kind.check for kind in kinds] == [
        "progress/retry",
        "state/stale_start",
        "time/pause",
        "my/odd_thing",
        "time/slow",
    ]


def test_the_episodes_with_lower_weights_have_words_of_their_own() -> None:
    assert lowered_words(NOTES, 20) == "2 have frames that count less: retries in episodes 3, 7 (2)"
    # An episode with a fault is counted there.
    assert lowered_words([*NOTES, fault(3)], 20) == "1 more has frames that count less: retries in episode 7"
    assert lowered_words(NOTES, 20, {"progress/retry": 0.0}) == ""
    assert lowered_words(NOTES, 20, {"time/pause": 0.1}).endswith("retries in episodes 3, 7 (2); pauses in episode 5")


def test_the_reason_of_an_episode_has_three_words() -> None:
    found = reasons_of([*NOTES, note("time/pause", 3), fault(3)], {})
    assert found[3] == "fault: late; lower weights: retries; note: stale first frames, pauses"
    assert found[9] == "note: stale first frames" and 11 not in found
    assert reasons_of(NOTES, {"progress/retry": 0.0})[7] == "note: stale first frames, retries"


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
