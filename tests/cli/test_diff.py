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
        "Findings: 1 new, 0 gone, 2 changed, 1 unchanged; 1 new fault; 2 episodes with another mean weight"
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


def test_other_episodes_are_a_difference(tmp_path: Path) -> None:
    files = [scored(tmp_path, name, [LAG], episodes) for name, episodes in (("before", 3), ("after", 4))]
    assert hf_ptr("diff", *files, "--fail-on", "any").returncode == 1


def edited(folder: Path, source: Path, parts: Sequence[tuple[int, int]], edits: dict | None = None) -> Path:
    """The edits of a copy, by the source episode and its first frame of each part; `edits` are those of the source."""
    (folder / "meta").mkdir(parents=True)
    episodes = [
        {"episode_index": number, "source_episode": episode, "source_first_frame": first}
        for number, (episode, first) in enumerate(parts)
    ]
    content = {"source": source.name, "episodes": episodes, **({} if edits is None else {"earlier": edits})}
    (folder / "meta" / "hf_ptr_edits.json").write_text(json.dumps(content))
    return folder


def edits_of(folder: Path) -> dict:
    return json.loads((folder / "meta" / "hf_ptr_edits.json").read_text())


# Episode 0 was dropped, and frames 10 to 19 of episode 2 cut out, which split it in two.
PARTS = [(1, 0), (2, 0), (2, 20), (3, 0)]
PAUSE = dataclasses.replace(RETRY, check="time/pause", first_frame=25, last_frame=29)


def test_an_edited_dataset_is_compared_in_the_frames_of_its_source(tmp_path: Path) -> None:
    source = tmp_path / "a"
    data = edited(tmp_path / "edited", source, PARTS)
    before = scored(tmp_path, "before", [LAG, RETRY, PAUSE], dataset=str(source))
    moved = dataclasses.replace(PAUSE, episode_index=2, first_frame=5, last_frame=9)
    after = scored(tmp_path, "after", [dataclasses.replace(LAG, episode_index=0), moved], dataset=str(data))
    found = compared(before, after)
    assert [one["check"] for one in found["gone"]] == ["progress/retry"]
    assert (found["new"], found["changed"], found["same"]) == ([], [], 2)
    assert (found["only_before"], found["only_after"]) == ([0], [])
    # The edited one may be the first.
    found = compared(after, before)
    assert [one["check"] for one in found["new"]] == ["progress/retry"] and found["same"] == 2
    odd = [
        json.dumps(edits_of(data)).replace('"source_first_frame": 20', f'"source_first_frame": {number}')
        for number in ("Infinity", "1e30", "1.5", str(10**30), "true", "-1")
    ]
    for damaged in ("{}", '{"source": "a"}', *odd):
        (data / "meta" / "hf_ptr_edits.json").write_text(damaged)
        assert "edited/meta/hf_ptr_edits.json is damaged; run hf-ptr apply again" in the_line(
            hf_ptr("diff", before, after)
        )


def test_copies_of_copies_and_two_copies_are_compared_where_both_come_from(tmp_path: Path) -> None:
    source = tmp_path / "a"
    one = edited(tmp_path / "one", source, PARTS)
    # Without the first of `one`, and from frame 5 of its third.
    two = edited(tmp_path / "two", one, [(1, 0), (2, 5), (3, 0)], edits_of(one))
    other = edited(tmp_path / "other", source, [(2, 0), (3, 0)])
    at_source = scored(tmp_path, "source", [PAUSE], dataset=str(source))
    at_one = scored(
        tmp_path, "s1", [dataclasses.replace(PAUSE, episode_index=2, first_frame=5, last_frame=9)], dataset=str(one)
    )
    at_two = scored(
        tmp_path, "s2", [dataclasses.replace(PAUSE, episode_index=1, first_frame=0, last_frame=4)], 3, str(two)
    )
    at_other = scored(tmp_path, "s3", [dataclasses.replace(PAUSE, episode_index=0)], 2, str(other))
    for first in (at_source, at_one, at_two, at_other):
        for second in (at_source, at_one, at_two, at_other):
            assert compared(first, second)["same"] == 1, (first, second)
    assert compared(at_one, at_two)["only_before"] == [0]


def test_scores_of_another_dataset_are_refused_or_said_to_be(tmp_path: Path) -> None:
    copy = edited(tmp_path / "copy", tmp_path / "a", PARTS)
    after = scored(tmp_path, "after", [], dataset=str(copy))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    line = the_line(hf_ptr("diff", scored(tmp_path, "before", [], dataset=str(tmp_path / "b")), after))
    assert f"{copy} is an edited copy of 'a', and the other scores are of {tmp_path / 'b'}" in line
    # The edits of a copy that has been moved cannot be read.
    before = scored(tmp_path, "source", [], dataset=str(tmp_path / "a"))
    copy.rename(tmp_path / "elsewhere")
    done = hf_ptr("diff", before, after)
    assert done.returncode == 0 and f"{copy} does not exist, so its edits are unknown" in " ".join(done.stderr.split())


def test_scores_without_findings_are_refused(tmp_path: Path) -> None:
    with_findings = scored(tmp_path, "some", [LAG])
    table = leading_table(2, frames=FRAMES)
    frame = score_frame(table, score=1.0, weight=1.0, valid=True, scorer="made")
    alone = write_scores(frame, tmp_path / "alone.parquet")
    assert "has no findings to compare" in the_line(hf_ptr("diff", with_findings, alone))
    assert "does not exist" in the_line(hf_ptr("diff", tmp_path / "nowhere.parquet", alone))
