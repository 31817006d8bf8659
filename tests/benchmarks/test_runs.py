"""Runs of the robustness benchmark: plans, dependencies, and when a run is repeated."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from data_helpers import coded_table

from benchmarks import fits
from benchmarks.pages import fill_page
from benchmarks.robustness import __main__ as command
from benchmarks.robustness import behaviour, report, results, running, suites
from benchmarks.robustness.arms import ABLATIONS, NAMED, RECIPES, WEIGHTINGS, arm_of
from benchmarks.robustness.behaviour import synthetic_table
from benchmarks.robustness.figures import score_figures
from benchmarks.robustness.planting import KINDS, OPERATORS, Truth
from benchmarks.robustness.running import Cell
from benchmarks.robustness.suites import PLANS, SUITES
from benchmarks.robustness.weighting import score_file
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import RECIPES as CORRUPTIONS
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.mixture.sources import SourceSpec
from hf_ptr.errors import InputError
from hf_ptr.runs.recipe import load_recipe

NOW = {"recipe_hash": "r", "data_hash": "d", "behaviour": {"sft": 1}}


def line(arm: str, corruption: str = "hard", severity: str = "paper", seed: int = 0, **changes: Any) -> dict[str, Any]:
    made = {"suite": "mt10-state", "corruption": corruption, "severity": severity, "arm": arm, "seed": seed}
    return {**made, **NOW, **changes}


def cells(plan: str) -> list[Cell]:
    return command.cells_of(plan, None)


@pytest.mark.parametrize("plan", PLANS)
def test_every_cell_of_every_plan_has_a_recipe_that_loads(plan: str) -> None:
    wanted = cells(plan)
    assert len(set(wanted)) == len(wanted)
    for cell in wanted:
        assert cell.corruption in (*CORRUPTIONS, *KINDS, *OPERATORS)
        for group in cell.groups:
            recipe = load_recipe(*running._recipe_of(cell, group))
            assert recipe.training.seed == cell.seed
            if cell.planted is not None:
                assert (recipe.data.dataset, recipe.data.corruption) == (str(cell.planted), "clean")
            elif len(group) == 1:
                assert (recipe.data.corruption, recipe.data.corruption_seed) == (cell.corruption, cell.seed)


def test_the_main_plan_has_eight_arms_five_corruptions_and_five_seeds() -> None:
    wanted = cells("main")
    assert len(wanted) == 8 * 5 * 5
    assert {cell.seed for cell in wanted} == set(range(5))


def test_a_plan_can_be_restricted_to_arms_and_corruptions() -> None:
    wanted = command.selected(cells("main"), "hard, sft,ptr")
    assert {(cell.corruption, cell.arm) for cell in wanted} == {("hard", "sft"), ("hard", "ptr")}
    assert len(wanted) == 10
    assert command.selected(cells("main"), None) == cells("main")
    with pytest.raises(InputError, match="oracel"):
        command.selected(cells("main"), "hard,oracel")


def test_all_arms_are_known_and_an_unknown_name_suggests_the_nearest() -> None:
    for name in (*RECIPES, *ABLATIONS, *NAMED, *WEIGHTINGS):
        assert arm_of(name).name == name
    assert arm_of("ptr+beta=0.75").overrides == ("beta=0.75",)
    with pytest.raises(InputError, match="oracle"):
        arm_of("oracel")


def test_an_arm_with_reset_evaluates_the_run_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    carried, reset = (Cell("smoke", "hard", name, 0) for name in ("ptr+beta=0.75", "ptr+beta=0.75@reset"))
    assert reset.needed == carried and carried.needed is None
    assert running._settings(reset) == running._settings(carried)
    monkeypatch.setattr(running, "data_hash", lambda *folders: "data")
    hashes = [running.dependencies_of(cell)["recipe_hash"] for cell in (carried, reset)]
    assert hashes[0] != hashes[1], "their rollouts differ"
    trained, evaluated = [], []

    class Stop(Exception):
        pass

    def evaluate(simulator: Any, folder: Path, *args: Any, **kwargs: Any) -> None:
        evaluated.append((folder, kwargs["belief"]))
        raise Stop

    monkeypatch.setattr(running, "_corrupted", lambda *_: None)
    monkeypatch.setattr(running, "train", lambda cell, *_, **__: trained.append(cell) or Path(cell.arm))
    monkeypatch.setattr(running, "evaluate_in", evaluate)
    for cell in (carried, reset):
        with pytest.raises(Stop):
            running.run_cell(cell, {"behaviour": {}}, "abc")
    assert trained == [carried, carried]
    assert evaluated == [(Path("ptr+beta=0.75"), "trained"), (Path("ptr+beta=0.75"), "reset")]


def test_the_weights_of_the_fallback_are_low_where_a_chunk_has_no_next_observation() -> None:
    table = synthetic_table()
    weights = score_file("tail", table, None, 0, observation_features=[], other=None).weight.to_numpy()
    chunks = ChunkDataset(table, observation_features=["observation.state"], target_offset=16)
    has = chunks.without_observations(torch.arange(len(chunks)))["has_target"].numpy()
    assert (weights == np.where(has, 4.0, 1.0)).all() and 0 < has.mean() < 1


def fake_run(cell: Cell, depends_on: dict[str, Any], commit: str, keep: bool) -> dict[str, Any]:
    """Runs in a worker process: fails for one arm, otherwise returns a line."""
    if cell.arm == "ptr":
        raise ValueError("diverged")
    return {**line(cell.arm, seed=cell.seed), "successes": 1, "episodes": 2, "seconds": 3.0}


@pytest.mark.slow
def test_a_failed_run_fails_only_the_runs_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(command, "run_cell", fake_run)
    wanted = {Cell("mt10-state", "hard", arm, 0): NOW for arm in ("random", "ptr", "loss", "sft", "oracle")}
    failed, left = command.run_all(wanted, 2, math.inf)
    assert {cell.arm for cell in failed} == {"ptr", "random"}
    assert left == []
    assert "diverged" in capsys.readouterr().err
    order = [read["arm"] for read in results.read_lines()]
    assert sorted(order) == ["loss", "oracle", "sft"]
    assert order.index("sft") < order.index("loss")


def killed_run(cell: Cell, depends_on: dict[str, Any], commit: str, keep: bool) -> dict[str, Any]:
    """Kills its own process, like the kernel when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.slow
