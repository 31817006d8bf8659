"""Recorded results are current if and only if the code behaves the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.robustness import behaviour, running
from benchmarks.robustness.arms import arm_of
from benchmarks.robustness.planting import is_planted
from benchmarks.robustness.results import cell_of, read_lines
from benchmarks.robustness.running import Cell
from hf_ptr.data.lerobot.writer import write_table

LATEST = "ab744d1"
"""The last commit that measured lines before behaviour had versions; its code behaves as version 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all parts, so that weightings reuse the runs of the recipes."""
    return tmp_path_factory.mktemp("behaviour")


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.slow if part == "calibrated" else ()) for part in behaviour.PARTS]
)
def test_the_code_reproduces_the_reference_figures(part: str, folder: Path) -> None:
    found = behaviour.differences(part, behaviour.measure(part, folder))
    assert not found, "if intended, run: python -m benchmarks.robustness.behaviour --update\n" + "\n".join(found)


def test_data_hash_is_unchanged(tmp_path: Path) -> None:
    write_table(behaviour.synthetic_table(), tmp_path / "data")
    # Computed at 833ff65.
    assert running.data_hash(tmp_path / "data") == "1e5690719de70ce6"


@pytest.mark.slow
def test_every_recorded_line_has_the_current_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "data_hash", lambda *folders: "not recorded here")
    # The settings of a planted cell contain the hash of data that only its run has.
    lines = [line for line in read_lines() if not is_planted(line["corruption"])]
    assert len(lines) >= 397
    for line in lines:
        assert running.dependencies_of(Cell(*cell_of(line)))["recipe_hash"] == line["recipe_hash"], cell_of(line)


def test_lines_of_the_same_behaviour_are_current_and_older_ones_need_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = copy.deepcopy(behaviour._reference())
    for part in reference["parts"].values():
        part["version"] = 1
    monkeypatch.setattr(behaviour, "_reference", lambda: reference)
    up_to_date = {False: set(), True: set()}
    for line in read_lines():
        if "code_hash" not in line:
            continue
        cell = Cell(*cell_of(line))
        depends_on = {name: line[name] for name in running.INPUTS}
        for keep, commits in up_to_date.items():
            if running.is_up_to_date(cell, line, depends_on, keep=keep):
                commits.add(line["commit"])
    assert up_to_date[False] == {LATEST}
    assert {LATEST, "4d74e44", "cda9043"} < up_to_date[True]


def test_a_new_version_of_a_part_outdates_the_lines_that_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reference: dict[str, Any] = {
        "code_hashes_of_version_1": ["same"],
        "parts": {part: {"version": 1, "figures": {}} for part in behaviour.PARTS},
    }
    monkeypatch.setattr(behaviour, "_reference", lambda: reference)
    parts = behaviour.parts_of(arm_of("random"))
    assert parts == ("sft", "random", "ptr")
    lines = [{"behaviour": behaviour.versions(parts)}, {"code_hash": "same"}, {"code_hash": "other"}]
    assert [behaviour.is_current(line, parts) for line in lines] == [True, True, False]
    reference["parts"]["calibrated"]["version"] = 2
    assert [behaviour.is_current(line, parts) for line in lines] == [True, True, False]
    reference["parts"]["ptr"]["version"] = 2
    assert not any(behaviour.is_current(line, parts) for line in lines)
    assert behaviour.is_current({"behaviour": behaviour.versions(parts)}, parts)


def test_an_arm_depends_on_its_recipe_its_weighting_and_the_run_it_needs() -> None:
    assert behaviour.parts_of(arm_of("ptr+beta=3.0")) == ("ptr",)
    assert behaviour.parts_of(arm_of("loss")) == ("sft", "loss")
    assert Cell("cross-embodiment", "hard", "calibrated", 0).parts == ("calibrated", "robots")
    assert Cell("mt10-pixels", "hard", "oracle", 0).parts == ("sft", "oracle")


def test_figures_may_differ_by_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {"train_loss": 2.0, "weight": [0.25, 1.0, 4.0]}
    monkeypatch.setattr(behaviour, "_reference", lambda: {"parts": {"sft": {"version": 1, "figures": recorded}}})
    assert behaviour.differences("sft", {"train_loss": 2.001, "weight": [0.25, 1.0, 4.0]}) == []
    for other in ({"train_loss": 2.01}, {"weight": [0.25, 1.0]}, {"weight": [0.25, 1.1, 4.0]}, {"more": 1.0}):
        assert len(behaviour.differences("sft", {**recorded, **other})) == 1
    assert len(behaviour.differences("sft", {"train_loss": 2.0})) == 1
    assert len(behaviour.differences("length", recorded)) == 2
