"""`hf-ptr export`: weights and findings in the formats of other trainers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import hf_ptr, the_line
from data_helpers import write_v21
from leading_table import leading_table

from hf_ptr.data.expected_findings import read_expected
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.score_file import score_frame, write_scores
from hf_ptr.detection.accepted import with_accepted
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import findings_written
from hf_ptr.exports.rabc import rabc_weights, weight_error

FRAMES, EPISODES = 40, 6
FINDINGS = (
    Finding("action/lag", 4, 0, FRAMES - 1, 0.99, "fault", 6.0, "frames", "commands 6 frames late", "shift them"),
    Finding("progress/retry", 2, 12, 19, 0.9, "note", 1.0, "retries", "a failed grasp", "cut it out"),
    Finding("time/pause", 2, 15, 17, 0.9, "note", 0.1, "s", "a rest", "nothing has to be done"),
)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes; the weights of frames 10 to 19 of episode 2 and of all of episode 4 are low."""
    table = leading_table(EPISODES, frames=FRAMES)
    weight = np.full((EPISODES, FRAMES), 4.0)
    weight[2, 10:20] = weight[4] = 0.25
    frame = score_frame(table, score=1.0, weight=weight.ravel(), valid=True, scorer="made")
    path = tmp_path_factory.mktemp("export") / "scores.parquet"
    with findings_written(path, FINDINGS, {}) as detection:
        return write_scores(frame, path, dataset="data/mine", detection=detection)


