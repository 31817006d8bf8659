"""The files beside a score file: names, content, atomic writes, and refusals of damaged ones."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from hf_ptr.detection.findings import Finding, flagged_episodes
from hf_ptr.detection.findings_file import (
    COLUMNS,
    FindingsFiles,
    attributes,
    findings_written,
    read_findings,
    read_power,
    remove_findings,
)
from hf_ptr.errors import InputError

LATE = Finding(
    "action/lag", 12, 40, 93, 0.98, "fault", 6.0, "frames", "commands 6 frames late", "shift the actions by the lag"
)
PAUSE = Finding("episode/pause", 3, 5, 9, 1.0, "note", 0.5, "seconds", "the robot “rests”", "nothing")
POWER = {"kinds": [{"check": "action/lag", "fault": "commands 6 frames late", "probability": None}]}


def write(out: Path, findings: tuple[Finding, ...] = (PAUSE, LATE)) -> FindingsFiles:
    with findings_written(out, findings, POWER, dataset="data/mine") as mark:
        out.write_text(mark)
    return FindingsFiles.beside(out)


def test_the_files_have_the_documented_names_and_columns(tmp_path: Path) -> None:
    files = write(tmp_path / "scores.parquet")
    assert [path.name for path in files.all()] == ["findings.parquet", "findings.json", "power.json"]
    table = pd.read_parquet(files.findings)
    assert list(table.columns) == [column.name for column in COLUMNS] == list(asdict(LATE))
    assert table.attrs["dataset"] == "data/mine"
    assert table.iloc[1].to_dict() == asdict(LATE)
    assert json.loads(files.rows.read_text()) == table.to_dict("records")
    assert read_findings(files.findings) == (PAUSE, LATE)
    assert read_power(files.power) == {"flagged": [12], **POWER}


def test_score_files_of_a_folder_have_files_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "scores.parquet")
    other = write(tmp_path / "late.parquet", ())
    assert [path.name for path in other.all()] == ["late.findings.parquet", "late.findings.json", "late.power.json"]
    assert read_findings(tmp_path / "findings.parquet") == (PAUSE, LATE)
    assert read_findings(other.findings) == () and pd.read_parquet(other.findings).first_frame.dtype == "int64"
    for name in ("findings.parquet", "late.findings.parquet"):
        with pytest.raises(InputError, match=f"{name} is the name of a findings file"):
            FindingsFiles.beside(tmp_path / name)


def test_the_id_connects_a_score_file_with_its_findings(tmp_path: Path) -> None:
    marks = set()
    for name, findings in (("a", (PAUSE, LATE)), ("b", (LATE,)), ("c", ())):
        out = tmp_path / f"{name}.parquet"
        mark = attributes(write(out, findings).findings)["detection"]
        assert mark == out.read_text()
        marks.add(mark)
    assert len(marks) == 3


def test_nothing_is_replaced_unless_all_files_are_written(tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    write(out, (LATE,))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt), findings_written(out, (PAUSE,), POWER):
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="check 'action/lag' gives episode 12 the amount inf"):
        write(out, (PAUSE, replace(LATE, amount=float("inf"))))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_findings_of_a_replaced_score_file_are_removed_and_no_other_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", (LATE,))
    remove_findings(tmp_path / "a.parquet")
    left = {"a.parquet", "b.parquet", "b.findings.parquet", "b.findings.json", "b.power.json"}
    assert {path.name for path in tmp_path.iterdir()} == left
    (tmp_path / "findings.parquet").write_text("of another program")
    (tmp_path / "findings.json").write_text("{}")
    remove_findings(tmp_path / "scores.parquet")
    assert {path.name for path in tmp_path.iterdir()} == left | {"findings.parquet", "findings.json"}


def test_flagged_are_episodes_with_a_fault() -> None:
    assert flagged_episodes([LATE, PAUSE, replace(LATE, episode_index=2), replace(LATE, check="action/gain")]) == [
        2,
        12,
    ]


def test_a_file_without_the_column_of_accepted_findings_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "scores.parquet").findings
    pd.read_parquet(path).drop(columns="accepted_as").to_parquet(path)
    assert read_findings(path) == (PAUSE, LATE)


def test_a_file_that_another_program_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    pd.DataFrame([asdict(LATE)]).astype({"episode_index": "int32", "amount": "int64"}).to_parquet(path)
    assert read_findings(path) == (LATE,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="cause"), "lacks the column 'cause'"),
        (lambda t: t.assign(severity="error"), "row 0: severity is 'error'; write fault, note or accepted"),
        (lambda t: t.assign(probability=[0.5, 1.5]), "row 1: probability is 1.5; it must be between 0 and 1"),
        (lambda t: t.assign(probability=[float("nan"), 0.5]), "probability"),
        (lambda t: t.assign(amount=[float("inf"), 1.0]), "row 0: amount is inf; it must be finite"),
        (lambda t: t.assign(first_frame=[4, 94]), "row 1: frames 94 to 93 are not a range"),
        (lambda t: t.assign(episode_index=-1), "row 0: episode_index is -1"),
        (lambda t: t.assign(first_frame=0.5), "column 'first_frame' is 0.5 in row 0, expected integers"),
        (lambda t: t.assign(check=None), "column 'check' is None in row 0, not text"),
        (lambda t: t.assign(check=""), "row 0: check is empty"),
    ],
)
def test_a_wrong_value_is_reported_in_one_line(change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    change(pd.DataFrame([asdict(PAUSE), asdict(LATE)])).to_parquet(path)
    with pytest.raises(InputError) as error:
        read_findings(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_missing_and_damaged_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; write one with hf-ptr score"):
        read_findings(tmp_path / "findings.parquet")
    (tmp_path / "findings.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"findings\.parquet"):
        read_findings(tmp_path / "findings.parquet")
    (tmp_path / "power.json").write_text("[1]")
    with pytest.raises(InputError, match=r"power\.json is damaged; score the data again"):
        read_power(tmp_path / "power.json")


CARD = {
    "faulty_share": 0.2,
    "powers": [{"check": "a", "fault": "b", "part": False, "probability": None, "low": 0.0, "high": 1.0, "copies": 3}],
    "unseen": [{"fault": "a", "reason": "b", "dimensions": ["c"]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("faulty_share"), "faulty_share is not a number between 0 and 1"),
        (lambda card: card.pop("unseen"), "unseen is not a list"),
        (lambda card: card.update(powers={}), "powers is not a list"),
        (lambda card: card.update(powers=[3]), "powers, row 0, lacks a value or has one out of range"),
        (lambda card: card["powers"][0].pop("probability"), "powers, row 0,"),
        (lambda card: card["powers"][0].pop("check"), "powers, row 0,"),
        (lambda card: card["powers"][0].update(part=1), "powers, row 0,"),
        (lambda card: card["powers"][0].update(probability=float("nan")), "powers, row 0,"),
        (lambda card: card["powers"][0].update(low="0.1"), "powers, row 0,"),
        (lambda card: card["unseen"][0].pop("dimensions"), "unseen, row 0,"),
        (lambda card: card["unseen"][0].update(dimensions=[1]), "unseen, row 0,"),
        (lambda card: card.update(flagged=["a"]), "flagged is not a list of integers"),
    ],
)
def test_a_wrong_value_of_the_power_card_is_reported_in_one_line(change, message: str, tmp_path: Path) -> None:
    path, card = tmp_path / "power.json", json.loads(json.dumps(CARD))
    path.write_text(json.dumps(card))
    assert read_power(path) == CARD
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(InputError) as error:
        read_power(path)
    assert message in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)
