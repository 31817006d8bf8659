"""`hf-ptr score` with accepted findings, its baseline, and the exit code of `--fail-on`. The detection is made up."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import hf_ptr, the_line
from leading_table import leading_table
from spoiling import edit_info

import hf_ptr.training.detected_scores as scoring
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.detection.detect import Detection
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import read_findings
from hf_ptr.scoring import cross_fitting

EPISODES, FRAMES = 5, 40
SHORT = ("steps=2", "rounds=1", "--chunk-size", 8, "--target-offset", 8)
FINDINGS = (
    Finding("action/lag", 3, 0, FRAMES - 1, 0.99, "fault", 6.0, "frames", "commands 6 frames late", "shift them"),
    Finding("state/jump", 1, 10, 14, 0.9, "fault", 9.0, "deviations", "the state jumps", "drop these frames"),
    Finding("progress/retry", 2, 5, 20, 0.9, "note", 1.0, "retries", "a failed grasp", "cut it out"),
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def detection(table: object, **settings: object) -> Detection:
        return Detection(FINDINGS, None, {}, np.zeros(EPISODES), tuple(np.zeros(FRAMES) for _ in range(EPISODES)))

    monkeypatch.setattr(scoring, "detect_together", detection)
    return write_table(leading_table(EPISODES, frames=FRAMES), tmp_path / "data")


def least_weights(file: Path) -> list[float]:
    return pd.read_parquet(file).groupby("episode_index").weight.min().tolist()


def test_scoring_again_with_accepted_findings_neither_detects_nor_fits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, entries = tmp_path / "scores.parquet", tmp_path / "entries.yaml"
    first = hf_ptr("score", data, *SHORT, "--out", out)
    accept = next(line for line in first.stdout.splitlines() if "--to expected" in line).partition("   #")[0]
    assert hf_ptr(*shlex.split(accept)[1:], "--out", entries).returncode == 0

    def never(*_: object, **__: object) -> None:
        raise AssertionError("scored anew")

    monkeypatch.setattr(scoring, "detect_together", never)
    monkeypatch.setattr(cross_fitting, "train_heads", never)
    again = hf_ptr("score", data, *SHORT, "--expected", entries, "--out", out)
    assert again.returncode == 0 and "Accepted by the owner" in again.stdout, again.stderr
    assert min(least_weights(out)) > 2


def test_too_few_selected_episodes_are_a_line_with_what_to_write(data: Path) -> None:
    line = the_line(hf_ptr("score", data, *SHORT, "--episodes", "1:3"))
    assert line.startswith("hf-ptr: the options select 2 episodes") and line.endswith("for example --episodes 1:5")


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("--episodes", "4"), "write for example --episodes 1:5"),
        (("--episodes", "0:3", "--skip-episodes", "1"), "write for example --episodes 0,2:5"),
        (("--skip-episodes", "1:3"), "record more or skip fewer"),
    ],
)
def test_the_suggested_episodes_exist_and_are_not_skipped(data: Path, options: tuple[str, ...], advice: str) -> None:
    assert the_line(hf_ptr("score", data, *SHORT, *options)).endswith(f"others; {advice}")


def test_accepted_findings_are_shown_with_the_reason_and_lower_no_weight(data: Path, tmp_path: Path) -> None:
    before, out, accepting = tmp_path / "before.parquet", tmp_path / "scores.parquet", tmp_path / "accepting.yaml"
    assert hf_ptr("score", data, *SHORT, "--out", before).returncode == 0
    accepting.write_text(
        "- {check: action/lag, episodes: all, reason: a slow controller}\n"
        "- {check: progress/retry, episodes: 2, frames: 0:30, reason: part of the task}\n"
        "- {check: progress/retry, episodes: 4, reason: gone}\n"
    )
    done = hf_ptr("score", data, *SHORT, "--expected", accepting, "--fail-on", "fault", "--out", out)
    assert done.returncode == 1, "episode 1 still has a fault"
    assert done.stdout.startswith(f"1 of {EPISODES} episodes has a fault: ep 1 frames 10-14 the state jumps.")
    assert (
        "Accepted by the owner of the dataset: retries in episode 2 (part of the task); lag in episode 3 (a slow "
        "controller)." in done.stdout
    )
    assert f"warning: {accepting}, entry 3: accepts no finding; remove it" in done.stderr
    assert [weight < 2 for weight in least_weights(before)] == [False, True, True, True, False]
    assert [weight < 2 for weight in least_weights(out)] == [False, True, False, False, False]
    found = [(one.episode_index, one.severity) for one in read_findings(out.with_name("findings.parquet"))]
    assert found == [(3, "accepted"), (1, "fault"), (2, "accepted")]
    assert json.loads(out.with_name("power.json").read_text())["flagged"] == [1]
    report = hf_ptr("report", out, "--out", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr
    assert "lag in episode 3 (a slow controller)" in (tmp_path / "report.html").read_text()


def test_a_baseline_of_the_present_findings_leaves_nothing_to_fail_on(data: Path, tmp_path: Path) -> None:
    out, baseline = tmp_path / "scores.parquet", data / "meta" / "hf_ptr_expected.yaml"
    for least, code in (("never", 0), ("note", 1)):
        assert hf_ptr("score", data, *SHORT, "--out", out, "--fail-on", least).returncode == code
    assert "--to expected needs a reason" in the_line(hf_ptr("export", out, "--to", "expected"))
    made = hf_ptr("export", out, "--to", "expected", "--reason", "seen", "--out", baseline)
    assert made.returncode == 0 and f"{baseline}: 3 findings" in made.stdout, made.stderr
    done = hf_ptr("score", data, *SHORT, "--fail-on", "note", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["flagged"] == [] and {one["severity"] for one in content["findings"]} == {"accepted"}
    again = tmp_path / "again.yaml"
    assert hf_ptr("export", out, "--to", "expected", "--reason", "new", "--out", again).returncode == 0
    assert again.read_text() == baseline.read_text()


def test_a_malformed_file_of_accepted_findings_is_refused(data: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("- {check: action/lag, episodes: 3}\n")
    line = the_line(hf_ptr("score", data, *SHORT, "--expected", wrong, "--out", tmp_path / "s.parquet"))
    assert line == f"hf-ptr: {wrong}, entry 1 has no reason; write `reason: TEXT`"
    assert not (tmp_path / "s.parquet").exists()


def test_the_exit_code_of_validate(data: Path) -> None:
    """A constant joint is a note; a version that is not known is a warning."""
    assert hf_ptr("validate", data, "--fail-on", "warning").returncode == 0
    constant = leading_table(EPISODES, lambda _, action: action * np.array([1.0, 1.0, 0.0]), FRAMES)
    noted = write_table(constant, data.with_name("noted"))
    assert "note: feature 'action' never changes" in hf_ptr("validate", noted).stdout
    assert hf_ptr("validate", noted, "--fail-on", "warning").returncode == 0
    warned = write_table(constant, data.with_name("warned"))
    edit_info(codebase_version="v3.7")(warned)
    codes = [hf_ptr("validate", warned, "--fail-on", least).returncode for least in ("error", "warning", "never")]
    assert codes == [0, 1, 0]
    (data / "meta" / "info.json").write_text("{")
    codes = [hf_ptr("validate", data, "--fail-on", least).returncode for least in ("error", "warning", "never")]
    assert codes == [2, 2, 0]