def test_static_weights_have_mean_1_and_keep_their_ratios(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.parquet"
    done = hf_ptr("export", scores, "--to", "lerobot-static", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{out}: weights of {EPISODES * FRAMES} frames, scaled to mean 1" in done.stdout
    train = "lerobot-train --policy.type=act --policy.push_to_hub=false --dataset.repo_id=data/mine"
    assert f"  {train} --sample_weighting.path={out}\n" in done.stdout
    table, given = pd.read_parquet(out), pd.read_parquet(scores)
    assert list(table.columns) == ["index", "weight"] and list(table["index"]) == list(range(EPISODES * FRAMES))
    assert table["weight"].mean() == pytest.approx(1) and np.ptp(table["weight"] / given["weight"]) < 1e-12


def test_the_progress_file_has_the_error_that_is_printed(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "progress.parquet"
    done = hf_ptr("export", scores, "--to", "lerobot-rabc", "--chunk-size", 16, "--out", out)
    assert done.returncode == 0, done.stderr
    error = weight_error(pd.read_parquet(scores)["weight"].to_numpy(), rabc_weights(pd.read_parquet(out), 16))
    printed = re.search(r"mean absolute error ([\d.]+), largest ([\d.]+), correlation ([\d.]+)", done.stdout)
    assert printed is not None
    assert [float(one) for one in printed.groups()] == pytest.approx(list(error.values()), abs=0.01)
    assert f"--sample_weighting.type=rabc --sample_weighting.progress_path={out}" in done.stdout
    assert "--chunk-size" not in done.stdout
    # A file for the wrong policy has wrong weights: the size that was assumed is said.
    assumed = hf_ptr("export", scores, "--to", "lerobot-rabc", "--out", tmp_path / "assumed.parquet").stdout
    assert "for policies with chunk_size 50" in assumed and "add --chunk-size 100" in assumed


def test_the_command_for_lerobot_names_a_local_dataset_in_its_format(tmp_path: Path) -> None:
    table = leading_table(2, frames=FRAMES)
    for name, write, converts in (("old", write_v21, True), ("new", write_table, False)):
        write(table, tmp_path / name)
        frame = score_frame(table, score=1.0, weight=1.0, valid=True, scorer="made")
        scores = write_scores(frame, tmp_path / f"{name}.parquet", dataset=str(tmp_path / name))
        done = hf_ptr("export", scores, "--to", "lerobot-static", "--out", tmp_path / f"{name}-weights.parquet")
        folder = tmp_path / ("old_v30" if converts else "new")
        assert f"--dataset.repo_id=local/{folder.name} --dataset.root={folder} --sample_weighting.path=" in done.stdout
        assert (f"hf-ptr convert lerobot {tmp_path / name} {folder} --even-times\n" in done.stdout) == converts


def test_the_score_file_is_not_overwritten(scores: Path) -> None:
    before = scores.read_bytes()
    line = the_line(hf_ptr("export", scores, "--to", "lerobot-static", "--out", scores))
    assert "is a file to export" in line and scores.read_bytes() == before


@pytest.mark.parametrize("name", ["findings.parquet", "findings.json", "power.json"])
def test_the_findings_of_the_scores_are_not_overwritten(scores: Path, name: str) -> None:
    out = scores.with_name(name)
    before = out.read_bytes()
    for source in (scores, scores.with_name("findings.parquet")):
        line = the_line(hf_ptr("export", source, "--to", "csv", "--out", out))
        assert f"--out {out} is a file to export, or one that belongs to it" in line
    assert out.read_bytes() == before
    assert "is a file to export" in the_line(
        hf_ptr("export", out.with_name("findings.parquet"), "--to", "csv", "--out", scores)
    )


def test_only_findings_of_whole_episodes_accept_later_ones_anywhere(tmp_path: Path) -> None:
    table = leading_table(2, frames=FRAMES)
    frame = score_frame(table, score=1.0, weight=1.0, valid=True, scorer="made")
    whole = replace(FINDINGS[0], episode_index=0)
    at_start = replace(FINDINGS[0], check="action/spike", episode_index=1, last_frame=9)
    path, out = tmp_path / "s.parquet", tmp_path / "accepted.yaml"
    with findings_written(path, [whole, at_start], {}) as detection:
        write_scores(frame, path, detection=detection)
    options = ("--to", "expected", "--reason", "watched", "--out", out)
    assert hf_ptr("export", path, *options).returncode == 0
    assert [(one.check, one.frames) for one in read_expected(out)] == [("action/lag", None), ("action/spike", (0, 10))]
    # A findings file does not state the lengths.
    assert hf_ptr("export", path.with_name("s.findings.parquet"), *options).returncode == 0
    assert [one.frames for one in read_expected(out)] == [(0, FRAMES), (0, 10)]
    later = replace(at_start, first_frame=20, last_frame=29)
    entries = read_expected(out)
    assert [one.severity for one in with_accepted([whole, at_start, later], entries, [0, 1])] == [
        "accepted",
        "accepted",
        "fault",
    ]


def listed(path: Path) -> list[int]:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("to", "options", "ids", "printed"),
    [
        # LeRobot 0.6 has no option for the episodes to leave out.
        ("exclude-episodes", (), [4], "--dataset.repo_id=data/mine --dataset.episodes='[0,1,2,3,5]'\n"),
        ("exclude-episodes", (), [4], "--dataset.exclude_episodes='[4]'"),
        ("episodes", (), [0, 1, 2, 3, 5], "--dataset.repo_id=data/mine --dataset.episodes='[0,1,2,3,5]'\n"),
        # A quarter of episode 2 is light: its mean weight is 0.77 of the largest.
        ("episodes", ("--min-weight", 0.9), [0, 1, 3, 5], "2 with a mean weight below 0.9 of the largest"),
        ("exclude-episodes", ("--min-weight", 0.05), [], "0 episodes to leave out"),
    ],
)
def test_lists_leave_out_faults_or_light_episodes(
    scores: Path, tmp_path: Path, to: str, options: tuple[object, ...], ids: list[int], printed: str
) -> None:
    out = tmp_path / "ids.json"
    done = hf_ptr("export", scores, "--to", to, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    assert listed(out) == ids and printed in done.stdout


def test_many_ids_are_read_from_the_file(tmp_path: Path) -> None:
    weight = np.ones(70)
    weight[3] = 0.1
    rows = pd.DataFrame(
        {"index": range(70), "episode_index": range(70), "score": 1.0, "weight": weight, "valid": True}
    )
    file, out = tmp_path / "s.parquet", tmp_path / "e.json"
    rows.to_parquet(file)
    assert (
        f'--dataset.episodes="$(cat {out})"'
        in hf_ptr("export", file, "--to", "episodes", "--min-weight", 0.5, "--out", out).stdout
    )
    assert listed(out) == [number for number in range(70) if number != 3]


def test_ranges_of_kept_frames_for_openpi(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "ranges.json"
    done = hf_ptr("export", scores, "--to", "keep-ranges", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "190 of 240 frames in 6 ranges, in 5 of 6 episodes" in done.stdout
    content = json.loads(out.read_text())
    assert content["metadata"] == {"filter_last_n_in_ranges": 0}
    whole = [[0, FRAMES]]
    assert content["keep_ranges"] == {
        "0": whole, "1": whole, "2": [[0, 10], [20, FRAMES]], "3": whole, "4": [], "5": whole,
    }  # fmt: skip
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([f"lab/{number}--file" for number in range(EPISODES)]))
    assert hf_ptr("export", scores, "--to", "keep-ranges", "--keys", keys, "--out", out).returncode == 0
    assert json.loads(out.read_text())["keep_ranges"]["lab/2--file"] == [[0, 10], [20, FRAMES]]
    # One key too few, one too many.
    for number in (EPISODES - 1, EPISODES + 1):
        keys.write_text(json.dumps([f"{one}" for one in range(number)]))
        line = the_line(hf_ptr("export", scores, "--to", "keep-ranges", "--keys", keys, "--out", out))
        assert "give one for each episode" in line
    keys.write_text('["a", "a"]')
    assert "not a JSON list of different texts" in the_line(
        hf_ptr("export", scores, "--to", "keep-ranges", "--keys", keys, "--out", out)
    )


def test_a_csv_has_weight_and_findings_of_every_frame(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames.csv"
    assert hf_ptr("export", scores, "--to", "csv", "--out", out).returncode == 0
    table = pd.read_csv(out, keep_default_na=False)
    assert len(table) == EPISODES * FRAMES and table["weight"].tolist() == pd.read_parquet(scores)["weight"].tolist()
    assert set(table["faults"][table.episode_index == 4]) == {"action/lag"} and not table["faults"][:160].any()
    second = table[table.episode_index == 2].set_index("frame_index")["notes"]
    assert second[12] == "progress/retry" and second[16] == "progress/retry+time/pause" and not second[11]


def test_findings_alone_give_the_episodes_to_leave_out(scores: Path, tmp_path: Path) -> None:
    findings, out = scores.with_name("findings.parquet"), tmp_path / "ids.json"
    assert hf_ptr("export", findings, "--to", "exclude-episodes", "--out", out).returncode == 0
    assert listed(out) == [4]
    assert hf_ptr("export", findings, "--to", "csv", "--out", tmp_path / "f.csv").returncode == 0
    assert pd.read_csv(tmp_path / "f.csv")["check"].tolist() == [found.check for found in FINDINGS]
    line = the_line(hf_ptr("export", findings, "--to", "lerobot-static", "--out", out))
    assert "has findings and no weights, which --to lerobot-static needs; pass the score file" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "csv", "--chunk-size", 8), "--chunk-size is for lerobot-rabc; leave it out with --to csv"),
        (("--to", "episodes", "--min-weight", 0), "--min-weight 0 is not a share of the largest weight"),
        (("--to", "lerobot-rabc", "--chunk-size", 0), "--chunk-size 0 is too small"),
        (("--to", "keep-ranges", "--keys", "nowhere.json"), "--keys nowhere.json cannot be read"),
    ],
)
def test_wrong_options_write_nothing(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in the_line(hf_ptr("export", scores, *options))
    assert not list(tmp_path.iterdir())


def test_all_episodes_left_out_are_refused(scores: Path, tmp_path: Path) -> None:
    table = leading_table(2, frames=FRAMES)
    frame = score_frame(table, score=1.0, weight=np.tile([1.0, 0.1], FRAMES), valid=True, scorer="made")
    file = write_scores(frame, tmp_path / "s.parquet")
    line = the_line(hf_ptr("export", file, "--to", "episodes", "--min-weight", 0.9))
    assert "all 2 episodes would be left out; lower --min-weight" in line
    late = [replace(FINDINGS[0], episode_index=number) for number in range(2)]
    with findings_written(tmp_path / "f.parquet", late, {}) as detection:
        write_scores(frame, tmp_path / "f.parquet", detection=detection)
    line = the_line(hf_ptr("export", tmp_path / "f.parquet", "--to", "episodes"))
    assert "all 2 episodes would be left out; choose them by weight with --min-weight 0.5" in line
    assert "has no findings to choose episodes by; add --min-weight 0.5" in the_line(
        hf_ptr("export", file, "--to", "exclude-episodes")
    )


def test_a_baseline_is_chosen_by_check_and_the_scores_that_it_is_compared_with_stay(
    scores: Path, tmp_path: Path
) -> None:
    out = tmp_path / "accepted.yaml"
    options = ("--to", "expected", "--reason", "watched", "--out", out)
    done = hf_ptr("export", scores, *options)
    assert f"{out}: 3 findings (1 fault, 2 notes) in 3 entries; all would be accepted" in done.stdout
    assert "delete the entries that nobody has watched" in done.stdout
    after = scores.with_name("scores_accepted.parquet")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert f"hf-ptr score data/mine --expected {out} --out {after}" in lines
    assert f"hf-ptr diff {scores} {after}" in lines
    # The same from the findings file, whose own name is not that of a score file.
    again = hf_ptr("export", scores.with_name("findings.parquet"), *options)
    assert f"hf-ptr score DATASET --expected {out} --out {after}\n" in again.stdout
    only = ("--only", "time/pause", "--only", "action/lag")
    assert hf_ptr("export", scores, *options, *only).returncode == 0
    assert [one.check for one in read_expected(out)] == ["action/lag", "time/pause"]
    before = out.read_bytes()
    assert "--only: unknown check 'time/pauses'. Did you mean 'time/pause'?" in the_line(
        hf_ptr("export", scores, *options, "--only", "time/pauses")
    )
    assert "has no finding of time/slow; it has action/lag, progress/retry, time/pause" in the_line(
        hf_ptr("export", scores, *options, "--only", "time/slow")
    )
    assert "--only is for expected; leave it out with --to csv" in the_line(
        hf_ptr("export", scores, "--to", "csv", "--only", "time/pause")
    )
    assert out.read_bytes() == before
