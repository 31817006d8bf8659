"""Simulated operators of different skill, and the records of their actions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.negative_controls import line, parts_of
from benchmarks.robustness.report import negative_controls_table
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.envs.metaworld.operators import OPERATORS, SLOW_SPEED
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError

TASK = ("button-press-topdown-v3",)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("operators") / "mixed"
    return record_metaworld(TASK, 8, out, seed=3, workers=1, operators=tuple(OPERATORS))


def test_recordings_store_operators_and_incidents(mixed: Path) -> None:
    table = read_dataset(mixed)
    provenance = json.loads((mixed / "meta" / "recording.json").read_text())["episodes"]
    assert [episode["operator"] for episode in provenance] == [*OPERATORS] * 2
    for start, length, episode in zip(table.starts, table.lengths, provenance, strict=True):
        moves = table.feature("action")[start : start + length, :3]
        assert bool(episode["incidents"]) == (episode["operator"] in ("hesitant", "clumsy"))
        if episode["operator"] == "slow":
            assert np.abs(moves).max() <= SLOW_SPEED
        for first, last in episode["incidents"]:
            assert 0 <= first < last <= length
            if episode["operator"] == "hesitant":
                assert not moves[first:last].any() and moves[last : last + 1].any()
            else:
                np.testing.assert_allclose(np.linalg.norm(moves[first:last], axis=1), 1.0, rtol=1e-5)
                assert (moves[first:last] == moves[first]).all()


def test_a_slow_operator_takes_longer_and_the_expert_is_unchanged(mixed: Path, tmp_path: Path) -> None:
    table = read_dataset(mixed)
    alone = read_dataset(record_metaworld(TASK, 1, tmp_path / "alone", seed=3, workers=1))
    np.testing.assert_array_equal(table.feature("action")[: table.lengths[0]], alone.feature("action"))
    assert table.lengths[[1, 5]].min() > table.lengths[[0, 4]].max()


def test_an_unknown_operator_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no operator 'clumpsy'\. Did you mean 'clumsy'"):
        record_metaworld(TASK, 1, tmp_path / "out", operators=("expert", "clumpsy"))
    with pytest.raises(InputError, match="operators is empty"):
        record_metaworld(TASK, 1, tmp_path / "out", operators=())
    assert not (tmp_path / "out").exists()


def test_frames_of_slips_and_recoveries_are_distinguished(mixed: Path) -> None:
    table = read_dataset(mixed)
    parts = parts_of(table, mixed)
    assert sum(parts[name].sum() for name in OPERATORS) == table.num_frames
    for incident, operator in (("slips", "clumsy"), ("pauses", "hesitant")):
        assert parts[incident].any() and not (parts[incident] & ~parts[operator]).any()
        assert not (parts[incident] & parts[f"after {incident}"]).any()
        first = int(parts[f"after {incident}"].argmax())
        assert parts[incident][first - 1]
    weight = np.where(parts["slips"], 0.5, 2.0)
    figures = line(weight, parts)
    assert figures["mean weight"]["slips"] == 0.5 and figures["share below 1"]["after slips"] == 0.0
    assert figures["share below 1"]["all"] == pytest.approx(parts["slips"].mean())
    older, newer = {"version": 1, **figures}, {"version": 2, **figures}
    runs = [older, newer, {"version": 2, **line(np.full(len(weight), 4.0), parts)}]
    table_text = negative_controls_table({"mixed skill": runs})
    assert "| mixed skill | slips | 2.25 (0.50 to 4.00) | 0.50 (0.00 to 1.00) |  | 2 |" in table_text