def test_a_killed_process_ends_the_plan_and_the_other_cells_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_cell", killed_run)
    wanted = {Cell("mt10-state", "hard", arm, 0): NOW for arm in ("sft", "ptr", "oracle")}
    failed, left = command.run_all(wanted, 1, math.inf)
    assert [cell.arm for cell in failed] == ["sft"]
    assert [cell.arm for cell in left] == ["ptr", "oracle"]


def nan_run(cell: Cell, depends_on: dict[str, Any], commit: str, keep: bool) -> dict[str, Any]:
    """Returns NaN for one arm, which JSON cannot represent."""
    return {**line(cell.arm), "successes": math.nan if cell.arm == "sft" else 1, "episodes": 2, "seconds": 3.0}


@pytest.mark.slow
def test_a_run_whose_line_cannot_be_written_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(command, "run_cell", nan_run)
    wanted = {Cell("mt10-state", "hard", arm, 0): NOW for arm in ("sft", "oracle")}
    failed, left = command.run_all(wanted, 1, math.inf)
    assert [cell.arm for cell in failed] == ["sft"] and left == []
    assert [read["arm"] for read in results.read_lines()] == ["oracle"]


def test_a_finished_run_of_older_behaviour_is_reused_only_with_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    now = {"recipe_hash": "recipe", "data_hash": "data", "behaviour": {"ptr": 2}}
    monkeypatch.setattr(running, "WORK", tmp_path)
    monkeypatch.setattr(running, "dependencies_of", lambda cell: now)
    monkeypatch.setattr(running, "run_recipe", lambda recipe, overrides: trained.append(recipe.stem))
    cell = Cell("mt10-state", "hard", "ptr", 0)
    made_of = cell.folder.parent / "ptr.json"

    def finished(**other: Any) -> None:
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / running.DONE_FILE).write_text("{}")
        made_of.write_text(json.dumps({**now, "behaviour": {"ptr": 1}, **other}))

    finished()
    assert running.train(cell, ("hand",), keep=True) == cell.folder
    assert trained == []
    for other, keep in (({}, False), ({"data_hash": "other"}, True), ({"recipe_hash": "other"}, True)):
        finished(**other)
        running.train(cell, ("hand",), keep=keep)
        assert trained.pop() == "ptr"
        assert not (cell.folder / running.DONE_FILE).exists()


