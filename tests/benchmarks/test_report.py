"""Tables of the robustness benchmark: the runs that each table includes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.robustness import __main__ as command
from benchmarks.robustness import plots, results
from benchmarks.robustness.fault_tables import detection_and_policy_table, faults_table, harm_table, headline_table
from benchmarks.robustness.report import (
    comparable,
    outcomes_by_cell,
    score_ablations_table,
    summary_table,
    tables_of,
    without_table,
)
from benchmarks.robustness.suites import SUITES

TASKS = SUITES["mt10-state"].tasks


def run(arm: str, corruption: str, severity: str, seed: int, solved: int, commit: str = "c") -> dict[str, Any]:
    """A line of the results in which `solved` of the 20 rollouts of each task succeed."""
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


def test_additional_seeds_are_evaluated_separately() -> None:
    # The arms differ by ten points on the first five seeds and are equal on the additional ones.
    lines = [
        run(arm, "ln", "severe", seed, solved)
        for arm, solved in (("calibrated", 12), ("length", 10))
        for seed in range(5)
    ]
    lines += [run(arm, "ln", "severe", seed, 10, "later") for arm in ("calibrated", "length") for seed in (14, 15)]
    main, more = tables_of("main", lines), tables_of("more-seeds", lines)
    assert "| `length` | +0.0 [+0.0, +0.0]<br>not significant |" in more["more-seeds-pairwise"]
    assert "| `length` | +10.0 [" in main["main-pairwise"]
    assert more["more-seeds-state"] == "4 of 60 runs completed. Commits: later."
    assert main["main-state"] == "10 of 200 runs completed. Commits: c."
    assert tables_of("ablations", lines)["ablations-state"] == "0 of 42 runs completed. Commits: none."


def test_only_lines_on_the_newest_demonstrations_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    for arm, data in (("sft", "old"), ("ptr", "old"), ("sft", "new")):
        results.append({**run(arm, "hard", "paper", 0, 10), "data_hash": data})
    assert [(line["arm"], line["data_hash"]) for line in comparable(results.read_lines())] == [("sft", "new")]


def test_other_operators_have_demonstrations_of_their_own() -> None:
    lines = [
        run(arm, name, "paper", 0, 10) | {"data_hash": data}
        for name, data in (("clean", "experts"), ("mixed operators", "mixed"), ("dead", "experts"))
        for arm in ("sft", "calibrated")
    ]
    assert comparable(lines) == lines


def test_the_summary_table_shows_the_leading_arms_and_the_best_peer() -> None:
    solved = {"sft": 10, "ptr": 9, "length": 11, "smoothness": 14, "random": 20}
    lines = [run(arm, "hard", "paper", seed, count) for arm, count in solved.items() for seed in range(2)]
    # Additional seeds are excluded, and so is a fault mixture without SFT.
    lines += [run("sft", "hard", "paper", 14, 20), run("length", "ln", "severe", 0, 10)]
    head, _, row = summary_table(lines).splitlines()
    assert head == "| suite | faults | seeds | `sft` | `ptr` | `calibrated` | `oracle` | best peer |"
    without_intervals = re.sub(r" \[[^]]*\]", "", row)
    assert without_intervals == (
        "| `mt10-state` | hard | 2 | 50.0 | 45.0<br>-5.0 |  |  | `smoothness` 70.0<br>+20.0 |"
    )


def test_the_mean_over_kinds_and_what_an_arm_recovers_of_it() -> None:
    solved = {"sft": (10, 12), "oracle": (18, 16), "findings": (16, 14)}
    lines = [
        {**run(arm, kind, "paper", seed, counts[place]), "suite": "mt10-atlas"}
        for arm, counts in solved.items()
        for place, kind in enumerate(("swapped", "retry"))
        for seed in range(3)
    ]
    for line in lines:
        line |= {"auroc_episode": {"any": 0.9}, "weight_faulty": 1.0, "weight_sound": 4.0}
    cells = outcomes_by_cell(lines)
    text = faults_table(cells, "mt10-atlas", {"mean": ("swapped", "retry")}, ("swapped",), ("oracle", "findings"))
    plain = re.sub(r" \[[^]]*\]", "", text).splitlines()
    # The oracle gains 40 and 20 points, the findings 30 and 10: 40 of 60.
    assert plain[2] == "| mean | 55.0 (3) | 85.0 (3)<br>+30.0 | 75.0 (3)<br>+20.0<br>67 % |"
    assert plain[3].startswith("| swapped | 50.0 (3) | 90.0 (3)<br>+40.0 | 80.0 (3)<br>+30.0<br>75 %")
    side = detection_and_policy_table(lines, cells, "mt10-atlas", ("swapped",), ("findings", "drop-findings"))
    assert re.sub(r" \[[^]]*\]", "", side).splitlines()[2] == "| swapped | +40.0 | 0.90, 1.00 / 4.00, 75 % |  |"


def test_the_headline_shows_the_best_peer_of_the_first_column() -> None:
    solved = {"sft": (10, 10), "short": (12, 20), "shorter": (14, 10), "calibrated": (16, 10)}
    lines = [
        {**run(arm, kind, "paper", seed, counts[place]), "suite": "mt10-atlas"}
        for arm, counts in solved.items()
        for place, kind in enumerate(("swapped", "clean"))
        for seed in range(2)
    ]
    columns = {"faults": ("swapped",), "clean": ("clean",)}
    text = headline_table(outcomes_by_cell(lines), "mt10-atlas", columns, ("short", "shorter", "absent"))
    plain = re.sub(r" \[[^]]*\]", "", text).splitlines()
    assert plain[2:] == [
        "| `sft` | 50.0 (2) | 50.0 (2) |",
        "| best peer (`shorter`) | 70.0 (2)<br>+20.0 | 50.0 (2)<br>+0.0 |",
        "| `calibrated` | 80.0 (2)<br>+30.0 | 50.0 (2)<br>+0.0 |",
        "| `oracle` |  |  |",
    ]


def test_the_mean_harm_counts_every_setting_alike() -> None:
    lines = [
        {**run(arm, kind, "paper", seed, solved), "suite": "mt10-atlas"}
        for kind, arms in {"clean": {"sft": 10, "findings": 8}, "slower": {"sft": 10, "findings": 9}}.items()
        for arm, solved in arms.items()
        for seed in range(3)
    ]
    rows = [("mt10-atlas", name) for name in ("clean", "slower", "absent")]
    text = harm_table(outcomes_by_cell(lines), rows, ("findings", "calibrated"))
    last = text.splitlines()[-1]
    assert len(text.splitlines()) == 5
    assert last == "|  | mean over the rows |  | -7.5 [-7.5, -7.5] (2 rows) |  |"


def test_runs_without_a_table_are_listed() -> None:
    lines = [run("sft", "hard", "paper", 0, 10), run("sft", "tt", "mild", 0, 10), run("length", "ln", "severe", 14, 9)]
    pages = "<!-- begin: main -->\n<!-- end: main -->\n<!-- begin: more-seeds-pairwise -->"
    assert without_table(lines, pages) == ["mt10-state tt-mild sft"]


def test_the_sensitivity_figure_has_one_panel_per_setting_including_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"sft": 10, "ptr": 9, "ptr+beta=3.0": 8, "ptr+beta=0.75": 12, "ptr+w_max=2.0": 9}
    lines = [run(arm, "hard", "paper", seed, solved) for arm, solved in settings.items() for seed in range(2)]
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, out: drawn.append(figure))
    plots.sensitivity_figure(outcomes_by_cell(lines), "mt10-state", "hard", tmp_path / "sweep.png")
    beta, w_max = drawn[0].axes
    assert [axis.get_title() for axis in (beta, w_max)] == ["beta", "w_max"]
    assert [text.get_text() for text in beta.get_xticklabels()] == ["0.75", "1.5 (default)", "3"]
    assert beta.lines[0].get_ydata() == pytest.approx([10.0, -5.0, -10.0])
    plots.sensitivity_figure({}, "mt10-state", "hard", tmp_path / "sweep.png")
    assert len(drawn) == 1


def test_the_option_seeds_selects_the_first_seeds_of_a_plan() -> None:
    assert {cell.seed for cell in command.cells_of("more-seeds", 2)} == {14, 15}
    assert {cell.seed for cell in command.cells_of("main", 2)} == {0, 1}


def test_variants_of_the_score_are_compared_on_shared_seeds() -> None:
    def fit(variant: str, seed: int, corruption: str) -> dict[str, Any]:
        found = {"foreign_actions": 1.0, "noise": 1.0, "instruction": 0.5 + 0.1 * seed, "misalignment": 1.0}
        weights = {"ess": 1.0, "weight_good": 4.0, "weight_faulty": 1.0}
        return {"variant": variant, "seed": seed, "corruption": corruption, "auroc_episode": found, **weights}

    complete = [
        fit(one, seed, name)
        for one in ("whole", "less")
        for seed in range(3)
        for name in ("hard", "misaligned", "clean")
    ]
    missing = ("less", 2, "clean")
    incomplete = [line for line in complete if (line["variant"], line["seed"], line["corruption"]) != missing]
    assert "| whole | 1.000 / 1.000 / 0.600 |" in score_ablations_table(complete)
    assert "| whole | 1.000 / 1.000 / 0.550 |" in score_ablations_table(incomplete)
    assert score_ablations_table(complete[:1]).count("\n") == 1


@pytest.mark.parametrize("plan", ["ablations", "sensitivity"])
def test_ablations_and_settings_of_ptr_are_compared_with_ptr(plan: str) -> None:
    arm = {"ablations": "ptr-alpha-0", "sensitivity": "ptr+beta=3.0"}[plan]
    lines = [run("ptr", "hard", "paper", 0, 12), run(arm, "hard", "paper", 0, 10)]
    table = tables_of(plan, lines)[f"{plan}-pairwise"]
    assert table.startswith("| `ptr` against | hard |") and f"| `{arm}` | +10.0" in table
