"""`hf-ptr apply`: an edited copy, with the plan, the provenance and refusals."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import coded_table, snapshot, with_camera, write_v21
from spoiling import edit_rows
from typer.testing import CliRunner

from hf_ptr.cli import app
from hf_ptr.data.expected_findings import EXPECTED_FILE, dump_expected, expected_of_dataset
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import findings_written
from hf_ptr.detection.source_dataset import source_attributes
from hf_ptr.edits.apply import action_columns, prepare
from hf_ptr.edits.choices import Choices
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import StagedFolder

CAMERAS = ("observation.images.top", "observation.images.wrist")
LENGTHS = [60, 50, 40, 45]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras at 20 frames per second."""
    table = coded_table(LENGTHS)
    features = with_camera(table, CAMERAS[0]).features | with_camera(table, CAMERAS[1], (32, 32)).features
    table.features.clear()
    table.features.update(features)
    root = write_v21(table, tmp_path_factory.mktemp("apply") / "door")
    accepted = [
        {"check": "action/noise", "episodes": "0", "frames": "20:45", "reason": "a heavy tool"},
        {"check": "camera/frozen", "episodes": "2", "reason": "not watched"},
        {"check": "time/slow", "episodes": "all", "reason": "careful"},
    ]
    (root / "meta" / EXPECTED_FILE).write_text(dump_expected(accepted))
    return root


@pytest.fixture(scope="module")
def findings(dataset: Path) -> Path:
    scores = dataset.parent / "scores.parquet"
    found = [
        Finding("progress/retry", 0, 25, 33, 0.9, "note", 0.4, "seconds", "closes twice", ""),
        Finding("action/lag", 1, 0, 49, 0.9, "fault", 3.2, "frames", "commands 3.2 frames late", ""),
        Finding("camera/frozen", 2, 0, 39, 0.9, "fault", 2.0, "s", "the picture stands still", ""),
        Finding("time/slow", 3, 0, 44, 0.9, "note", 0.4, "share", "slow", ""),
        Finding("action/noise", 0, 0, 59, 0.9, "accepted", 0.4, "share", "shakes", "accepted: a heavy tool"),
    ]
    with findings_written(
        scores, found, {}, action_feature="action", **source_attributes(range(4), LENGTHS, 20.0)
    ) as detection:
        assert detection
    return scores.with_name("findings.parquet")


def run(*arguments: Any) -> str:
    done = CliRunner().invoke(app, ["apply", *map(str, arguments)])
    assert done.exit_code == 0, done.exception
    return done.output


def refusal(*arguments: Any) -> str:
    refused = CliRunner().invoke(app, ["apply", *map(str, arguments)]).exception
    assert isinstance(refused, InputError)
    return str(refused)


def test_the_plan_is_printed_and_nothing_written(dataset: Path, findings: Path) -> None:
    before = snapshot(dataset.parent)
    lines = run(dataset, "--findings", findings, "--dry-run", "--relabel", "3=close it").splitlines()
    assert [line.split()[:4] for line in lines[:5]] == [
        ["episode", "frames", "edit", "check"],
        ["0", "25-33", "cut", "progress/retry"],
        ["1", "0-49", "shift", "action/lag"],
        ["2", "0-39", "drop", "camera/frozen"],
        ["3", "0-44", "relabel", "-"],
    ]
    assert lines[1].endswith("closes twice")
    assert lines.pop(5) == "kept: slow motion in episode 3; "
    assert lines.pop(7) == (
        "1 episode is divided: after a cut or split in the middle, the frames before it and those after it are "
        "episodes of their own"
    )
    assert lines[5] == "0 episodes unchanged, 3 edited (1 cut, 1 shift, 1 relabel), 1 dropped (2)"
    # The command that writes this plan.
    assert lines[-1].startswith(f"  hf-ptr apply {dataset} --findings {findings} --out ")
    assert lines[-1].endswith("_edited --relabel '3=close it'")
    assert lines[6] == "4 episodes become 4; 143 of 195 frames are kept (73.3%)"
    assert snapshot(dataset.parent) == before