def test_no_run_starts_after_the_time_limit() -> None:
    wanted = {Cell("mt10-state", "hard", "sft", 0): NOW}
    assert command.run_all(wanted, 1, until=-1.0) == ({}, list(wanted))


def test_a_second_command_in_the_same_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WORK", tmp_path)
    with command.alone(), pytest.raises(InputError, match="is running"), command.alone():
        pass


@pytest.mark.parametrize("argument", ["--seeds=0", "--jobs=0", "--minutes=nan", "--minutes=-1"])
def test_invalid_arguments_raise_an_input_error(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.robustness", "smoke", argument])
    with pytest.raises(InputError, match="at least 1"):
        command.main()


def test_hashes_change_with_settings_and_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "mt10-state" / "demonstrations-40-0"
    write_table(coded_table([4, 3]), data)
    monkeypatch.setattr(suites, "WORK", tmp_path)

    def of(arm: str, corruption: str = "hard") -> dict[str, Any]:
        return running.dependencies_of(Cell("mt10-state", corruption, arm, 0))

    made = {arm: of(arm) for arm in ("sft", "ptr", "random", "length")}
    assert len({found["recipe_hash"] for found in made.values()}) == 4
    assert made["random"]["behaviour"].keys() == {"sft", "random", "ptr"}
    assert of("sft", "clean")["recipe_hash"] != made["sft"]["recipe_hash"]
    # A changed setting of PTR affects the arm that uses the weights of PTR.
    monkeypatch.setattr(running, "_settings", lambda cell: {"alpha": 0.5} if cell.arm == "ptr" else {"alpha": 0})
    assert of("random")["recipe_hash"] != made["random"]["recipe_hash"]
    running.data_hash.cache_clear()
    # The storage format and the description of the recording do not affect the hash.
    (stored,) = (data / "data").rglob("*.parquet")
    pq.write_table(pq.read_table(stored), stored, compression="none")
    (data / "meta" / "recording.json").write_text("{}")
    assert of("sft")["data_hash"] == made["sft"]["data_hash"]
    running.data_hash.cache_clear()
    (data / "videos").mkdir()
    (data / "videos" / "video.mp4").write_bytes(b"video")
    assert of("sft")["data_hash"] != made["sft"]["data_hash"]
    running.data_hash.cache_clear()
    shutil.rmtree(data)
    other = coded_table([4, 3])
    other.columns["action"][2] += 1.0
    write_table(other, data)
    assert of("sft")["data_hash"] != made["sft"]["data_hash"]
    running.data_hash.cache_clear()


def test_the_initial_policy_does_not_depend_on_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(running, "data_hash", lambda *folders: "data")
    monkeypatch.setattr(running, "run_recipe", lambda recipe, overrides: trained.append(recipe.stem))
    begun = SUITES["mt10-posttrain"].start
    for checkout in ("one", "two"):
        monkeypatch.setattr(suites, "WORK", tmp_path / checkout)
        running.train_start(begun)
        made = json.loads(begun.folder.with_suffix(".json").read_text())
        assert made == json.loads((tmp_path / "one" / "start" / f"{begun.folder.name}.json").read_text())
    assert len(trained) == 2
    # A policy of older behaviour is trained again, except with `keep`.
    begun.folder.mkdir()
    (begun.folder / running.DONE_FILE).write_text("{}")
    begun.folder.with_suffix(".json").write_text(json.dumps({**made, "behaviour": {"sft": 0}}))
    running.train_start(begun, keep=True)
    assert len(trained) == 2
    running.train_start(begun)
    assert len(trained) == 3 and not begun.folder.exists()


def test_a_fit_is_repeated_when_behaviour_or_data_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "WORK", tmp_path)
    data, results_file = tmp_path / "mt10-state" / "demonstrations-40-0", tmp_path / "results.json"
    write_table(coded_table([4, 3]), data)
    made: list[str] = []

    def fill(keep: bool = False) -> list[str]:
        made.clear()
        running.data_hash.cache_clear()
        cells = [{"corruption": name, "seed": 0} for name in ("hard", "clean")]
        fits.fill(results_file, cells, lambda cell: {"n": made.append(cell["corruption"])}, keep=keep)
        lines = json.loads(results_file.read_text())
        assert sorted(line["corruption"] for line in lines) == ["clean", "hard"]
        return made.copy()

    assert fill() == ["hard", "clean"] and fill() == []
    for module in (fits, behaviour):
        monkeypatch.setattr(module, "versions", lambda parts: dict.fromkeys(parts, 99))
    assert fill(keep=True) == []
    assert fill() == ["hard", "clean"] and fill() == []
    shutil.rmtree(data)
    write_table(coded_table([5, 3]), data)
    assert fill(keep=True) == ["hard", "clean"]
    running.data_hash.cache_clear()


