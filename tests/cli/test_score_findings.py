"""`hf-ptr score` on data with planted faults: verdict, files, flags, weights; and on sound data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import hf_ptr, the_line
from leading_table import leading_table

from hf_ptr.data.lerobot.writer import DatasetWriter, write_table
from hf_ptr.detection.findings_file import attributes, read_findings
from hf_ptr.detection.source_dataset import require_source
from hf_ptr.errors import InputError

FRAMES, LATE, PART = 120, 3, slice(40, 70)
CHUNK = 8
SHORT = ("steps=2", "rounds=1", "--chunk-size", CHUNK, "--target-offset", CHUNK)


def spoiled(number: int, action: np.ndarray) -> np.ndarray:
    """Episode 3 has commands that are late by six frames; episode 8 has other commands in a part."""
    if number == LATE:
        return np.concatenate([np.repeat(action[:1], 6, axis=0), action[:-6]])
    if number == 8:
        action = action.copy()
        action[PART] = action[::-1][PART]
    return action


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(leading_table(16, spoiled), tmp_path_factory.mktemp("faulty") / "data")


@pytest.fixture(scope="module")
def scored(faulty: Path) -> tuple[Path, str]:
    """The folder of a scored dataset, and what the command printed."""
    out = faulty.parent / "scores.parquet"
    done = hf_ptr("score", faulty, *SHORT, "--out", out)
    assert done.returncode == 0, done.stderr
    return faulty.parent, done.stdout


def test_the_verdict_comes_first_and_names_episode_frames_and_cause(scored: tuple[Path, str]) -> None:
    _, printed = scored
    first, second = printed.splitlines()[:2]
    assert first.startswith("2 of 16 episodes have faults: ep ")
    assert re.search(r"ep 3 commands (5\.9|6\.[01]) frames late", first) and "; ep 8 frames " in first
    assert re.match(
        r"Self-test: hf-ptr put \d+ kinds of fault into copies of your episodes, one at a time. It would", second
    )
    assert "What cannot be found in this dataset" in printed and "\n found " in printed
    assert "lowest" not in printed and "worst" not in printed


def test_what_to_type_next_is_complete_and_names_the_dataset_from_any_folder(scored: tuple[Path, str]) -> None:
    folder, printed = scored
    lines = [line.strip().partition("   # ")[0] for line in printed.partition("Next:\n")[2].splitlines()]
    scores = folder / "scores.parquet"
    assert lines == [
        f"hf-ptr report {scores}",
        f"hf-ptr init {folder / 'data'} --out data.yaml",
        f"hf-ptr train data.yaml weights={scores}",
        f"hf-ptr export {scores} --to lerobot-static",
        f"hf-ptr apply {folder / 'data'} --findings {folder / 'findings.parquet'} --out data_edited",
        f"hf-ptr export {scores} --to expected --reason WHY",
        f"hf-ptr init {folder / 'data'} --skip-episodes {LATE},8 --out data_without.yaml",
    ]
    made = pd.read_parquet(scores).attrs
    assert Path(made["dataset"]).is_absolute() and made["chunk_size"] == made["target_offset"] == CHUNK


def test_the_files_agree_with_each_other(scored: tuple[Path, str], faulty: Path) -> None:
    folder, _ = scored
    assert {path.name for path in folder.iterdir()} == {
        "data", "scores.parquet", "findings.parquet", "findings.json", "power.json"
    }  # fmt: skip
    findings = read_findings(folder / "findings.parquet")
    faults = [found for found in findings if found.severity == "fault"]
    assert {found.episode_index for found in faults} == {LATE, 8}
    late = next(found for found in faults if found.check == "action/lag")
    assert (late.episode_index, late.first_frame, late.last_frame) == (LATE, 0, FRAMES - 1)
    assert late.amount == pytest.approx(6.0, abs=0.5) and late.unit == "frames" and late.probability > 0.9
    assert [row["check"] for row in json.loads((folder / "findings.json").read_text())] == [f.check for f in findings]
    card = json.loads((folder / "power.json").read_text())
    assert card["flagged"] == [LATE, 8]
    assert all(power["probability"] is None or 0 <= power["probability"] <= 1 for power in card["powers"])


def test_frames_without_a_later_one_have_the_score_that_is_printed(scored: tuple[Path, str]) -> None:
    folder, printed = scored
    scores = pd.read_parquet(folder / "scores.parquet")
    sound = scores[~scores.episode_index.isin([LATE, 8])]
    ends = sound[~sound.valid]
    assert (
        f"; {(~scores.valid).sum()} frames at the ends of episodes without a later frame to compare: "
        "the mean score of their episode, unless findings change it\n"
    ) in printed
    mean = sound[sound.valid].groupby("episode_index").score.mean()
    np.testing.assert_allclose(ends.score, mean[ends.episode_index], atol=1e-5)
    findings = read_findings(folder / "findings.parquet")
    faults = sum(found.severity == "fault" for found in findings)
    assert f"findings.parquet: {len(findings)} rows: {faults} faults, {len(findings) - faults} notes; " in printed


def test_a_chunk_weighs_less_where_it_covers_a_fault_and_the_rest_keeps_its_weight(scored: tuple[Path, str]) -> None:
    scores = pd.read_parquet(scored[0] / "scores.parquet")
    findings = read_findings(scored[0] / "findings.parquet")
    weight = scores[scores.episode_index == 8].weight.to_numpy()
    inside = np.zeros(FRAMES, dtype=bool)
    for found in findings:
        if found.episode_index == 8 and found.severity == "fault":
            inside[max(0, found.first_frame - CHUNK + 1) : found.last_frame + 1] = True
    assert weight[inside].max() < 0.5 and 20 <= inside.sum() <= 70
    sound = scores[~scores.episode_index.isin([LATE, 8])]
    assert weight[~inside].min() >= sound.weight.median() - 1e-3
    assert inside[PART].mean() > 0.6
    assert scores[scores.episode_index == LATE].weight.max() < 0.5
    score = scores[scores.episode_index == 8].score.to_numpy()
    assert score[inside].max() < score[~inside].min()


def test_json_has_findings_flags_and_power(faulty: Path, tmp_path: Path) -> None:
    options = ("--harm", "time/pause=0.5", "--episodes", "0:16")
    done = hf_ptr("score", faulty, *SHORT, *options, "--json", "--out", tmp_path / "other.parquet")
    found = json.loads(done.stdout)
    assert found["flagged"] == [LATE, 8] == sorted(one["episode"] for one in found["episodes"] if one["flagged"])
    assert found["findings"] == json.loads((tmp_path / "other.findings.json").read_text())
    assert {"flagged": found["flagged"], **found["power"]} == json.loads((tmp_path / "other.power.json").read_text())
    made = attributes(tmp_path / "other.findings.parquet")
    assert made["harm"] == {"time/pause": 0.5} and made["scored_episodes"] == "0:16"
    # hf-ptr apply recognises the dataset by them.
    require_source(made, dict.fromkeys(range(16), FRAMES), 20.0)
    with pytest.raises(InputError, match="have other lengths"):
        require_source(made, dict.fromkeys(range(16), FRAMES + 1), 20.0)
    assert pd.read_parquet(tmp_path / "other.parquet").attrs["episodes"] == "0:16"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.findings.json", "other.findings.parquet", "other.parquet", "other.power.json"
    ]  # fmt: skip


def test_a_sound_dataset_has_no_fault_and_no_worst_episode(tmp_path: Path) -> None:
    data = write_table(leading_table(12, frames=80), tmp_path / "data")
    done = hf_ptr("score", data, *SHORT, "--out", tmp_path / "scores.parquet")
    assert (
        done.stdout.splitlines()[0] == "hf-ptr found no fault of the kinds that it can find: 0 of 12 episodes flagged."
    )
    assert "probability" not in done.stdout and "lowest" not in done.stdout
    assert hf_ptr("report", tmp_path / "scores.parquet").returncode == 0
    page = (tmp_path / "scores.html").read_text()
    assert "hf-ptr found no fault of the kinds that it can find" in page and "What would be found" in page
    assert "lowest weight" not in page and 'class="card"' not in page


def test_a_score_file_cannot_have_the_name_of_a_findings_file(faulty: Path, tmp_path: Path) -> None:
    line = the_line(hf_ptr("score", faulty, "--out", tmp_path / "findings.parquet"))
    assert "findings.parquet is the name of a findings file" in line and list(tmp_path.iterdir()) == []


def test_the_images_are_checked_unless_told_otherwise(tmp_path: Path) -> None:
    """Black images in a part of one episode."""
    frames = np.random.default_rng(0).integers(60, 200, (40, 32, 48, 3), dtype=np.uint8)
    table = leading_table(8, frames=40)
    features = {**table.features, "observation.images.top": {"dtype": "video", "shape": [32, 48, 3], "names": None}}
    with DatasetWriter(tmp_path / "data", fps=20, features=features, robot_type="arm", tasks=["move"]) as writer:
        for episode in range(8):
            rows = slice(40 * episode, 40 * episode + 40)
            images = frames.copy()
            if episode == 5:
                images[10:30] = 0
            columns = {name: values[rows] for name, values in table.columns.items()}
            writer.add_episode(columns, "move", {"observation.images.top": images})
    out = ("--out", tmp_path / "scores.parquet")
    done = hf_ptr("score", tmp_path / "data", *SHORT, *out)
    assert done.returncode == 0, done.stderr
    found = read_findings(tmp_path / "findings.parquet")
    black = [one for one in found if one.check == "camera/blank"]
    assert [one.episode_index for one in black] == [5] and 5 <= black[0].first_frame <= 15
    without = hf_ptr("score", tmp_path / "data", *SHORT, *out, "--no-cameras").stdout
    assert "The images of observation.images.top were not checked; --cameras checks them" in without
    assert not [one for one in read_findings(tmp_path / "findings.parquet") if one.check.startswith("camera")]


def test_images_without_contrast_are_not_an_obstacle(tmp_path: Path) -> None:
    """Every image has one colour, so that no view can be registered against another."""
    table = leading_table(6, frames=40)
    features = {**table.features, "observation.images.top": {"dtype": "video", "shape": [32, 48, 3], "names": None}}
    shade = np.clip(127 + 80 * table.columns["observation.state"][:, :1, None, None], 0, 255).astype(np.uint8)
    with DatasetWriter(tmp_path / "data", fps=20, features=features, robot_type="arm", tasks=["move"]) as writer:
        for episode in range(6):
            rows = slice(40 * episode, 40 * episode + 40)
            columns = {name: values[rows] for name, values in table.columns.items()}
            images = np.broadcast_to(shade[rows], (40, 32, 48, 3)).copy()
            writer.add_episode(columns, "move", {"observation.images.top": images})
    done = hf_ptr("score", tmp_path / "data", *SHORT, "--out", tmp_path / "scores.parquet")
    assert done.returncode == 0, done.stderr
    assert not [one for one in read_findings(tmp_path / "findings.parquet") if one.check == "camera/moved"]


def test_a_missing_dataset_is_refused_before_a_word_about_the_score_file(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hf_ptr.cli import app

    refused = CliRunner().invoke(app, ["score", str(tmp_path / "none"), "--out", str(tmp_path / "s.parquet")])
    assert (
        str(refused.exception) == f"{tmp_path / 'none'} does not exist; pass the folder or repo id of a LeRobotDataset"
    )
