"""The verdict and the table of findings in words."""

from __future__ import annotations

import io

from rich.console import Console

from hf_ptr.detection.findings import Finding
from hf_ptr.report.power_rows import power_summary
from hf_ptr.report.verdict import by_check, findings_table, frames_of, probability_of, verdict

LENGTHS = {number: 100 for number in range(8)}


def finding(episode: int, first: int, last: int, cause: str, probability: float = 0.98, **other) -> Finding:
    severity, check = other.get("severity", "fault"), other.get("check", "action/lag")
    return Finding(check, episode, first, last, probability, severity, 6.04, "frames", cause, "shift the actions")


def test_the_verdict_names_episodes_with_their_main_fault() -> None:
    findings = [
        finding(3, 40, 93, "commands 6.0 frames late", 0.97),
        finding(3, 10, 20, "noise", 0.97),
        finding(3, 0, 99, "a gain", 0.5),
        finding(5, 0, 99, "a copy of episode 2", 0.99),
        finding(1, 7, 7, "a leap", 0.6),
        finding(6, 7, 9, "a rest", 1.0, severity="note"),
    ]
    assert verdict(findings, LENGTHS) == (
        "3 of 8 episodes have faults: ep 5 a copy of episode 2; ep 3 frames 40-93 commands 6.0 frames late; "
        "ep 1 frame 7 a leap."
    )
    several = [finding(number, 1, 2, "noise", 0.9 - number / 100) for number in range(6)]
    assert verdict(several, LENGTHS).endswith("ep 2 frames 1-2 noise; also ep 3:6.")
    assert verdict(several[:1], LENGTHS).startswith("1 of 8 episodes has a fault: ep 0")


def test_without_a_fault_nothing_is_called_worst() -> None:
    note = finding(6, 7, 9, "a rest", severity="note", check="episode/pause")
    assert verdict([note], LENGTHS) == "hf-ptr found no fault of the kinds that it can find: 0 of 8 episodes flagged."


def test_episodes_whose_frames_count_less_are_in_the_verdict_unless_the_user_chose_otherwise() -> None:
    retry = finding(6, 7, 9, "a retry", severity="note", check="progress/retry")
    assert verdict([finding(2, 1, 2, "noise"), retry], LENGTHS) == (
        "1 of 8 episodes has a fault: ep 2 frames 1-2 noise; 1 more has frames that count less: retries in episode 6."
    )
    assert verdict([retry], LENGTHS) == (
        "hf-ptr found no fault of the kinds that it can find: 0 of 8 episodes flagged; 1 has frames that count less: "
        "retries in episode 6."
    )
    assert verdict([retry], LENGTHS, {"progress/retry": 0.0}).endswith("0 of 8 episodes flagged.")


def test_the_table_has_every_column_and_escapes_the_text_of_the_data() -> None:
    printed = io.StringIO()
    Console(width=140, file=printed).print(findings_table([finding(3, 40, 93, "[red]joint[/red] late")], LENGTHS))
    text = printed.getvalue()
    for words in ("episode", "frames", "probability", "40-93", "0.98", "6.04 frames", "[red]joint[/red] late"):
        assert words in text, words
    assert "shift the actions" in text


def test_several_places_of_a_check_are_one_row() -> None:
    findings = [finding(3, first, first + 5, "a leap") for first in (10, 30, 50)] + [finding(3, 0, 9, "x", check="b")]
    assert [(found.first_frame, further) for found, further in by_check(findings)] == [(0, 0), (10, 2)]
    printed = io.StringIO()
    Console(width=140, file=printed).print(findings_table(findings, LENGTHS))
    assert "4 faults" in printed.getvalue() and "10-15 (+2)" in printed.getvalue()


def test_frames_and_probabilities_in_words() -> None:
    assert frames_of(finding(1, 0, 99, ""), LENGTHS) == "all"
    assert frames_of(finding(9, 0, 99, ""), LENGTHS) == "0-99"
    assert probability_of(finding(1, 0, 1, "", 0.999)) == "> 0.99"


def test_the_summary_of_the_self_test_names_the_groups_of_a_large_dataset() -> None:
    power = {"check": "action/lag", "fault": "late by 6 frames", "part": False, "probability": 1.0}
    card = {"powers": [power]}
    assert "group" not in power_summary(card)
    assert "within 3 groups of 490 to 505" in power_summary({**card, "groups": [500, 490, 505]})