def test_score_figures_compare_each_fault_with_fault_free_episodes() -> None:
    table = coded_table([2, 2, 2, 2])
    noisy, swapped = np.array([False, True, False, False]), np.array([False, False, True, False])
    truth = CorruptionTruth("made", 0, table.episode_index, {"noise": noisy, "foreign_actions": swapped})
    score = [3.0, 1.0, 0.0, 2.0, 5.0, 5.0, 4.0, 2.0]
    weight = [4.0, 4.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0]
    valid = [True] * 7 + [False]
    scores = pd.DataFrame({"score": score, "weight": weight, "valid": valid})
    found = score_figures(scores, table, Truth.of_episodes(table, truth))
    # Fault-free chunks score 3, 1 and 4, their episodes 2 and 4; noisy ones 0 and 2, swapped ones 5 and 5.
    assert found["auroc_sample"]["noise"] == pytest.approx(5 / 6)
    assert found["auroc_episode"] == {"noise": 1.0, "foreign_actions": 0.0, "any": 0.5}
    assert found["ess"] == pytest.approx(26.0**2 / (6 * 16 + 2) / 8)
    assert found["weight_quantiles"][0] == 1.0
    assert (found["weight_faulty"], found["weight_sound"]) == (2.5, 4.0)


def test_a_sound_chunk_of_a_faulty_episode_is_sound() -> None:
    table = coded_table([3, 2])
    truth = Truth.of_episodes(
        table, CorruptionTruth("made", 0, table.episode_index, {"noise": np.array([True, False])})
    )
    truth.frames[:] = [True, False, False, False, False]
    scores = pd.DataFrame({"score": [0.0, 9.0, 9.0, 1.0, 1.0], "weight": 1.0, "valid": True})
    found = score_figures(scores, table, truth)
    assert found["auroc_sample"] == {"noise": 1.0, "any": 1.0} and found["auroc_episode"]["any"] == 0.0


def test_other_planting_code_plants_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("mt10-atlas", "gain 0.5", "sft", 0)
    before = cell.planted
    assert before == cell.planted and Cell("mt10-atlas", "hard", "sft", 0).planted is None
    monkeypatch.setattr(running, "planting_code", lambda: "other")
    assert cell.planted != before


@pytest.mark.parametrize(
    ("changed", "keep", "again"),
    [
        ({}, False, False),
        ({"recipe_hash": "other"}, True, True),
        ({"data_hash": "other"}, True, True),
        ({"behaviour": {"sft": 0}}, False, True),
        ({"behaviour": {"sft": 0}}, True, False),
    ],
)
def test_only_changed_cells_run_again(
    changed: dict[str, Any], keep: bool, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "dependencies_of", lambda cell: NOW)
    monkeypatch.setattr(behaviour, "versions", lambda parts: dict.fromkeys(parts, 1))
    cell = Cell("mt10-state", "ln-severe", "sft", 0)
    made = line("sft", "ln", "severe", **changed)
    assert (command.missing_of([cell], [made], keep) == {cell: NOW}) is again
    assert command.missing_of([Cell("mt10-state", "ln-severe", "sft", 1)], [made], keep)


