"""Which runs the robustness benchmark makes, and when it makes one again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.robustness import __main__ as command
from benchmarks.robustness import report, results, running, suites
from benchmarks.robustness.arms import ABLATIONS, RECIPES, WEIGHTINGS, arm_of
from benchmarks.robustness.running import Cell
from benchmarks.robustness.suites import PLANS, SUITES
from hf_ptr.data.corruption import RECIPES as CORRUPTIONS
from hf_ptr.errors import InputError
from hf_ptr.training.recipe import load_recipe

HASHES = {"recipe_hash": "r", "data_hash": "d", "code_hash": "c"}


def line(arm: str, corruption: str = "hard", severity: str = "paper", seed: int = 0, **changes: Any) -> dict[str, Any]:
    made = {"suite": "mt10-state", "corruption": corruption, "severity": severity, "arm": arm, "seed": seed}
    return {**made, **HASHES, **changes}


def cells(plan: str) -> list[Cell]:
    return command.cells_of(plan, None)


@pytest.mark.parametrize("plan", PLANS)
def test_every_cell_of_every_plan_has_a_recipe_that_loads(plan: str) -> None:
    wanted = cells(plan)
    assert len(set(wanted)) == len(wanted)
    for cell in wanted:
        assert cell.corruption in CORRUPTIONS
        path, overrides = running._recipe_of(cell, None)
        recipe = load_recipe(path, overrides)
        assert recipe.data.corruption == cell.corruption
        assert recipe.data.corruption_seed == recipe.training.seed == cell.seed


def test_the_main_table_is_what_the_issue_asks_for() -> None:
    wanted = cells("main")
    assert len(wanted) == 175
    assert {cell.seed for cell in wanted} == set(range(5))


def test_every_arm_is_known_and_a_wrong_one_gets_the_nearest_name() -> None:
    for name in (*RECIPES, *ABLATIONS, *WEIGHTINGS):
        assert arm_of(name).name == name
    assert arm_of("ptr+beta=0.75").overrides == ("beta=0.75",)
    with pytest.raises(InputError, match="oracle"):
        arm_of("oracel")


def test_an_arm_waits_for_the_one_it_needs() -> None:
    ptr, random = (Cell("mt10-state", "hard", arm, 0) for arm in ("ptr", "random"))
    assert command._held_up(random, [ptr, random], [])
    assert command._held_up(random, [random], [ptr])
    assert not command._held_up(random, [random], [])
    assert not command._held_up(ptr, [ptr, random], [])
    other_seed = Cell("mt10-state", "hard", "ptr", 1)
    assert not command._held_up(random, [other_seed, random], [])


@pytest.mark.parametrize(
    ("changed", "keep", "again"),
    [
        ({}, False, False),
        ({"recipe_hash": "other"}, True, True),
        ({"data_hash": "other"}, True, True),
        ({"code_hash": "other"}, False, True),
        ({"code_hash": "other"}, True, False),
    ],
)
def test_only_what_changed_is_run_again(
    changed: dict[str, str], keep: bool, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "hashes_of", lambda cell: HASHES)
    cell = Cell("mt10-state", "ln-severe", "sft", 0)
    made = line("sft", "ln", "severe", **changed)
    assert (command.missing_of([cell], [made], keep) == [cell]) is again
    assert command.missing_of([Cell("mt10-state", "ln-severe", "sft", 1)], [made], keep)


def test_a_newer_line_replaces_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    for found in (line("sft", successes=1), line("ptr", successes=2), line("sft", successes=3)):
        results.append(found)
    assert {(read["arm"], read["successes"]) for read in results.read_lines()} == {("sft", 3), ("ptr", 2)}
    assert results.read_lines("goal-state") == []


def test_texts_do_not_change_the_hash_of_code(tmp_path: Path) -> None:
    file = tmp_path / "a.py"

    def code(text: str) -> str:
        file.write_text(text)
        return running._code_of(file)

    plain = code("def f(x):\n    return x + 1\n")
    assert plain == code('"""Module."""\n\n# why\ndef f(x):\n    """What."""\n    return x + 1\n')
    assert plain != code("def f(x):\n    return x + 2\n")


def test_tables_leave_empty_what_was_not_run_and_put_nothing_beside_their_marks(tmp_path: Path) -> None:
    found = [line(arm, outcomes={"reach-v3": marks}) for arm, marks in (("sft", "1100"), ("oracle", "1111"))]
    made = report.outcomes_by_cell(found)
    table = report.success_table(made, "mt10-state", ["hard", "clean"], ["sft", "oracle", "ptr"])
    assert "| `sft` | 50.0 (1) |  |" in table
    assert "| `oracle` | 100.0 (1)<br>+50.0" in table
    assert "| `ptr` |  |  |" in table
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: main -->\nold\n<!-- end: main -->\nafter\n")
    report.put_into(page, {"main": table, "other": "nothing"})
    report.put_into(page, {"main": table})
    assert page.read_text() == f"before\n<!-- begin: main -->\n{table}\n<!-- end: main -->\nafter\n"


def test_suites_have_known_tasks_and_goals_come_in_pairs() -> None:
    from hf_ptr.envs.tasks import INSTRUCTIONS

    for suite in SUITES.values():
        assert set(suite.tasks) <= set(INSTRUCTIONS)
    scenes = [task.split("-")[0] for task in suites.GOAL_TASKS]
    assert all(scenes.count(scene) == 2 for scene in scenes)