def test_the_copy_is_the_planned_one(dataset: Path, findings: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "clean", snapshot(dataset)
    printed = run(dataset, "--findings", findings, "--out", out)
    assert snapshot(dataset) == before and [path.name for path in tmp_path.iterdir()] == ["clean"]
    assert "video: 286 frames copied without re-encoding, 0 encoded again" in printed
    assert f"hf-ptr validate {out}" in printed and f"hf-ptr score {out} --out clean.parquet" in printed
    assert validate_dataset(out, every_frame=True).errors == []
    edits = json.loads((out / "meta/hf_ptr_edits.json").read_text())
    places = [
        (e["source_episode"], e["source_first_frame"], e["source_last_frame"], e["action_shift"])
        for e in edits["episodes"]
    ]
    assert places == [(0, 0, 24, 0), (0, 34, 59, 0), (1, 0, 46, 3), (3, 0, 44, 0)]
    assert edits["episodes"][1]["edits"][0] == {
        "first_frame": 25, "last_frame": 33, "edit": "cut", "check": "progress/retry", "reason": "closes twice"
    }  # fmt: skip
    entries = [
        (one.check, one.episodes and [each for span in one.episodes for each in span], one.frames)
        for one in expected_of_dataset(out)
    ]
    assert entries == [
        ("action/noise", [0], (20, 25)), ("action/noise", [1], (0, 11)), ("time/slow", None, None)
    ]  # fmt: skip
    assert (edits["source"], edits["source_version"], edits["findings"]) == ("door", "v2.1", "findings.parquet")
    assert [(each["source_episode"], each["edits"][0]["check"]) for each in edits["dropped"]] == [(2, "camera/frozen")]
    source, copy = read_dataset(dataset), read_dataset(out)
    for number, (episode, first, last, shift) in enumerate(places):
        rows = slice(copy.starts[number], copy.starts[number] + copy.lengths[number])
        at = int(source.starts[episode])
        for name, later in (("observation.state", 0), ("action", shift)):
            taken = source.columns[name][at + first + later : at + last + 1 + later]
            assert copy.columns[name][rows].tobytes() == taken.tobytes()
        for camera in CAMERAS:
            shown, recorded = (FrameReader(camera, table.videos[camera], 20.0) for table in (copy, source))
            frames = list(range(last - first + 1))
            np.testing.assert_array_equal(
                shown.read([number] * len(frames), frames),
                recorded.read([episode] * len(frames), [first + frame for frame in frames]),
            )


def test_episodes_are_left_out_and_instructions_given(dataset: Path, findings: Path, tmp_path: Path) -> None:
    options = [
        "--findings",
        findings,
        "--skip-episodes",
        "0,2",
        "--edit",
        "action/lag=keep",
        "--relabel",
        "3=close it",
    ]
    assert "1 episode unchanged, 1 edited (1 relabel), 0 dropped, 2 left out" in run(
        dataset, *options, "--out", tmp_path / "out"
    )
    copy = read_dataset(tmp_path / "out")
    assert copy.lengths.tolist() == [50, 45]
    assert [copy.tasks[copy.task_index[row]] for row in (0, -1)] == ["do task 1", "close it"]
    again = ["--findings", findings, "--only", "time/slow"]
    printed = run(dataset, *again, "--out", tmp_path / "none")
    assert "asks for no edit" in printed and "kept: slow motion in episode 3" in printed
    assert not (tmp_path / "none").exists()


def test_notes_that_stay_are_named_with_their_edit(dataset: Path, tmp_path: Path) -> None:
    found = [
        Finding("state/stale_start", 0, 0, 2, 0.9, "note", 0.4, "sd", "leaps", "drop these frames"),
        Finding("time/gap", 1, 20, 21, 0.9, "note", 0.4, "s", "a gap", "split the episode"),
        Finding("time/slow", 3, 0, 44, 0.9, "note", 0.4, "share", "slow", "nothing has to be done"),
    ]
    with findings_written(tmp_path / "scores.parquet", found, {}):
        pass
    given = [dataset, "--findings", tmp_path / "findings.parquet", "--dry-run"]

    def kept(*options: str) -> list[str]:
        return [line for line in run(*given, *options).splitlines() if line.startswith("kept: ")]

    stale = "kept: stale first frames in episode 0; drop these frames (--edit state/stale_start=cut)"
    gap = "kept: gaps in the recording in episode 1; split the episode (--edit time/gap=split)"
    slow = "kept: slow motion in episode 3; nothing has to be done"
    assert kept() == [stale, gap, slow]
    # The printed options work, and what the user has decided is not said again.
    assert kept("--edit", "state/stale_start=cut") == [gap, slow]
    assert kept("--edit", "time/gap=split", "--skip", "time/slow") == [stale]
    assert kept("--skip-episodes", "0,3") == [gap]


def test_a_copy_that_lerobot_refuses_comes_with_the_command_for_one_that_it_reads(
    dataset: Path, findings: Path, tmp_path: Path
) -> None:
    command = "hf-ptr convert lerobot {0} {0}_v30 --even-times"
    assert "hf-ptr convert" not in run(dataset, "--findings", findings, "--out", tmp_path / "even")
    uneven = Path(shutil.copytree(dataset, tmp_path / "uneven"))
    stamps = np.arange(LENGTHS[0]) / 20 + 0.004 * (np.arange(LENGTHS[0]) % 2)
    edit_rows("data/chunk-000/episode_000000.parquet", "timestamp", lambda _: stamps.tolist())(uneven)
    out = tmp_path / "copy"
    assert f"  {command.format(out)}   # for LeRobot" in run(uneven, "--findings", findings, "--out", out)


def test_a_copy_of_a_copy_names_both_sources(dataset: Path, findings: Path, tmp_path: Path) -> None:
    run(dataset, "--findings", findings, "--out", tmp_path / "one")
    with findings_written(tmp_path / "scores.parquet", [], {}):
        pass
    of_one = tmp_path / "findings.parquet"
    run(tmp_path / "one", "--findings", of_one, "--skip-episodes", "0", "--out", tmp_path / "two")
    edits = json.loads((tmp_path / "two/meta/hf_ptr_edits.json").read_text())
    assert (edits["source"], edits["earlier"]["source"], edits["left_out"]) == ("one", "door", "0")
    # Episodes 0 and 1 are the parts before and after a cut, and the shifted one lacks its last actions.
    assert read_dataset(tmp_path / "one").cut_ends == {0: (False, True), 1: (True, False), 2: (False, True)}
    assert read_dataset(tmp_path / "two").cut_ends == {0: (True, False), 1: (False, True)}
    assert read_dataset(dataset).cut_ends == {}
    (tmp_path / "two/meta/hf_ptr_edits.json").write_text('{"episodes": 3}')
    assert read_dataset(tmp_path / "two").cut_ends == {}


def test_wrong_input_is_one_line_and_writes_nothing(dataset: Path, findings: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    (full / "kept").mkdir(parents=True)
    given = [dataset, "--findings", findings]
    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    (damaged / "data/chunk-000/episode_000003.parquet").write_bytes(b"no table")
    before = snapshot(tmp_path)
    assert "--out is missing" in refusal(*given)
    assert "is not an empty folder" in refusal(*given, "--out", full)
    for dry in ([], ["--dry-run"]):
        assert "choose a folder outside of it" in refusal(*given, "--out", dataset / "copy", *dry)
    assert "findings.parquet does not exist" in refusal(
        dataset, "--findings", tmp_path / "findings.parquet", "--dry-run"
    )
    assert "has no episode 9" in refusal(*given, "--dry-run", "--relabel", "9=open it")
    for dry in ([], ["--dry-run"]):
        assert "no episode of" in refusal(*given, "--out", tmp_path / "out", "--episodes", "2", *dry)
    assert "is not usable" in refusal(damaged, *given[1:], "--dry-run")
    assert snapshot(tmp_path) == before and not (dataset / "copy").exists()


@pytest.mark.parametrize(
    ("lengths", "made", "message"),
    [
        ([60, 50, 40, 44], {}, "it was made of /data/door, whose episodes have other lengths"),
        ([60, 50, 40], {}, "it was made of /data/door, whose episodes have other ids"),
        (LENGTHS, {"corruption": "misaligned"}, "it has faults planted with --corruption misaligned"),
        ([60, 20, 40, 45], {"scored_lengths": None}, "a finding of episode 1 ends at frame 49, and this episode of"),
        ([60], {"scored_lengths": None}, "episode 1 of a finding is not in"),
    ],
)
def test_findings_of_another_dataset_are_refused(
    lengths: list[int], made: dict[str, Any], message: str, tmp_path: Path
) -> None:
    found = [Finding("time/slow", 1, 0, 49, 0.9, "note", 0.4, "share", "slow", "")]
    source = {"dataset": "/data/door", **source_attributes(range(4), LENGTHS, 20.0), **made}
    with findings_written(tmp_path / "scores.parquet", found, {}, **source):
        pass
    root = write_v21(coded_table(lengths), tmp_path / "door")
    given = [root, "--findings", tmp_path / "findings.parquet", "--dry-run"]
    assert f"findings.parquet is not of this dataset: {message}" in refusal(*given)
    if lengths != LENGTHS:
        return
    with findings_written(tmp_path / "scores.parquet", found, {}, **{**source, "corruption": "clean"}):
        pass
    # Findings of some episodes, in a folder that was moved.
    assert "asks for no edit" in run(*given)
    with findings_written(tmp_path / "scores.parquet", found, {}, **source_attributes([1, 3], [50, 45], 20.0)):
        pass
    assert "asks for no edit" in run(*given)


def test_checks_of_tables_and_videos_show_their_progress(dataset: Path, findings: Path) -> None:
    seen: list[str] = []

    def progress(what: str, jobs: Any) -> Any:
        seen.append(what)
        return jobs

    prepare(dataset, findings, Choices(), progress=progress)
    assert len(seen) >= 3


def test_a_kill_leaves_no_dataset(dataset: Path, findings: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The last file is written, and the folder not yet renamed."""

    def killed(self: StagedFolder) -> None:
        assert (self.path() / "meta/hf_ptr_edits.json").is_file()
        os._exit(9)

    monkeypatch.setattr(StagedFolder, "publish", killed)
    child = os.fork()
    if not child:
        run(dataset, "--findings", findings, "--out", tmp_path / "out")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "out").exists() and all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_the_columns_of_the_actions() -> None:
    names = ["observation.state", "action", "action.grip", "actions.arm", "other", "next.reward"]
    info = {"features": {name: {"dtype": "float32", "shape": [2], "names": None} for name in names}}
    assert action_columns(info, "other, action") == ["other", "action", "action.grip", "actions.arm"]
    del info["features"]["action"]
    info["features"] = {"actions": info["features"]["other"], "state": info["features"]["other"]}
    assert action_columns(info, "action") == ["actions"]
