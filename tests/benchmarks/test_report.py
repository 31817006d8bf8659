"""The tables of the robustness benchmark: which runs they count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.robustness import __main__ as command
from benchmarks.robustness import plots, results
from benchmarks.robustness.report import (
    comparable,
    glance_table,
    on_no_page,
    outcomes_by_cell,
    parts_of,
    score_ablations_table,
)
from benchmarks.robustness.suites import SUITES

TASKS = SUITES["mt10-state"].tasks


def run(arm: str, corruption: str, severity: str, seed: int, solved: int, commit: str = "c") -> dict[str, Any]:
    """A line of which `solved` of each task's 20 rollouts succeed."""
    return {
        "suite": "mt10-state",
        "corruption": corruption,
        "severity": severity,
        "arm": arm,
        "seed": seed,
        "outcomes": dict.fromkeys(TASKS, "1" * solved + "0" * (20 - solved)),
        "auroc_episode": {},
        "auroc_sample": {},
        "ess": None,
        "commit": commit,
    }


def test_seeds_that_were_made_later_are_judged_alone() -> None:
    # On the first five seeds the arms differ by ten points, on the later ones not at all.
    lines = [
        run(arm, "ln", "severe", seed, solved)
        for arm, solved in (("calibrated", 12), ("length", 10))
        for seed in range(5)
    ]
    lines += [run(arm, "ln", "severe", seed, 10, "later") for arm in ("calibrated", "length") for seed in (14, 15)]
    assert "| `length` | +0.0 [+0.0, +0.0]<br>cannot tell |" in parts_of("more-seeds", lines)["more-seeds-rivals"]
    assert "| `length` | +10.0 [" in parts_of("main", lines)["main-rivals"]
    assert parts_of("more-seeds", lines)["more-seeds-state"] == "4 of 60 runs made. Commits: later."
    assert parts_of("main", lines)["main-state"] == "10 of 200 runs made. Commits: c."
    assert parts_of("ablations", lines)["ablations-state"] == "0 of 42 runs made. Commits: none."


def test_the_demonstrations_that_count_are_those_of_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    for arm, data in (("sft", "old"), ("ptr", "old"), ("sft", "new")):
        results.append({**run(arm, "hard", "paper", 0, 10), "data_hash": data})
    assert [(line["arm"], line["data_hash"]) for line in comparable(results.read_lines())] == [("sft", "new")]


def test_at_a_glance_the_best_peer_of_each_mixture_stands_beside_the_leading_arms() -> None:
    solved = {"sft": 10, "ptr": 9, "length": 11, "smoothness": 14, "random": 20}
    lines = [run(arm, "hard", "paper", seed, count) for arm, count in solved.items() for seed in range(2)]
    # Fifteen seeds more, made later, do not count, nor does a mixture without SFT.
    lines += [run("sft", "hard", "paper", 14, 20), run("length", "ln", "severe", 0, 10)]
    head, _, row = glance_table(lines).splitlines()
    assert head == "| suite | faults | seeds | `sft` | `ptr` | `calibrated` | `oracle` | best peer |"
    without_intervals = re.sub(r" \[[^]]*\]", "", row)
    assert without_intervals == (
        "| `mt10-state` | hard | 2 | 50.0 | 45.0<br>-5.0 |  |  | `smoothness` 70.0<br>+20.0 |"
    )


def test_what_stands_in_no_table_is_named() -> None:
    lines = [run("sft", "hard", "paper", 0, 10), run("sft", "tt", "mild", 0, 10), run("length", "ln", "severe", 14, 9)]
    pages = "<!-- begin: main -->\n<!-- end: main -->\n<!-- begin: more-seeds-rivals -->"
    assert on_no_page(lines, pages) == ["mt10-state tt-mild sft"]


def test_a_sweep_has_a_panel_a_setting_with_the_default_among_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"sft": 10, "ptr": 9, "ptr+beta=3.0": 8, "ptr+beta=0.75": 12, "ptr+w_max=2.0": 9}
    lines = [run(arm, "hard", "paper", seed, solved) for arm, solved in settings.items() for seed in range(2)]
    drawn = []
    monkeypatch.setattr(plots, "_saved", lambda figure, out: drawn.append(figure))
    plots.sensitivity_figure(outcomes_by_cell(lines), "mt10-state", "hard", tmp_path / "sweep.png")
    beta, w_max = drawn[0].axes
    assert [axis.get_title() for axis in (beta, w_max)] == ["beta", "w_max"]
    assert [text.get_text() for text in beta.get_xticklabels()] == ["0.75", "1.5 (default)", "3"]
    assert beta.lines[0].get_ydata() == pytest.approx([10.0, -5.0, -10.0])
    plots.sensitivity_figure({}, "mt10-state", "hard", tmp_path / "sweep.png")
    assert len(drawn) == 1


def test_fewer_seeds_are_a_plan_s_first() -> None:
    assert {cell.seed for cell in command.cells_of("more-seeds", 2)} == {14, 15}
    assert {cell.seed for cell in command.cells_of("main", 2)} == {0, 1}


def test_parts_of_the_score_are_compared_on_seeds_that_all_have() -> None:
    def fit(variant: str, seed: int, corruption: str) -> dict[str, Any]:
        found = {"foreign_actions": 1.0, "noise": 1.0, "instruction": 0.5 + 0.1 * seed, "misalignment": 1.0}
        weights = {"ess": 1.0, "weight_good": 4.0, "weight_faulty": 1.0}
        return {"variant": variant, "seed": seed, "corruption": corruption, "auroc_episode": found, **weights}

    every = [
        fit(one, seed, name)
        for one in ("whole", "less")
        for seed in range(3)
        for name in ("hard", "misaligned", "clean")
    ]
    part = [line for line in every if (line["variant"], line["seed"], line["corruption"]) != ("less", 2, "clean")]
    assert "| whole | 1.000 / 1.000 / 0.600 |" in score_ablations_table(every)
    assert "| whole | 1.000 / 1.000 / 0.550 |" in score_ablations_table(part)
    assert score_ablations_table(every[:1]).count("\n") == 1


@pytest.mark.parametrize("plan", ["ablations", "sensitivity"])
def test_the_published_form_is_compared_with_its_own_changes(plan: str) -> None:
    arm = {"ablations": "ptr-alpha-0", "sensitivity": "ptr+beta=3.0"}[plan]
    table = parts_of(plan, [run("ptr", "hard", "paper", 0, 12), run(arm, "hard", "paper", 0, 10)])[f"{plan}-rivals"]
    assert table.startswith("| `ptr` against | hard |") and f"| `{arm}` | +10.0" in table
