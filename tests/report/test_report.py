"""Content of a report on scores and runs: statistics, sentences, plots and refusals."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import hf_ptr, the_line
from data_helpers import coded_table, with_camera, write_v21
from hub_server import HubServer
from leading_table import leading_table
from PIL import Image
from recipe_helpers import recipe
from report_helpers import fault, run_folder, scores_of, written
from video_helpers import CAMERA, LENGTHS, frame_of

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.video.decoding import VideoClip
from hf_ptr.data.video.placement import VideoFile
from hf_ptr.errors import InputError
from hf_ptr.functional import source_shift
from hf_ptr.hub.push import ensure_repository, push_files
from hf_ptr.report.clock import clock_sentence, frame_edges
from hf_ptr.report.episode_cards import place_of
from hf_ptr.report.expectation import expectation_of
from hf_ptr.report.film_strips import film_strips
from hf_ptr.report.inputs import ReportInput, load_scored_table, read_report_input
from hf_ptr.report.page import delete_command, write_report
from hf_ptr.report.statistics import measure_known_faults, share_shifts, summarise_episodes
from hf_ptr.report.wording import explain_log, explain_scores
from hf_ptr.runs.build import build_trainer
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.training.weight_histograms import append_histogram, forget_histograms_after, read_histograms


def text_of(page: str) -> str:
    """The page's words, without markup, styles and scripts."""
    page = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_score_file_is_read_as_it_was_written(table: EpisodeTable, tmp_path: Path) -> None:
    scores = scores_of(table, {3: 0.1})
    scores.attrs = {"dataset": "data/coded", "corruption": "clean"}
    evidence = read_report_input(written(scores.sample(frac=1.0, random_state=0), tmp_path))
    assert evidence.scores is not None and evidence.held_out and evidence.dataset == "data/coded"
    assert evidence.scores["index"].tolist() == table.frame_id.tolist()
    assert evidence.scores.weight.tolist() == scores.weight.tolist()
    assert evidence.scores.score_instruction.isna().all() and evidence.bounds == (0.02, 4.0)


def test_flagged_are_the_episodes_with_a_fault_and_not_those_of_low_weight(
    table: EpisodeTable, tmp_path: Path
) -> None:
    findings = [fault(7, 3, 9), fault(3, 0, 39, "a copy of <b>", probability=0.99), fault(1, 0, 5, severity="note")]
    evidence = read_report_input(written(scores_of(table, {5: 0.1}), tmp_path, findings))
    episodes = summarise_episodes(evidence.scores, evidence.flagged)
    assert episodes.index[episodes.flagged].tolist() == evidence.flagged == [3, 7]
    assert episodes.failed[5] == "action"
    page = write_report(evidence, tmp_path / "r.html", dataset=table).read_text()
    assert "a copy of <b>" not in page
    words = text_of(page)
    assert "2 of 10 episodes have faults: ep 3 a copy of <b>; ep 7 frames 3-9 commands 6.0 frames late." in words
    assert words.index("Episode 3 ") < words.index("Episode 7 ") < words.rindex("All faults")
    assert "Episode 5 " not in words and "lowest weight" not in words and "highest weight" not in words
    assert "To do: shift the actions by the lag." in words
    # A note has its place, and the motion has no table of its own where the note is the only one.
    assert "Lag in episode 1 To do: shift the actions by the lag." in words
    assert "Episode 1: commands 6.0 frames late frames 0-5 (" in words
    assert words.index("2 of 10 episodes") < words.index("What to type next") < words.index("Notes without effect")
    assert "Notes without effect on weights: lag in episode 1." in words
    assert "hf-ptr init DATASET --skip-episodes 3,7" in words


def test_the_report_says_what_to_type_for_the_episodes_and_features_that_were_scored(
    table: EpisodeTable, tmp_path: Path
) -> None:
    evidence = read_report_input(written(scores_of(table, {}), tmp_path, [fault(3, 0, 5)]))
    scored = {"episodes": "0:9", "skip_episodes": "2", "action": "command", "seed": 0}
    for corruption, printed in (("clean", True), ("hard", False)):
        chosen = dataclasses.replace(evidence, recipe={**scored, "corruption": corruption})
        words = text_of(write_report(chosen, tmp_path / "r.html", dataset=table).read_text())
        recipe = "hf-ptr init DATASET --episodes 0:9 --skip-episodes 2 --action command --out DATASET.yaml"
        assert (recipe in words) == printed and ("--skip-episodes 2,3 --action command" in words) == printed
        assert ("hf-ptr train" in words) == printed


