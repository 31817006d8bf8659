"""The output of `hf-ptr validate`: errors first, one line a kind, the verdict and the next command last."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import hf_ptr, the_line
from data_helpers import drifting_table, write_v21
from spoiling import damage, edit_info, edit_rows, remove, set_row

from hf_ptr.data.lerobot.validation import Problem, validate_dataset
from hf_ptr.data.lerobot.validation_summary import problem_lines

FILE = "data/chunk-000/episode_{:06d}.parquet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_v21(drifting_table([24] * 12), tmp_path / "mine")


def test_errors_come_first_and_one_line_a_kind(data: Path) -> None:
    for episode in range(7, 19):
        edit_rows(FILE.format(episode), "timestamp", lambda t: (np.asarray(t) + (np.arange(24) > 4)).tolist())(data)
    for episode in (8, 9, 10, 12):
        remove(FILE.format(episode))(data)
    edit_rows(FILE.format(15), "action", set_row(3, [float("nan")] * 2))(data)
    shown = hf_ptr("validate", data)
    lines = shown.stdout.splitlines()
    assert shown.returncode == 2 and len(lines) == 10, shown.stdout
    missing, nan, gaps, drift, *features = lines[:7]
    verdict = lines[7:]
    assert features == ["features:", "  observation.state  vector of 2", "  action             vector of 2"]
    assert missing == f"error: 4 episodes (8:11,12): {FILE.format(8)} is missing (first: episode 8)"
    assert nan == "error: episode 15, frame 3: feature 'action' is NaN or infinite"
    assert gaps.startswith(
        "note: 8 episodes (7,11,13:19): 8 gaps in the timestamps, the longest 1.05 s before frame 5 of episode 7"
    )
    assert drift.startswith("note: 8 episodes (7,11,13:19): timestamps drift up to 20.0 frames")
    counted = "12 episodes, 288 frames, 0 cameras; 5 errors, 0 warnings, 16 notes"
    assert verdict[0] == f"{data} is usable only without 5 episodes: {counted}"
    command = f"hf-ptr score {data} --skip-episodes 8,9,10,12,15"
    assert command in verdict[1] and verdict[2].endswith('skip_episodes: "8,9,10,12,15"')
    listed = json.loads(hf_ptr("validate", data, "--json").stdout)
    assert len(listed["problems"]) == 21 and listed["skip_episodes"] == [8, 9, 10, 12, 15]
    again = hf_ptr("validate", data, "--skip-episodes", "8,9,10,12,15")
    assert again.returncode == 0 and f"{data} is usable: " in again.stdout and command in again.stdout


def test_counts_are_those_of_the_selection(data: Path) -> None:
    shown = hf_ptr("validate", data, "--episodes", "8:11", "--skip-episodes", "9")
    assert "2 episodes, 48 frames" in shown.stdout.splitlines()[-2]
    remove(FILE.format(8))(data)
    listed = json.loads(hf_ptr("validate", data, "--episodes", "8:11", "--json").stdout)
    assert (listed["episodes"], listed["frames"], listed["skip_episodes"]) == (3, 72, [8])
    # Nothing is left without the only episode of the selection.
    assert json.loads(hf_ptr("validate", data, "--episodes", "8", "--json").stdout)["skip_episodes"] is None
    line = the_line(hf_ptr("validate", data, "--episodes", "9,10", "--skip-episodes", "9:12"))
    assert line == f"hf-ptr: no episodes were selected from {data}; select at least one"


def test_the_worst_problem_of_a_kind_is_shown() -> None:
    problems = [
        Problem(f"{n} gaps", episode, None, "warning", "gaps", n) for episode, n in ((3, 2.0), (4, 9.0), (5, 1.0))
    ]
    other = Problem("column 'a' repeats")
    assert problem_lines([*problems, other]) == [
        "error: column 'a' repeats",
        "warning: 3 episodes (3:6): 9.0 gaps (worst: episode 4)",
    ]


def test_gaps_are_counted_in_all_episodes() -> None:
    gaps = [
        Problem("5 gaps in the timestamps, the longest 2 s before frame 9", 0, 2, "note", "timestamp_gaps", 2.0),
        Problem("7 gaps in the timestamps, the longest 1 s before frame 3", 4, 3, "note", "timestamp_gaps", 1.0),
    ]
    assert problem_lines(gaps) == [
        "note: 2 episodes (0,4): 12 gaps in the timestamps, the longest 2 s before frame 9 of episode 0; the most "
        "in episode 4 (7)"
    ]


@pytest.mark.parametrize("name", ["a", "data", "meta", "e", "info.json"])
def test_the_name_of_the_folder_is_not_cut_out_of_messages(
    data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset is given by a name that occurs in the messages, too."""
    data.rename(data.parent / name)
    monkeypatch.chdir(data.parent)
    root = Path(name)
    remove(FILE.format(8))(root)
    damage(FILE.format(9), 300)(root)
    messages = [problem.message for problem in validate_dataset(root).problems]
    assert messages[0] == f"{FILE.format(8)} is missing" and messages[1].startswith(f"{FILE.format(9)} is damaged: ")
    edit_info(fps=0)(root)
    (only,) = validate_dataset(root).problems
    assert only.message.startswith("meta/info.json: fps is 0; ")
    assert validate_dataset(root / "none").problems[0].message.startswith(f"{root / 'none'} does not exist")