def test_the_newest_line_of_a_cell_replaces_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(results, "WORK", tmp_path)
    for found in (line("sft", successes=1), line("ptr", successes=2), line("sft", successes=3)):
        results.append(found)
    assert {(read["arm"], read["successes"]) for read in results.read_lines()} == {("sft", 3), ("ptr", 2)}
    results.append(line("sft", suite="smoke-cross"))
    assert len(results.read_lines()) == 2
    assert [read["suite"] for read in results.read_lines(smoke=True)] == ["smoke-cross"]


def test_an_incomplete_line_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.jsonl")
    results.append(line("sft"))
    with results.RESULTS.open("a") as file:
        file.write('{"suite": "mt10-')
    results.append(line("ptr"))
    assert [read["arm"] for read in results.read_lines()] == ["sft", "ptr"]


def test_missing_runs_are_empty_cells_and_pages_change_only_between_markers(tmp_path: Path) -> None:
    tasks = SUITES["mt10-state"].tasks
    found = [
        line(arm, outcomes=dict.fromkeys(reversed(tasks), marks))
        for arm, marks in (("sft", "1100"), ("oracle", "1111"))
    ]
    made = report.outcomes_by_cell(found)
    table = report.success_table(made, "mt10-state", ["hard", "clean"], ["sft", "oracle", "ptr"])
    assert "| `sft` | 50.0 [35, 65] (1) |  |" in table
    assert "| `oracle` | 100.0 [91, 100] (1)<br>+50.0" in table
    assert "| `ptr` |  |  |" in table
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: main -->\nold\n<!-- end: main -->\nafter\n")
    fill_page(page, {"main": table, "other": "nothing"})
    fill_page(page, {"main": table})
    assert page.read_text() == f"before\n<!-- begin: main -->\n{table}\n<!-- end: main -->\nafter\n"


def test_a_mixture_trains_one_policy_and_specialists_one_per_control_mode() -> None:
    generalist, specialists = (Cell("cross-embodiment", "hard", arm, 1) for arm in ("oracle", "specialists"))
    assert generalist.groups == (("hand", "joints"),) and specialists.groups == (("hand",), ("joints",))
    rows = generalist.definition.rows
    assert len(rows) == 20 and {"reach-v3 hand", "reach-v3 joints"} <= set(rows)
    weights = {control: Path(f"{control}.parquet") for control in ("hand", "joints")}
    recipe = load_recipe(*running._recipe_of(generalist, ("hand", "joints"), weights))
    sources = [SourceSpec.parse(given, number) for number, given in enumerate(recipe.data.sources)]
    assert [source.embodiment for source in sources] == ["metaworld_sawyer", "metaworld_sawyer_joints"]
    assert [source.weights for source in sources] == ["hand.parquet", "joints.parquet"]
    assert {source.corruption for source in sources} == {"hard"} and {
        source.corruption_seed for source in sources
    } == {1}
    steps = []
    for group in specialists.groups:
        recipe = load_recipe(*running._recipe_of(specialists, group))
        assert recipe.data.dataset == str(specialists.definition.demonstrations_of(1, *group))
        assert (recipe.data.corruption, recipe.data.corruption_seed) == ("hard", 1)
        steps.append(recipe.training.max_steps)
    assert sum(steps) == load_recipe(*running._recipe_of(generalist, ("hand", "joints"))).training.max_steps
    assert len({str(specialists.folder_of(group)) for group in specialists.groups}) == 2


def test_suites_have_known_tasks_and_goal_tasks_come_in_pairs() -> None:
    from hf_ptr.envs.metaworld.tasks import INSTRUCTIONS

    for suite in SUITES.values():
        assert set(suite.tasks) <= set(INSTRUCTIONS)
    scenes = [task.split("-")[0] for task in suites.GOAL_TASKS]
    assert all(scenes.count(scene) == 2 for scene in scenes)