@pytest.mark.parametrize(("harm", "lowered"), [({}, False), ({"action/lag": 0.5}, True), (None, False)])
def test_a_note_lowers_weights_where_the_user_chose_so(
    table: EpisodeTable, tmp_path: Path, harm: dict[str, float] | None, lowered: bool
) -> None:
    file = written(scores_of(table, {}), tmp_path, [fault(1, 0, 5, severity="note")], harm=harm)
    words = text_of(write_report(file, tmp_path / "r.html", dataset=table).read_text())
    assert "Lag in episode 1" in words and ("The weights of these frames are lowered." in words) == lowered
    assert ("0 of 10 episodes flagged; 1 has frames that count less: lag in episode 1." in words) == lowered
    assert ("Notes without effect on weights: lag" in words) != lowered
    assert f"{int(lowered)} with lower weights only" in words or f"with lower weights only {int(lowered)}" in words


def test_without_a_fault_there_is_neither_worst_nor_best(table: EpisodeTable, tmp_path: Path) -> None:
    evidence = read_report_input(written(scores_of(table, {5: 0.1}), tmp_path, []))
    words = text_of(write_report(evidence, tmp_path / "r.html", dataset=table).read_text())
    assert "hf-ptr found no fault of the kinds that it can find: 0 of 10 episodes flagged." in words
    assert not re.search(r"Episode \d|[Ll]owest weight|[Hh]ighest weight|Nothing fails", words)
    assert "0 of 10 episodes Episodes to drop" in words


def test_scores_without_findings_flag_nothing_and_say_so(table: EpisodeTable, tmp_path: Path) -> None:
    evidence = read_report_input(written(scores_of(table, {3: 0.1}), tmp_path))
    assert evidence.findings is None and evidence.flagged == []
    words = text_of(write_report(evidence, tmp_path / "r.html", dataset=table).read_text())
    assert "There are no findings with these scores: hf-ptr score DATASET finds faults and writes both." in words
    assert "a low weight is a rank, not a fault" in words and "Episode 3 " in words
    assert "the element “action” fails in 100% of the chunks: the actions do not fit the observations" in words
    ranked = evidence.scores.drop(columns=[name for name in evidence.scores if "_" in name and "score" in name])
    words = text_of(write_report(read_report_input(written(ranked, tmp_path)), tmp_path / "r.html").read_text())
    assert "The PTR score ranks episodes and finds no faults: hf-ptr score DATASET does." in words


