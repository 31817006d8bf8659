"""The atlas plants what it says, judges by the truth, resumes, and fails when the detector loses a kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import REAL_V21

from benchmarks import measurement
from benchmarks.atlas import __main__ as command
from benchmarks.atlas import peers, pinned, table, tools
from benchmarks.atlas.cells import Cell, Recorded, cells_of
from benchmarks.atlas.generated import generated_set
from benchmarks.atlas.kinds import CONTROLS, FAULTS
from benchmarks.atlas.metrics import Judgement, figures
from benchmarks.atlas.ours import OURS
from benchmarks.atlas.planted import ACTION, PART, STATE, UNTOUCHED, WHOLE, Planted, plant, read_set
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.detection.detect import detect
from hf_ptr.errors import InputError


@pytest.fixture(scope="module")
def sound() -> EpisodeTable:
    return generated_set(12)


@pytest.mark.parametrize("fault", [*FAULTS, *CONTROLS])
def test_a_fault_changes_its_carriers_only(sound: EpisodeTable, fault: str) -> None:
    before = Planted(sound, UNTOUCHED, WHOLE, sound, np.zeros(12, bool), {}, np.zeros(12, bool))
    partial = fault in FAULTS and FAULTS[fault].partial
    for part in (WHOLE, PART) if partial else (WHOLE,):
        planted = plant(sound, fault, part, 1, 3)
        assert planted is not None and planted.carriers.sum() == 3
        tasks = [
            [made.table.tasks[number] for number in made.table.task_index[made.table.starts]]
            for made in (before, planted)
        ]
        for number in range(12):
            same = tasks[0][number] == tasks[1][number] and all(
                np.array_equal(before.episodes(name)[number], planted.episodes(name)[number])
                for name in (STATE, ACTION)
            )
            assert same != planted.carriers[number], f"{fault}, {part}, episode {number}"
        assert all(np.isfinite(column).all() for column in planted.table.columns.values())
        if part == PART:
            assert set(planted.frames) == set(np.flatnonzero(planted.carriers))
            shares = [mask.mean() for mask in planted.frames.values()]
            assert min(shares) > 0.1 and max(shares) < 0.3


def test_the_same_seed_plants_the_same(sound: EpisodeTable) -> None:
    one, again, other = (plant(sound, "late 6", PART, seed, 3) for seed in (1, 1, 2))
    assert one is not None and again is not None and other is not None
    assert one.digest == again.digest != other.digest


def test_a_fault_without_material_is_not_planted(sound: EpisodeTable) -> None:
    one_task = sound.select([*range(0, 12, 2), 1])
    alone = plant(one_task, "wrong instruction", WHOLE, 1, 2)
    assert alone is not None
    only = sound.select(np.arange(0, 12, 2).tolist())
    lonely = EpisodeTable(**{**vars(only), "tasks": only.tasks[:1]})
    assert plant(lonely, "wrong instruction", WHOLE, 1, 2) is None


def test_late_commands_are_late(sound: EpisodeTable) -> None:
    planted = plant(sound, "late 6", WHOLE, 1, 2)
    assert planted is not None
    number = int(np.flatnonzero(planted.carriers)[0])
    before, after = np.split(sound.columns[ACTION], sound.starts[1:])[number], planted.episodes(ACTION)[number]
    assert np.abs(after[6:, 0] - before[:-6, 0]).mean() < 0.2 * np.abs(after[6:, 0] - before[6:, 0]).mean()


def test_a_slower_episode_keeps_the_lead_of_its_commands(sound: EpisodeTable) -> None:
    def lead(state: np.ndarray, action: np.ndarray) -> int:
        errors = [np.abs(action[: len(action) - k, :6] - state[k:, :6]).mean() for k in range(8)]
        return int(np.argmin(errors))

    planted = plant(sound, "slower 2", WHOLE, 1, 3)
    assert planted is not None
    leads = [lead(*pair) for pair in zip(planted.episodes(STATE), planted.episodes(ACTION), strict=True)]
    assert leads == [leads[0]] * 12
    assert planted.table.lengths[planted.carriers].min() > 1.5 * np.median(sound.lengths)


def a_planted(sound: EpisodeTable, carriers: list[int]) -> Planted:
    truth = np.zeros(12, bool)
    truth[carriers] = True
    aside = np.zeros(12, bool)
    aside[5] = True
    frames = {number: np.arange(sound.lengths[number]) < 20 for number in carriers}
    return Planted(sound, "late 6", PART, sound, truth, frames, aside)


def test_the_figures_of_a_judgement(sound: EpisodeTable) -> None:
    planted = a_planted(sound, [1, 2])
    flagged = np.isin(np.arange(12), [1, 5, 7])
    score = np.where(planted.carriers, 2.0, 1.0)
    score[7] = 3.0
    place = {1: np.arange(sound.lengths[1]) < 10}
    evidence = {1: -np.arange(sound.lengths[1], dtype=float), 2: np.zeros(sound.lengths[2])}
    found = figures(planted, Judgement(flagged, score, place, evidence), harmless=False)
    assert found["recall"] == 0.5
    assert found["false_alarms"] == pytest.approx(1 / 9), "episode 5 is neither a carrier nor sound"
    assert found["auroc"] == pytest.approx(8 / 9)
    assert found["iou"] == 0.5
    assert found["auroc_frames"] == pytest.approx(0.75)
    harmless = figures(planted, Judgement(flagged, score), harmless=True)
    assert harmless["recall"] is None and harmless["false_alarms"] == 0.5
    assert set(figures(planted, Judgement(None), harmless=False).values()) == {None}


def test_length_matched_pairs_only(sound: EpisodeTable) -> None:
    lengths = np.array([100] * 6 + [200] * 6)
    stretched = EpisodeTable(
        **{
            **vars(sound),
            "columns": {},
            "lengths": lengths,
            "starts": np.cumsum(lengths) - lengths,
            "task_index": np.zeros(1800, int),
            "frame_id": np.arange(1800),
            "video_frame": np.empty(0, int),
            "observed_id": np.empty(0, int),
            "stretch": np.empty(0, int),
            "seconds": np.empty(0),
        }
    )
    truth = np.isin(np.arange(12), [6, 7])
    planted = Planted(stretched, "late 6", WHOLE, stretched, truth, {}, np.zeros(12, bool))
    by_length = figures(planted, Judgement(None, lengths.astype(float)), harmless=False)
    assert by_length["auroc"] == pytest.approx(0.8) and by_length["auroc_length_matched"] == 0.5


def test_recorded_cells_are_not_repeated(sound: EpisodeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    judged = tools.judged

    def counted(planted: Planted, names: list[str], power: bool):
        calls.extend(names)
        return judged(planted, names, power)

    monkeypatch.setattr(command, "judged", counted)
    cell = Cell("late 6", WHOLE, 1, 3)
    recorded = Recorded(tmp_path / "atlas.jsonl")
    command.run_cell("set", sound, cell, ["length", "jerk"], recorded)
    command.run_cell("set", sound, cell, ["length", "jerk"], Recorded(recorded.file))
    assert calls == ["length", "jerk"]
    monkeypatch.setattr(command, "version_of", lambda tool: f"new {tool}")
    command.run_cell("set", sound, cell, ["length"], again := Recorded(recorded.file))
    assert calls == ["length", "jerk", "length"]
    again.compact()
    assert [json.loads(line)["tool"] for line in recorded.file.read_text().splitlines()] == ["length", "jerk"]


def test_a_results_file_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "atlas.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"atlas\.jsonl, line 1: not a recorded cell"):
        Recorded(tmp_path / "atlas.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no dataset given"),
        (["--set", "nowhere"], "must be NAME=VALUE"),
        (["--small", "--faults", "late6"], "Did you mean 'late 6'?"),
        (["--small", "--tools", "hf-ptrr"], "Did you mean 'hf-ptr'?"),
        (["--small", "--state", "a=b"], "which no --set names"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        command.main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_peer_that_fails_is_recorded_as_failed(
    sound: EpisodeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "rdq"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "lib/python3.11/site-packages/rdq-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path)
    tools.version_of.cache_clear()
    recorded = Recorded(tmp_path / "atlas.jsonl")
    command.run_cell("set", sound, Cell("late 6", WHOLE, 1, 3), ["rdq check"], recorded)
    tools.version_of.cache_clear()
    (line,) = recorded.lines.values()
    assert line["failure"] == "exit code 3: broken" and line["recall"] is None and line["version"].split()[1] == "1.0"
    with pytest.raises(InputError, match=r"robovet is not installed in .*; run `make atlas-peers`"):
        tools.version_of("robovet")


def test_the_output_of_a_peer_is_read(sound: EpisodeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = {
        "findings": [{"severity": "info", "episodes": [0]}, {"severity": "warning", "episodes": [1, 2]}],
        "score": {"episode_scores": {"0": 95, "1": 60, "2": 100}},
    }
    monkeypatch.setattr(
        peers.Place, "run", lambda place, *command, **_: Path(command[4]).write_text(json.dumps(report)) and ""
    )
    (judgement,) = peers.rdq_check(peers.Place(tmp_path, tmp_path, 4)).values()
    assert judgement.flagged is not None and np.flatnonzero(judgement.flagged).tolist() == [1, 2]
    np.testing.assert_array_equal(judgement.score, [-95, -60, -100, np.nan])
    assert figures(a_planted(sound, [1]), Judgement(None, np.full(12, np.nan)), harmless=False)["auroc"] == 0.5


def a_line(**values) -> dict:
    line = dict.fromkeys(("auroc", "auroc_length_matched", "auroc_frames", "iou", "power_promised", "seconds"))
    line |= {"dataset": "d", "part": WHOLE, "seed": 1, "tool": OURS, "episodes": 50, "carriers": 10, "seconds": 1.0}
    return line | values


def test_the_tables_say_where_another_tool_is_better() -> None:
    lines = [
        a_line(fault="late 6", recall=0.8, false_alarms=0.0, power_promised=0.9),
        a_line(fault="late 6", recall=1.0, false_alarms=0.0, tool="good"),
        a_line(fault="late 6", recall=1.0, false_alarms=0.5, tool="names everybody"),
        a_line(fault="dead", recall=1.0, false_alarms=0.05, power_promised=0.5),
        a_line(fault="dead", recall=1.0, false_alarms=0.0, carriers=2),
        a_line(fault="half rate", recall=None, false_alarms=0.2),
        a_line(fault=UNTOUCHED, recall=None, false_alarms=0.02, carriers=0),
    ]
    text = table.tables(lines, each_tool=True)
    assert "| late 6, whole | 0.80 | 0.0% |" in text and "1.00 good **(better)** |" in text
    assert f"| {OURS} | 2.0% | 20.0% |" in text
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {OURS} |")]
    assert [cell.strip() for cell in row.split("|")][5] == "1/2"
    assert "Promised power within 0.15 of the recall: 1 of 2 kinds; mean error 0.30." in text
    assert "| late 6, whole | 0.80 | 1.00 | 1.00! |" in text


def test_the_cells_of_a_set() -> None:
    cells = cells_of([UNTOUCHED, "half rate", "late 6", "doubled"], [1, 2], 50, rare=True)
    assert [cell for cell in cells if cell.fault == UNTOUCHED] == [Cell(UNTOUCHED, WHOLE, 1, 0)]
    assert {(cell.part, cell.carriers) for cell in cells if cell.fault == "late 6"} == {
        (WHOLE, 10), (PART, 10), (WHOLE, 2),
    }  # fmt: skip
    assert len(cells) == 1 + 2 * (1 + 3 + 2) and len(set(cells)) == len(cells)


def test_the_small_form_finds_what_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SMALL", tmp_path)
    command.main(["--small"])
    lines = Recorded(tmp_path / "atlas.jsonl").lines.values()
    found = pinned.figures_of(lines)
    assert sum(found["recall"].values()) > 0.8 * len(found["recall"])
    lost = {**found, "recall": {**found["recall"], "generated: late 6, whole": 0.0}}
    assert len(pinned.problems(lost, found)) == 1
    noisy = {**found, "false_alarms": {**found["false_alarms"], "generated 1: untouched, whole": 0.1}}
    assert pinned.problems(noisy, found) == ["generated 1: untouched, whole: 10.0% falsely flagged, pinned 0.0%"]
    assert pinned.problems({"recall": {}, "false_alarms": {}}, found)


def test_no_more_recorded_episodes_are_flagged(metaworld_dataset: Path) -> None:
    table = read_set(str(metaworld_dataset), "observation.environment_state", 100)
    # One of these eight is: the noise of a state of one episode of four.
    assert len(detect(table, power=False).flagged) <= 1


@pytest.mark.skipif(not REAL_V21.is_dir(), reason="needs the recordings of a real robot in ../shared/data/g1_bottle")
def test_no_more_real_episodes_are_flagged() -> None:
    assert detect(read_set(str(REAL_V21), STATE, 100), power=False).flagged == []
