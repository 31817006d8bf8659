"""The page on detection has the figures of the results, and its tables count what they say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.atlas import report
from benchmarks.atlas.grasps import compared
from benchmarks.atlas.planted import PART, UNTOUCHED, WHOLE
from hf_ptr.detection.findings import Finding


def line(fault: str, part: str = WHOLE, tool: str = "hf-ptr", **values: Any) -> dict[str, Any]:
    """A recorded cell of 20 episodes, four of them carriers."""
    return {
        **{"dataset": "g1_bottle", "fault": fault, "part": part, "seed": 6, "tool": tool, "episodes": 20},
        **{"carriers": 0 if fault == UNTOUCHED else 4, "recall": None, "false_alarms": 0.0, "auroc_frames": None},
        **{"iou": None, "power_promised": None, **values},
    }


def row(table: str, first: str) -> list[str]:
    """The cells of a row."""
    (found,) = [each for each in table.splitlines() if each.startswith(f"| {first} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_requirements_count_kinds_and_name_those_that_are_missed() -> None:
    lines = [
        line(UNTOUCHED, false_alarms=0.05),
        line("swapped", recall=1.0, power_promised=0.9),
        line("dead", recall=0.5, power_promised=0.9, false_alarms=0.125),
        line("dead", PART, recall=0.75, auroc_frames=0.95, iou=0.6),
        line("late 6", PART, recall=0.75, auroc_frames=0.95, iou=0.4),
        line("late 3", recall=0.75),
    ]
    table = report.lines_table(lines)
    assert row(table, "flagged untouched")[1] == "1/20"
    assert row(table, "strong kinds found, recall ≥ 0.9")[1] == "1 of 2 (dead 0.50)"
    assert row(table, "light kinds found, recall ≥ 0.6")[1] == "1 of 1"
    assert row(table, "dead, part: recall, AUROC, IoU")[1] == "**0.75, 0.95, 0.60**"
    assert row(table, "late 6, part: recall, AUROC, IoU")[1] == "0.75, 0.95, 0.40"
    assert row(table, "promised within 0.15")[1] == "1 of 2"
    assert row(table, "flagged sound ones beside planted faults")[1] == "2.5 %"


def test_controls_and_faults_are_counted_over_the_datasets() -> None:
    lines = [
        line("clutch", false_alarms=0.25),
        line("clutch", dataset="cr5_usb", carriers=10),
        line("dead", recall=0.5),
    ]
    assert row(report.controls_table(lines), "clutch")[1:] == ["1/4", "0/10", "0.07 [0.01, 0.31]"]
    assert row(report.recall_table(lines, WHOLE), "dead")[1] == "2/4"


def test_another_checker_that_finds_more_is_named_unless_it_flags_sound_episodes() -> None:
    lines = [line(UNTOUCHED, tool=tool, seed=1) for tool in (report.OURS, *report.PEER_OF)]
    lines += [line("dead", tool=tool, seed=1, recall=0.5) for tool in (report.OURS, *report.PEER_OF)]
    assert report.better_table(lines) == "No other checker finds more of any kind."
    lines += [
        line("late 6", recall=0.5, seed=1),
        line("late 6", tool="robovet", recall=1.0, seed=1),
        line("late 3", recall=0.5, seed=1),
        line("late 3", tool="robovet", recall=1.0, false_alarms=0.5, seed=1),
    ]
    table = report.better_table(lines)
    assert "| late 6, whole | 0.50 | 1.00 robovet |" in table and "late 3" not in table


def test_failed_grasps_count_at_their_place_only() -> None:
    truth = pd.DataFrame(
        {"episode_index": [1, 1, 2, 3], "first_frame": [10, 40, 10, 10], "last_frame": [29, 59, 29, 29]}
    )

    def retry(episode: int, first: int, last: int, check: str = "progress/retry") -> Finding:
        return Finding(check, episode, first, last, 0.9, "note", 1.0, "retries", "a failed grasp", "cut it out")

    findings = [retry(1, 45, 60), retry(2, 80, 99), retry(5, 0, 9), retry(6, 0, 9, "time/pause")]
    result = compared(findings, truth, 10)
    assert result == {"episodes": 3, "found": 1, "iou": 0.3, "others": 7, "false": 1}


def test_the_page_has_the_figures_of_the_results(tmp_path: Path) -> None:
    page = tmp_path / report.PAGE.name
    shutil.copyfile(report.PAGE, page)
    report.main(page)
    assert page.read_text(encoding="utf-8") == report.PAGE.read_text(encoding="utf-8")
    assert "| swapped |" in page.read_text(encoding="utf-8")