def test_findings_of_other_scores_are_left_out_with_a_warning(
    table: EpisodeTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(scores_of(table, {}), tmp_path, [fault(3, 0, 5)])
    mine = file.read_bytes()
    written(scores_of(table, {}), tmp_path, [fault(4, 0, 5)])
    file.write_bytes(mine)
    assert read_report_input(file).findings is None
    assert "findings.parquet belong to other scores; score the data again" in caplog.text
    (tmp_path / "findings.parquet").unlink()
    assert read_report_input(file).findings is None
    assert "findings.parquet are missing" in caplog.text


def test_findings_beyond_the_end_of_an_episode_are_refused(table: EpisodeTable, tmp_path: Path) -> None:
    evidence = read_report_input(written(scores_of(table, {}), tmp_path, [fault(1, 0, 20)]))
    with pytest.raises(InputError, match="has no frame 20 in episode 1; pass the scored dataset"):
        write_report(evidence, tmp_path / "r.html", dataset=table)


def test_the_expected_signal_is_drawn_at_the_place(tmp_path: Path) -> None:
    """The commands of one dimension are shifted in a part of one episode."""
    table = leading_table(8, frames=60)
    rows = slice(int(table.starts[2]) + 20, int(table.starts[2]) + 40)
    table.columns["action"][rows, 1] += 1.0
    made = {"state_feature": "observation.state", "action_feature": "action"}
    evidence = read_report_input(written(scores_of(table, {}), tmp_path, [fault(2, 20, 39)], **made))
    line = expectation_of(table, evidence.made, [2]).lines(fault(2, 20, 39))[0]
    assert line.name == "action 1"
    inside = (line.frames >= 20) & (line.frames < 40)
    gap = line.recorded - line.expected
    assert gap[inside].mean() == pytest.approx(1.0, abs=0.15) and abs(gap[~inside].mean()) < 0.15
    page = write_report(evidence, tmp_path / "r.html", dataset=table).read_text()
    assert "Recorded and expected values around frames 20 to 39" in page and "action 1." in text_of(page)
    assert "frames 20-39 (1.0 to 2.0 s)" in text_of(page)
    assert "Expected: the command that the state implies in the other episodes." in text_of(page)


def test_a_leap_is_drawn_as_it_was_recorded(tmp_path: Path) -> None:
    """The leap is larger than any other command; another dimension differs more than the named one."""
    table = leading_table(8, frames=60)
    at = int(table.starts[2]) + 30
    table.columns["action"][at, 1] = 7.0
    table.columns["action"][at - 5 : at + 5, 2] += 12.0
    spike = fault(2, 30, 30, "the command of 1 leaps for a moment; together the leaps have 2.0 standard deviations")
    made = {"state_feature": "observation.state", "action_feature": "action"}
    (line,) = expectation_of(table, made, [2]).lines(spike)
    assert line.name == "action 1"
    assert line.recorded[line.frames == 30] == pytest.approx(7.0, abs=1e-5)
    assert abs(line.expected[line.frames == 30][0]) < 4.0


def test_a_state_is_drawn_in_the_dimension_that_the_cause_names_and_without_an_expectation(tmp_path: Path) -> None:
    table = leading_table(8, frames=60)
    start = int(table.starts[2])
    table.columns["observation.state"][start : start + 60, 0] += 0.4
    table.columns["observation.state"][start + 20, 2] += 3.0
    shifted = fault(2, 0, 59, "0 shifted by +0.4", check="state/offset")
    made = {"state_feature": "observation.state", "action_feature": "action"}
    (line,) = expectation_of(table, made, [2]).lines(shifted)
    assert line.name == "state 0" and line.expected is None
    np.testing.assert_allclose(line.recorded, table.columns["observation.state"][start + line.frames, 0], atol=1e-5)
    unnamed = replace(shifted, cause="30% of the frames repeat the state of the frame before", check="state/repeated")
    assert expectation_of(table, made, [2]).lines(unnamed)[0].name == "state 2"
    page = write_report(
        read_report_input(written(scores_of(table, {}), tmp_path, [shifted], **made)),
        tmp_path / "r.html",
        dataset=table,
    ).read_text()
    assert "Recorded values around frames 0 to 59" in page and "Expected:" not in text_of(page)


def test_weights_without_effect_are_reported(table: EpisodeTable, tmp_path: Path) -> None:
    evidence = read_report_input(written(scores_of(table, {}), tmp_path, []))
    page = text_of(write_report(evidence, tmp_path / "r.html", dataset=table).read_text())
    assert "The weights have almost no effect" in page


def test_too_few_episodes_are_reported(tmp_path: Path) -> None:
    few = coded_table([30, 20, 25])
    evidence = read_report_input(written(scores_of(few, {}), tmp_path))
    assert (
        "3 episodes are too few to calibrate the score"
        in explain_scores(evidence, summarise_episodes(evidence.scores), [])[1]
    )


def test_shares_are_those_of_the_equation(table: EpisodeTable) -> None:
    scores = scores_of(table, {0: 0.1, 3: 0.1})
    names = [f"task {number}" for number in scores.task_index]
    found = share_shifts(scores, names)
    expected = source_shift(torch.tensor(scores.weight.to_numpy()), names)
    assert {shift.name: pytest.approx(shift.ratio) for shift in found} == expected
    assert found[0].name == "task 0" and found[0].episodes == 4
    assert sum(shift.share for shift in found) == pytest.approx(1.0) == sum(shift.weighted for shift in found)


def test_known_faults_are_measured_against_fault_free_episodes(table: EpisodeTable) -> None:
    scores = scores_of(table, {0: 0.1, 1: 0.9, 2: 0.95})
    faults = {0: "noise", 1: "noise+instruction", 2: "instruction"}
    scores["fault"] = [faults.get(number, "") for number in scores.episode_index]
    episodes = summarise_episodes(scores, [0, 7])
    found = {fault.name: fault for fault in measure_known_faults(episodes)}
    assert {name: fault.episodes for name, fault in found.items()} == {"instruction": 2, "noise": 2, "any": 3}
    assert found["noise"].auroc == 1.0 and found["noise"].flagged == 1 and found["any"].flagged == 1
    scores["score"] = 1.0
    blind = measure_known_faults(summarise_episodes(scores))
    assert {fault.auroc for fault in blind} == {0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.assign(weight=s.weight.where(s.index != 5, np.inf)), "the weight of frame 5 is inf"),
        (lambda s: s.assign(weight=-1.0), "the weight of frame 0 is -1.0"),
        (lambda s: s.assign(weight=0.0), "every weight is 0"),
        (lambda s: s.drop(columns="weight"), "lacks the column 'weight'"),
        (lambda s: s.assign(failed_element=3), "column 'failed_element' is int64, not text"),
        (lambda s: s.assign(score_action="x"), "not numbers"),
        (lambda s: s[:0], "has no rows"),
    ],
)
def test_a_damaged_score_file_is_reported_in_one_line(
    change, message: str, table: EpisodeTable, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_report_input(written(change(scores_of(table, {})), tmp_path))


def test_a_source_that_is_neither_run_nor_scores_is_refused(tmp_path: Path) -> None:
    for place, message in (
        (tmp_path, "contains no finished run"),
        (tmp_path / "x.txt", "neither the folder of a run"),
    ):
        with pytest.raises(InputError, match=message):
            read_report_input(place)


def test_scores_of_another_dataset_are_refused(table: EpisodeTable, tmp_path: Path) -> None:
    evidence = read_report_input(written(scores_of(table, {}), tmp_path))
    other = coded_table([20, 30, 25, 40, 30, 20, 22, 27, 31, 30])
    with pytest.raises(InputError, match="belong to another dataset than 'coded'"):
        write_report(evidence, tmp_path / "r.html", dataset=other)
    assert not (tmp_path / "r.html").exists()


def test_a_run_on_some_of_the_scored_episodes_is_reported_on_those(table: EpisodeTable, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", alpha=0.0)
    file = written(scores_of(table, {1: 0.1}), tmp_path)
    (folder / "recipe.yaml").write_text(f"weights: {file}\n")
    page = write_report(folder, tmp_path / "r.html", dataset=table.select([0, 1, 2])).read_text()
    assert set(re.findall(r"Episode (\d+)", page)) == {"0", "1", "2"}
    with pytest.raises(InputError, match="belong to another dataset"):
        write_report(folder, tmp_path / "r.html", dataset=coded_table([20, 30, 25]))


def test_a_score_file_of_all_episodes_and_a_run_on_some(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick start: score everything, train on some with these weights, report the run."""
    monkeypatch.chdir(tmp_path)
    scored = hf_ptr("score", metaworld_dataset, "steps=2", "rounds=1")
    assert scored.returncode == 0, scored.stderr
    file = recipe(tmp_path, metaworld_dataset, weights="scores.parquet", eval_episodes='"6:8"', output_dir="run")
    assert hf_ptr("train", file).returncode == 0
    shown = hf_ptr("report", "run")
    assert shown.returncode == 0, shown.stderr
    page = text_of((tmp_path / "run" / "report.html").read_text())
    assert "The score file has 8 episodes; this report is about the 6 of the run's training." in page
    some = hf_ptr("report", "scores.parquet", "--episodes", "0:5", "--skip-episodes", "3")
    assert some.returncode == 0, some.stderr
    page = text_of((tmp_path / "scores.html").read_text())
    assert "The score file has 8 episodes; this report is about the 4 selected for it." in page
    line = the_line(hf_ptr("report", "scores.parquet", "--episodes", "90"))
    assert "none of the selected episodes was scored; the scored ones are 0:8" in line


def test_damage_in_an_episode_that_was_not_scored_does_not_concern_the_report(tmp_path: Path) -> None:
    root = write_v21(coded_table([9, 5, 12]), tmp_path / "data")
    scores = scores_of(read_dataset(root).select([0, 2]), {2: 0.1})
    # Metadata that list an episode twice are refused by every command that does not leave it out.
    listed = root / "meta" / "episodes.jsonl"
    lines = listed.read_text().splitlines()
    listed.write_text("\n".join([*lines, lines[1]]) + "\n")
    evidence = read_report_input(written(scores, tmp_path))
    for skip in ((), (1,)):
        page = text_of(write_report(evidence, tmp_path / "r.html", dataset=root, skip=skip).read_text())
        assert set(re.findall(r"Episode (\d+)", page)) <= {"0", "2"} and "episode 1" not in page.lower()
    with pytest.raises(InputError, match="episode 1 twice"):
        load_scored_table(read_report_input(written(scores_of(coded_table([9, 5, 12]), {}), tmp_path)), root)


def test_a_folder_of_save_model_alone(tmp_path: Path) -> None:
    """Its log is that of the last checkpoint; without a checkpoint one line says what to call."""
    folder = run_folder(tmp_path / "run")
    words = text_of(write_report(folder, tmp_path / "r.html").read_text())
    for step in (2, 10):
        (folder / f"checkpoint-{step}").mkdir()
    (folder / "trainer_state.json").rename(folder / "checkpoint-10" / "trainer_state.json")
    assert text_of(write_report(folder, tmp_path / "r.html").read_text()) == words
    (folder / "checkpoint-10" / "trainer_state.json").unlink()
    with pytest.raises(InputError, match=r"save_model\(\) alone writes none; call trainer.save_state\(\) as well"):
        write_report(folder, tmp_path / "r.html")


def test_a_missing_and_a_broken_video_do_not_stop_the_report(tmp_path: Path) -> None:
    root = write_v21(with_camera(coded_table([9, 5, 12]), CAMERA), tmp_path / "data")
    scores = scores_of(read_dataset(root), {1: 0.1})
    first, second = sorted((root / "videos").rglob("*.mp4"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:200])
    evidence = read_report_input(written(scores, tmp_path))
    page = write_report(evidence, tmp_path / "r.html", dataset=root).read_text()
    assert text_of(page).count(f"{CAMERA}: no video (") == 2
    assert page.count("State and action along the episode") == 2
    assert len(re.findall(rf'alt="{CAMERA} at', page)) > 0


def test_a_dataset_in_the_cache_of_the_hub_keeps_its_name(table: EpisodeTable, tmp_path: Path) -> None:
    scores = scores_of(table, {1: 0.1})
    scores.attrs = {"dataset": f"/cache/datasets--alice--bottle/snapshots/{'0a' * 20}"}
    page = write_report(read_report_input(written(scores, tmp_path)), tmp_path / "r.html").read_text()
    assert "dataset alice/bottle scores.parquet" in text_of(page)
    assert "--repo_id alice/bottle" in page


def test_film_strips_show_the_frames_at_their_times(dataset: Path, tmp_path: Path) -> None:
    table = read_dataset(dataset)
    evidence = read_report_input(written(scores_of(table, {1: 0.1}), tmp_path))
    page = write_report(evidence, tmp_path / "r.html", dataset=table).read_text()
    shown = re.findall(rf'<img src="data:image/jpeg;base64,([^"]+)" alt="{CAMERA} at ([\d.]+) s"', page)
    frames = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, _ in shown]
    assert frame_of(np.stack(frames)) == [round(float(seconds) * table.fps) for _, seconds in shown]
    assert len(shown) == sum(min(length, 8) for length in LENGTHS)
    assert all(frame.shape == (120, 180, 3) for frame in frames)


def test_film_strips_skip_the_frames_of_the_video_without_a_row(dataset: Path) -> None:
    """Every second frame of the video has a row: the rows have half of the video's rate."""
    read = read_dataset(dataset)
    rows = np.flatnonzero(read.frame_index % 2 == 0)
    lengths = np.array([(length + 1) // 2 for length in LENGTHS])
    table = replace(
        read,
        columns={name: values[rows] for name, values in read.columns.items()},
        task_index=read.task_index[rows],
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        frame_id=read.frame_id[rows],
        video_frame=read.video_frame[rows],
        observed_id=read.observed_id[rows],
        stretch=read.stretch[rows],
        seconds=read.seconds[rows],
        fps=read.fps / 2,
    )
    assert table.video_fps == read.fps
    strips, without = film_strips(table, 2, range(6))
    assert without == []
    ((_, shown),) = strips
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for _, uri, _ in shown]
    assert frame_of(np.stack(images)) == [0, 2, 4, 6, 8, 10]
    assert [shot.when for shot in shown] == ["0.0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1.0 s"]


def test_film_strips_mark_the_place_and_show_a_frame_of_it(dataset: Path, tmp_path: Path) -> None:
    table = read_dataset(dataset)
    episode = int(table.episode_index[int(np.argmax(table.lengths))])
    length = int(table.lengths.max())
    for place in ((2, 4), (3, 3), (0, 0)):
        ((_, shown),), _ = film_strips(table, episode, range(length), place=place)
        inside = [round(float(shot.when.split()[0]) * table.fps) for shot in shown if shot.inside]
        assert inside and all(place[0] <= frame <= place[1] for frame in inside)
    ((_, whole),), _ = film_strips(table, episode, range(length), place=(0, length - 1))
    assert not any(shot.inside for shot in whole), "marks of all frames say nothing"
    made = {"state_feature": "state", "action_feature": "action"}
    found = [fault(episode, 2, 4, severity="note", check="time/pause", cause="the robot rests for 0.3 s")]
    report = read_report_input(written(scores_of(table, {}), tmp_path, found, **made))
    page = write_report(report, tmp_path / "r.html", dataset=table).read_text()
    assert 'class="frame inside"' in page and "in the frames named above" in page


def test_times_are_the_recorded_ones(dataset: Path) -> None:
    read = read_dataset(dataset)
    slow = replace(read, seconds=read.seconds * 1.5)
    episode, length = int(read.episode_index[0]), int(read.lengths[0])
    edges = frame_edges(slow, episode)
    np.testing.assert_allclose(edges, np.arange(length + 1) * 1.5 / read.fps)
    place = place_of(fault(episode, 2, 4), length, edges)
    assert place == f"frames 2-4 ({3 / read.fps:.1f} to {7.5 / read.fps:.1f} s)"
    (((_, shown),), _) = film_strips(slow, episode, range(length))
    assert shown[-1].when == f"{(length - 1) * 1.5 / read.fps:.1f} s"
    still = replace(read, seconds=np.zeros_like(read.seconds))
    np.testing.assert_allclose(frame_edges(still, episode), np.arange(length + 1) / read.fps)
    assert frame_edges(coded_table([1]), 0).tolist() == [0.0, 1 / coded_table([1]).fps]


def test_the_last_frame_of_an_episode_takes_time() -> None:
    table = replace(coded_table([30]), fps=10, seconds=np.arange(30) / 10)
    assert place_of(fault(0, 29, 29), 30, frame_edges(table, 0)) == "frame 29 (2.9 to 3.0 s)"


def test_the_clock_is_explained_where_a_video_player_shows_another_one(dataset: Path) -> None:
    read = read_dataset(dataset)
    assert clock_sentence(read) == ""
    longest, length = int(read.episode_index[read.lengths.argmax()]), int(read.lengths.max())
    slow = replace(read, seconds=read.seconds * 2)
    away = (length - 1) / read.fps
    assert f"frames up to {away:.1f} s earlier or later (episode {longest})" in clock_sentence(slow)
    # The stamps of the first and last frame are right.
    ends = np.arange(length) / read.fps
    middle = np.interp(ends, [0, ends[3], ends[-1]], [0, ends[3] + 0.7, ends[-1]])
    rows = np.flatnonzero(read.episode_of_row == read.lengths.argmax())
    seconds = read.seconds.copy()
    seconds[rows] = middle
    assert f"up to 0.7 s earlier or later (episode {longest})" in clock_sentence(replace(read, seconds=seconds))
    assert clock_sentence(replace(slow, videos={})) == ""


def test_rows_that_the_recorder_dropped_keep_their_time_in_the_video(dataset: Path) -> None:
    read = read_dataset(dataset)
    (clip, *_) = read.videos[CAMERA].values()
    stamps = np.delete(np.arange(sum(LENGTHS)), np.s_[5:15]) / read.fps
    file = VideoFile(clip.path, {0: (0.0, len(stamps))}, times=lambda _: stamps)
    table = replace(
        coded_table([len(stamps)]),
        fps=read.fps,
        video_fps=read.fps,
        seconds=stamps,
        videos={CAMERA: {0: VideoClip(clip.path, 0.0, len(stamps), 0, file)}},
    )
    assert clock_sentence(table) == ""
    # Stamps that the frames of the file do not have.
    assert "up to 2.0 s" in clock_sentence(replace(table, seconds=stamps + 2.0 * (stamps > 1.45)))


def test_notes_have_the_signal_that_shows_them() -> None:
    """The gripper of a retry, and the joints of a pause."""
    table = leading_table(8, frames=60)
    grip = np.tile(np.r_[np.zeros(10), np.ones(15), np.zeros(10), np.ones(20), np.zeros(5)], 8)[:, None]
    action = np.concatenate((table.columns["action"], grip), axis=1).astype(np.float32)
    table = replace(table, columns={**table.columns, "action": action}, features=dict(table.features))
    made = {"state_feature": "observation.state", "action_feature": "action"}
    expectation = expectation_of(table, made, [2])
    retry = fault(2, 10, 35, "the gripper closes and opens", check="progress/retry", severity="note")
    (line,) = expectation.lines(retry)
    assert line.name == f"action {action.shape[1] - 1}" and set(line.recorded.round(3)) == {0.0, 1.0}
    pause = fault(2, 20, 30, "the robot rests for 0.5 s", check="time/pause", severity="note")
    assert expectation.lines(pause) and all(one.name.startswith("state ") for one in expectation.lines(pause))
    stale = fault(2, 0, 0, "3.1 standard deviations, most in dimension 1", check="state/stale_start", severity="note")
    assert [one.name for one in expectation.lines(stale)] == ["state 1"]


def test_state_and_action_are_plotted_without_cameras(table: EpisodeTable, tmp_path: Path) -> None:
    evidence = read_report_input(written(scores_of(table, {1: 0.1}), tmp_path))
    page = write_report(evidence, tmp_path / "r.html", dataset=table).read_text()
    assert page.count("State and action along the episode") == 8
    without = write_report(evidence, tmp_path / "s.html").read_text()
    assert "State and action" not in without and "task 2" in without


def test_names_and_instructions_are_escaped(table: EpisodeTable, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    scores = scores_of(table, {1: 0.1}).assign(failed_element=hostile, source=hostile, fault=hostile)
    scores.attrs = {"dataset": f"data/'{hostile}"}
    evidence = read_report_input(written(scores, tmp_path))
    evil = EpisodeTable(**{**vars(table), "tasks": (hostile,) * 3, "source": hostile})
    page = write_report(evidence, tmp_path / "r.html", dataset=evil).read_text()
    assert "<img src=x" not in page and page.count("</script>") == 2
    assert "onerror=alert(1)" in text_of(page)


def test_the_command_is_safe_to_paste() -> None:
    before, after = delete_command("data/my demos; rm -rf ~/")
    assert "'data/my demos; rm -rf ~'" in before and "'data/my demos; rm -rf ~_kept'" in before
    assert (before + "0, 2" + after).endswith('--operation.episode_indices "[0, 2]"')


def test_the_copy_of_a_dataset_in_the_working_folder_is_next_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    words = shlex.split("0".join(delete_command(".")))
    given = dict(zip(words[1::2], words[2::2], strict=False))
    assert given["--repo_id"] == "mine" and given["--root"] == "."
    assert Path(given["--new_root"]).resolve() == tmp_path / "mine_kept"


def test_the_commands_of_a_page_name_the_dataset_as_its_settings_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page may be opened, and its commands typed, in another folder."""
    monkeypatch.chdir(tmp_path)
    found = ReportInput("a", None, (0.25, 4.0), recipe={"dataset": str(tmp_path / "data" / "mine")})
    assert found.dataset == str(tmp_path / "data" / "mine")


def test_a_dataset_is_not_a_run(tmp_path: Path) -> None:
    root = write_v21(coded_table([8, 9]), tmp_path / "mine")
    with pytest.raises(InputError, match=f"{root} is a dataset; score it with hf-ptr score {root}, then report"):
        read_report_input(root)


def test_a_dataset_that_lerobot_cannot_read_is_copied_by_hf_ptr(tmp_path: Path) -> None:
    old = tmp_path / "old"
    table = coded_table([8, 9, 10, 11])
    vectors = {name: feature for name, feature in table.features.items() if feature["dtype"] != "video"}
    write_v21(replace(table, features=vectors), old)
    whole = read_dataset(old)
    command = shlex.split("0, 2".join(delete_command(str(old))))
    assert command[:3] == ["hf-ptr", "convert", "lerobot"] and "--even-times" in command
    done = hf_ptr(*command[1:])
    assert done.returncode == 0, done.stderr
    kept = read_dataset(tmp_path / "old_kept")
    assert kept.lengths.tolist() == np.delete(whole.lengths, [0, 2]).tolist()


def test_the_command_of_a_dataset_on_the_hub_names_no_folder() -> None:
    before, _ = delete_command("alice/bottle@main")
    assert before.startswith("lerobot-edit-dataset --repo_id alice/bottle --new_repo_id alice/bottle_kept --operation")


def test_a_dataset_on_the_hub_is_downloaded_for_its_film_strips(
    dataset: Path,
    tmp_path: Path,
    logged_in: HubServer,
) -> None:
    full = ensure_repository("alice/strips", "dataset")
    files = {path.relative_to(dataset).as_posix(): path for path in dataset.rglob("*") if path.is_file()}
    push_files(files, full, "dataset", message="data")
    evidence = read_report_input(written(scores_of(read_dataset(dataset), {1: 0.1}), tmp_path))
    page = write_report(evidence, tmp_path / "r.html", dataset=full).read_text()
    assert f"{CAMERA} at 0.0 s" in page
    assert load_scored_table(evidence, None) is None
    with pytest.raises(InputError, match="alice/nothing"):
        load_scored_table(evidence, Path("alice/nothing"))


def test_a_run_is_reported_from_its_log(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    for step, place in ((2, 0), (4, 1), (8, 3)):
        append_histogram(folder, step, [0.0, 1.0, 2.0, 3.0, 4.0], [10 * (place == bin) for bin in range(4)])
    page = write_report(read_report_input(folder), tmp_path / "r.html").read_text()
    words = text_of(page)
    assert "The action loss changed from 2 to 0.25 over 8 steps." in words
    assert "99% of the weights are at the upper bound" in words
    assert "moved the temperature to its bound, 0.03" in words
    assert "Early: batches up to step 4. Late: batches up to step 8." in words
    for title in ("identification accuracy", "temperature τ", "scale β", "effective sample size / n"):
        assert f"{title}: A from" in page
    assert "What to type next" not in words, "no episode is held out"
    recipe = "dataset: me/bottle\neval_episodes: [5, 15]\n"
    (folder / "recipe.yaml").write_text(recipe)
    page = write_report(read_report_input(folder), tmp_path / "r.html").read_text()
    assert f"hf-ptr evaluate {folder} --dataset me/bottle --episodes 5,15" in text_of(page)


def test_a_run_with_given_weights_is_not_described_as_unweighted(
    table: EpisodeTable, tmp_path: Path, logged_in: HubServer
) -> None:
    folder = run_folder(tmp_path / "run", alpha=0.0)
    alike = "all chunks have the same weight"
    assert alike in " ".join(explain_log(read_report_input(folder)))
    (folder / "recipe.yaml").write_text("weights: alice/given-weights\n")
    text = " ".join(explain_log(read_report_input(folder)))
    assert alike not in text and "the score file alice/given-weights, which was not found" in text
    file = written(scores_of(table, {}), tmp_path)
    full = ensure_repository("alice/given-weights", "dataset")
    push_files({"scores.parquet": file}, full, "dataset", message="scores")
    evidence = read_report_input(folder)
    assert evidence.scores is not None and len(evidence.scores) == table.num_frames
    assert alike not in " ".join(explain_log(evidence))


def test_a_run_is_reported_on_the_episodes_of_its_training(metaworld_dataset: Path, tmp_path: Path) -> None:
    given = {"dataset": str(metaworld_dataset), "output_dir": str(tmp_path / "out"), "eval_episodes": "6:8"}
    given |= {"skip_episodes": "1,3", "corruption": "hard", "corruption_seed": 2, "corruption_severity": 0.5}
    folder = run_folder(tmp_path / "run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    trained = build_trainer(load_recipe(folder / "recipe.yaml", ["use_cpu=true"])).train_dataset.table
    found = load_scored_table(read_report_input(folder), None)
    assert found is not None and found.episode_index.tolist() == trained.episode_index.tolist() == [0, 2, 4, 5]
    assert found.columns.keys() == trained.columns.keys()
    for name, values in trained.columns.items():
        assert np.array_equal(found.columns[name], values), name


def test_two_runs_are_compared(tmp_path: Path) -> None:
    first, second = (read_report_input(run_folder(tmp_path / name)) for name in ("one", "two"))
    second.recipe["seed"] = 4
    page = text_of(write_report(first, tmp_path / "r.html", compare=second).read_text())
    assert "A: one B: two" in page and "seed 3 4" in page and "action loss, at the end 0.25 0.25" in page


def test_histograms_of_a_resumed_run(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        append_histogram(tmp_path, step, [0.0, 1.0], [step])
    forget_histograms_after(tmp_path, 4)
    append_histogram(tmp_path, 6, [0.0, 1.0], [60])
    with (tmp_path / "weight_histograms.jsonl").open("a") as file:
        file.write('{"step": 8, "edg')
    assert [(line["step"], line["counts"]) for line in read_histograms(tmp_path)] == [(2, [2]), (4, [4]), (6, [60])]
