"""The fuzz of the reader finds what is wrong, and finds nothing in the reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks import measurement
from benchmarks.reader_fuzz import __main__ as command
from benchmarks.reader_fuzz import checking
from benchmarks.reader_fuzz.checking import check, message_kind, minimised
from benchmarks.reader_fuzz.clips import UNREADABLE, painted, plan_file, shown
from benchmarks.reader_fuzz.spec import CameraSpec, DatasetSpec, draw_spec
from benchmarks.reader_fuzz.writing import ACTION, STATE, Truth

CAMERA = "observation.images.camera0"
PLAIN = DatasetSpec(
    lengths=(7, 12), ids=(0, 1), order=(0, 1), tasks=("reach", "push"), tasks_change=True, cameras=(CameraSpec(),)
)


def shift_images(truth: Truth) -> None:
    truth.numbers[CAMERA][1] = [number + 1 for number in truth.numbers[CAMERA][1] if number is not None]


def swap_two_images(truth: Truth) -> None:
    numbers = truth.numbers[CAMERA][0]
    numbers[3], numbers[4] = numbers[4], numbers[3]


def change_one_value(truth: Truth) -> None:
    truth.vectors[ACTION][1][11, 2] = np.nextafter(truth.vectors[ACTION][1][11, 2], np.float32(1e9))


def swap_the_episodes(truth: Truth) -> None:
    truth.vectors[STATE][0], truth.vectors[STATE][1] = truth.vectors[STATE][1][:7], truth.vectors[STATE][1]


def change_one_task(truth: Truth) -> None:
    truth.tasks[0][6] = "place"


def shift_the_index(truth: Truth) -> None:
    truth.index[1] = truth.index[1] + 1


def require_a_warning(truth: Truth) -> None:
    truth.warns = True


def require_a_refusal(truth: Truth) -> None:
    truth.expected[CAMERA][1] = "refuse"


def overlook_a_pause(truth: Truth) -> None:
    truth.pauses[1] = [6]


def lose_an_episode(truth: Truth) -> None:
    truth.ids = [0]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (shift_images, "wrong frame"),
        (swap_two_images, "wrong frame"),
        (change_one_value, f"values of {ACTION}"),
        (swap_the_episodes, f"values of {STATE}"),
        (change_one_task, "tasks"),
        (shift_the_index, "index"),
        (require_a_warning, "no warning"),
        (require_a_refusal, "camera silent"),
        (lose_an_episode, "episodes"),
        (overlook_a_pause, "targets"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_wrong_result_is_found(change: Callable[[Truth], None], kind: str) -> None:
    assert check(PLAIN).differences == []
    assert kind in {found for found, _ in check(PLAIN, change).differences}


def test_another_exception_and_a_needless_refusal_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("length")

    def refuses(*_: object) -> None:
        raise checking.InputError("no reason")

    monkeypatch.setattr(checking, "read_dataset", fails)
    assert check(PLAIN).differences[0][0] == "tables failed"
    monkeypatch.setattr(checking, "read_dataset", refuses)
    assert check(PLAIN).differences[0] == ("tables refused", "no reason")


def test_silence_about_damage_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DatasetSpec(oddities=("state_nan",))
    assert check(spec).differences == [] and len(check(spec).refusals) == 1
    monkeypatch.setattr("hf_ptr.data.EpisodeTable.require_finite", lambda *_: None)
    monkeypatch.setattr(checking, "validate_dataset", lambda *_, **__: type("Sound", (), {"usable": True}))
    kinds = {kind for kind, _ in check(spec).differences}
    assert kinds & {"silent", f"values of {STATE}"}


def test_a_difference_is_reduced_to_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_on_two_files(folder: Path, _: object) -> None:
        if len(list(folder.glob("data/**/*.parquet"))) > 1:
            raise KeyError("file")
        raise checking.InputError("one file")

    monkeypatch.setattr(checking, "read_dataset", fails_on_two_files)
    spec = DatasetSpec(
        lengths=(2, 3, 1),
        ids=(4, 7, 9),
        order=(2, 0, 1),
        cuts=(1,),
        state_width=6,
        oddities=("bom_info", "totals_wrong"),
    )
    least = minimised(spec, "tables failed")
    assert least == DatasetSpec(lengths=(2, 3), ids=(0, 1), order=(0, 1), cuts=(1,))


@pytest.mark.parametrize("number", [0, 1, 331, 4095])
def test_a_frame_shows_its_number(number: int) -> None:
    assert shown(painted(number)) == number
    noise = np.random.default_rng(0).integers(-20, 20, (32, 32, 3))
    assert shown(np.clip(painted(number).astype(int) + noise, 0, 255)) == number
    assert shown(np.full((32, 32, 3), 128, np.uint8)) == UNREADABLE


def test_the_right_frame_of_each_row_by_hand() -> None:
    between = plan_file([3, 2], "between", 10, Random(0))
    gap = between.frames[1][0] - 3
    assert between.frames == [[0, 1, 2], [3 + gap, 4 + gap]] and gap in (1, 2)
    assert between.starts == [0.0, (3 + gap) / 10]
    double = plan_file([3, 2], "double_rate", 10, Random(0))
    assert double.frames == [[0, 2, 4], [6, 8]] and len(double.times) == 10 and double.times[3] == pytest.approx(0.15)
    short = plan_file([3, 4], "short", 10, Random(0))
    assert short.frames == [[0, 1, 2], [3, 4, None, None]] and short.expected == ["may", "refuse"]
    dropped = plan_file([5], "dropped", 10, Random(0))
    (lost,) = [row for row, frame in enumerate(dropped.frames[0]) if frame is None]
    assert [frame for frame in dropped.frames[0] if frame is not None] == [
        0,
        1,
        2,
        3,
    ] and lost / 10 not in dropped.times


def test_messages_are_counted_by_kind() -> None:
    assert message_kind("/tmp/a/b.parquet: column 'x y' has 3 values in row 12, expected 2.5") == (
        "PATH column '…' has N values in row N, expected N"
    )


def test_the_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[int] = []

    def plain(_: int, number: int) -> DatasetSpec:
        drawn.append(number)
        return DatasetSpec(content=number)

    monkeypatch.setattr(command, "spec_of", plain)
    monkeypatch.setattr(command, "LINES", tmp_path)
    monkeypatch.setattr(measurement, "SMALL", tmp_path)
    monkeypatch.setattr("sys.argv", ["reader_fuzz", "--small", "--datasets", "3"])
    command.main()
    (lines,) = tmp_path.glob("*.jsonl")
    torn = "\n".join(lines.read_text().splitlines()[:2]) + '\n{"number": 2, "dif'
    lines.write_text(torn)
    drawn.clear()
    command.main()
    assert drawn == [2]
    result = json.loads((tmp_path / "reader_fuzz.json").read_text())
    assert (result["datasets"], result["differing"], result["differences"]) == (3, 0, {})
    assert "0 of 3 datasets differ" in capsys.readouterr().out


@pytest.mark.parametrize("clock", ["pause", "tenths", "seconds", "tenths_pause", "seconds_pause", "gap", "coarse"])
@pytest.mark.parametrize("fps", [10, 29.97, 60])
def test_pauses_and_coarse_clocks_are_read_right(clock: str, fps: float) -> None:
    lengths, ids = (7, 12, 40, 3, 200), (0, 1, 2, 3, 4)
    for content in range(4):
        spec = DatasetSpec(fps=fps, lengths=lengths, ids=ids, order=ids, oddities=(f"times_{clock}",), content=content)
        assert check(spec).differences == []


@settings(max_examples=80, derandomize=True, deadline=None, phases=[Phase.generate], database=None)
@given(seed=st.integers(0, 2**32))
def test_drawn_datasets_are_read_right(seed: int) -> None:
    spec = draw_spec(Random(seed))
    differences = check(spec).differences
    if differences:
        pytest.fail(f"{differences[0]} of {minimised(spec, differences[0][0], attempts=60)}")
