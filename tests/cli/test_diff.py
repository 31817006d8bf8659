"""`hf-ptr diff`: new, gone and changed findings of two scorings, and the exit code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import hf_ptr, the_line
from leading_table import leading_table

from hf_ptr.data.score_file import score_frame, write_scores
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import findings_written

FRAMES = 40
LAG = Finding("action/lag", 1, 0, FRAMES - 1, 0.99, "fault", 6.0, "frames", "commands 6 frames late", "shift them")
RETRY = Finding("progress/retry", 2, 10, 19, 0.9, "note", 1.0, "retries", "a failed grasp", "cut it out")


def scored(
    folder: Path, name: str, findings: Sequence[Finding], episodes: int = 4, dataset: str = "a", low: int | None = None
) -> Path:
    table = leading_table(episodes, frames=FRAMES)
    weight = np.full((episodes, FRAMES), 4.0)
    if low is not None:
        weight[low] = 1.0
    frame = score_frame(table, score=1.0, weight=weight.ravel(), valid=True, scorer="made")
    path = folder / f"{name}.parquet"
    with findings_written(path, findings, {}, dataset=dataset) as detection:
        return write_scores(frame, path, dataset=dataset, detection=detection)


def compared(*arguments: object) -> dict:
    done = hf_ptr("diff", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_findings_are_new_gone_changed_or_the_same(tmp_path: Path) -> None:
    spike = dataclasses.replace(LAG, check="action/spike", episode_index=3, first_frame=5, last_frame=7)
    moved = dataclasses.replace(RETRY, first_frame=12, last_frame=29)
    smaller = dataclasses.replace(LAG, amount=3.0)
    pause = dataclasses.replace(RETRY, check="time/pause", first_frame=30, last_frame=35)
    before = scored(tmp_path, "before", [LAG, RETRY, pause], low=1)
    after = scored(tmp_path, "after", [smaller, moved, pause, spike], low=3)
    found = compared(before, after)
    assert [one["check"] for one in found["new"]] == ["action/spike"] and found["gone"] == [] and found["same"] == 1
    assert [(one["before"]["check"], one["what"]) for one in found["changed"]] == [
        ("action/lag", ["amount"]),
        ("progress/retry", ["place"]),
    ]
    assert found["weights"] == [
        {"episode_index": 1, "before": 0.25, "after": 1.0},
        {"episode_index": 3, "before": 1.0, "after": 0.25},
    ]
    shown = hf_ptr("diff", before, after).stdout
    assert shown.startswith(
        "1 new, 0 gone, 2 changed, 1 unchanged findings; 1 new fault; 2 episodes with another mean weight"
    )
    assert "before: 6 frames" in shown and "before: frames 10-19" in shown
    gone = compared(after, before)
    assert [one["check"] for one in gone["gone"]] == ["action/spike"] and gone["new"] == []


@pytest.mark.parametrize(
    ("before", "after", "least", "code"),
    [
        ([], [LAG], "never", 0),
        ([], [LAG], "new-fault", 1),
        ([LAG], [], "new-fault", 0),
        ([LAG], [], "any", 1),
        ([LAG], [LAG], "any", 0),
        ([], [RETRY], "new-fault", 0),
        # A finding that was accepted and is not any more.
        ([dataclasses.replace(LAG, severity="accepted")], [LAG], "new-fault", 1),
    ],
)
def test_the_exit_code(tmp_path: Path, before: list[Finding], after: list[Finding], least: str, code: int) -> None:
    files = [scored(tmp_path, name, found) for name, found in (("before", before), ("after", after))]
    assert hf_ptr("diff", *files, "--fail-on", least).returncode == code
    findings = [file.with_name(f"{file.stem}.findings.parquet") for file in files]
    assert hf_ptr("diff", *findings, "--fail-on", least).returncode == code


def test_an_edited_dataset_is_compared_in_the_frames_of_its_source(tmp_path: Path) -> None:
    """Episode 0 was dropped, and the retry of episode 2 cut out, which split it in two."""
    data = tmp_path / "edited"
    (data / "meta").mkdir(parents=True)
    parts = [(0, 1, 0), (1, 2, 0), (2, 2, 20), (3, 3, 0)]
    edits = [
        {"episode_index": number, "source_episode": source, "source_first_frame": first}
        for number, source, first in parts
    ]
    (data / "meta" / "hf_ptr_edits.json").write_text(json.dumps({"episodes": edits}))
    pause = dataclasses.replace(RETRY, check="time/pause", first_frame=25, last_frame=29)
    before = scored(tmp_path, "before", [LAG, RETRY, pause])
    moved = dataclasses.replace(pause, episode_index=2, first_frame=5, last_frame=9)
    after = scored(tmp_path, "after", [dataclasses.replace(LAG, episode_index=0), moved], dataset=str(data))
    found = compared(before, after)
    assert [one["check"] for one in found["gone"]] == ["progress/retry"]
    assert (found["new"], found["changed"], found["same"]) == ([], [], 2)
    assert (found["only_before"], found["only_after"]) == ([0], [])
    (data / "meta" / "hf_ptr_edits.json").write_text("{}")
    assert "meta/hf_ptr_edits.json of the second dataset is damaged" in the_line(hf_ptr("diff", before, after))


def test_scores_without_findings_are_refused(tmp_path: Path) -> None:
    with_findings = scored(tmp_path, "some", [LAG])
    table = leading_table(2, frames=FRAMES)
    frame = score_frame(table, score=1.0, weight=1.0, valid=True, scorer="made")
    alone = write_scores(frame, tmp_path / "alone.parquet")
    assert "has no findings to compare" in the_line(hf_ptr("diff", with_findings, alone))
    assert "does not exist" in the_line(hf_ptr("diff", tmp_path / "nowhere.parquet", alone))
