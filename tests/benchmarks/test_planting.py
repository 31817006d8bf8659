"""Kinds of the atlas in the robustness benchmark: what is planted, what is true, and what selections keep."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.atlas import peers
from benchmarks.atlas.metrics import Judgement
from benchmarks.robustness import planting, selecting
from benchmarks.robustness.behaviour import ENVIRONMENT, synthetic_table
from benchmarks.robustness.planting import SHARE, Truth, early_release, read_planted, write_planted
from benchmarks.robustness.selecting import OF_TABLE, kept_weight
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(synthetic_table(), tmp_path_factory.mktemp("good") / "data")


def actions(table: EpisodeTable) -> list[np.ndarray]:
    return np.split(table.columns["action"], table.starts[1:])


def test_two_fifths_of_the_episodes_have_the_fault_and_the_truth_names_them(good: Path, tmp_path: Path) -> None:
    write_planted(good, "gain 0.5", 3, tmp_path / "bad")
    table, truth = read_planted(tmp_path / "bad")
    clean = planting.read_set(str(good), planting.OBSERVED, 1000)
    changed = [not np.allclose(*pair) for pair in zip(actions(table), actions(clean), strict=True)]
    assert sum(changed) == round(SHARE * table.num_episodes)
    assert changed == truth.episodes.any.tolist()
    assert (truth.frames == np.repeat(truth.episodes.any, table.lengths)).all()
    # The state is the first part of what is observed, and neither changes.
    assert np.array_equal(table.columns[ENVIRONMENT][:, :3], table.columns["observation.state"])
    assert np.array_equal(table.columns[ENVIRONMENT], clean.columns["observation.state"])
    write_planted(good, "gain 0.5", 4, tmp_path / "other")
    assert read_planted(tmp_path / "other")[1].episodes.any.tolist() != changed


def test_the_frames_of_a_fault_are_those_that_changed(good: Path, tmp_path: Path) -> None:
    write_planted(good, "early release", 0, tmp_path / "bad")
    table, truth = read_planted(tmp_path / "bad")
    clean = planting.read_set(str(good), planting.OBSERVED, 1000)
    changed = (table.columns["action"] != clean.columns["action"]).any(axis=1)
    assert np.array_equal(changed, truth.frames) and changed.any()
    assert not (table.columns["action"] != clean.columns["action"])[:, :-1].any()
    # The gripper is open where it was closed, and stays so to the end.
    last = table.starts + table.lengths - 1
    assert (truth.frames[last] == truth.episodes.any).all() and (table.columns["action"][truth.frames, -1] == 0).all()


def test_a_gripper_that_never_closes_or_opens_again_cannot_release_early() -> None:
    state, rng = np.zeros((6, 1)), np.random.default_rng(0)
    for gripper in ([0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]):
        assert early_release(state, np.array(gripper, dtype=float)[:, None], 0, None, rng) is None


def test_a_chunk_is_faulty_if_one_of_its_frames_is() -> None:
    table = synthetic_table()
    truth = Truth.of_episodes(table, CorruptionTruth("none", 0, table.episode_index, {}))
    truth.frames[table.starts[1] + 5] = True
    found = np.flatnonzero(truth.chunks(table, 4)) - table.starts[1]
    assert found.tolist() == [2, 3, 4, 5]
    # No chunk reaches into the next episode.
    truth.frames[:] = False
    truth.frames[table.starts[1]] = True
    assert np.flatnonzero(truth.chunks(table, 4)).tolist() == [table.starts[1]]


def test_slips_of_clumsy_operators_are_faulty(good: Path, tmp_path: Path) -> None:
    table = read_dataset(good)
    episodes = [{"operator": "expert", "incidents": []} for _ in range(table.num_episodes)]
    episodes[2] = {"operator": "clumsy", "incidents": [[4, 6], [10, 11]]}
    episodes[3] = {"operator": "hesitant", "incidents": [[4, 6]]}
    write_table(table, tmp_path / "recorded", meta={"recording.json": {"episodes": episodes}})
    write_planted(tmp_path / "recorded", "clumsy operators", 0, tmp_path / "bad")
    found, truth = read_planted(tmp_path / "bad")
    assert np.flatnonzero(truth.episodes.any).tolist() == [2]
    assert (np.flatnonzero(truth.frames) - found.starts[2]).tolist() == [4, 5, 10]


def test_an_unknown_or_impossible_kind_is_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no corruption 'swaped'\. Did you mean 'swapped'"):
        write_planted(good, "swaped", 0, tmp_path / "bad")
    table = synthetic_table()
    open_gripper = {**table.columns, "action": table.columns["action"] * [1, 1, 1, 0]}
    write_table(dataclasses.replace(table, columns=open_gripper), tmp_path / "flat")
    with pytest.raises(InputError, match="'early release' cannot be planted"):
        write_planted(tmp_path / "flat", "early release", 0, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_the_shortest_of_each_task_are_kept() -> None:
    table = synthetic_table()
    kept = kept_weight("keep-shortest-70", table, 0, [ENVIRONMENT], 8)[table.starts] > 0
    task = table.task_index[table.starts]
    for one in (0, 1):
        lengths, mine = table.lengths[task == one], kept[task == one]
        assert mine.sum() == round(0.7 * len(lengths)) and lengths[mine].max() <= lengths[~mine].min()


def test_flagged_episodes_are_dropped() -> None:
    table = synthetic_table()
    columns = {name: values.copy() for name, values in table.columns.items()}
    rows = slice(table.starts[5], table.starts[5] + table.lengths[5])
    columns["action"][rows] += np.random.default_rng(0).normal(size=columns["action"][rows].shape).astype(np.float32)
    weight = kept_weight("drop-findings", dataclasses.replace(table, columns=columns), 0, [ENVIRONMENT], 8)
    assert set(weight[rows]) == {0.0} and (weight[table.starts] > 0).sum() >= table.num_episodes - 2


def test_what_rdq_flags_or_ranks_low_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    table = synthetic_table()
    suspicion = np.arange(table.num_episodes, dtype=np.float64)
    suspicion[20] = np.nan
    read: list[str] = []

    def check(place: peers.Place) -> dict[str, Judgement]:
        read.append(json.loads((place.dataset / "meta" / "info.json").read_text())["codebase_version"])
        return {"rdq check": Judgement(np.isin(np.arange(place.episodes), [1, 7]))}

    monkeypatch.setattr(peers, "installed_version", lambda package: "0")
    monkeypatch.setattr(peers, "rdq_check", check)
    monkeypatch.setattr(peers, "rdq_rank", lambda place: {"DemInf (rdq rank)": Judgement(None, suspicion)})
    dropped = kept_weight("drop-rdq", table, 0, [ENVIRONMENT], 8)[table.starts] == 0
    assert np.flatnonzero(dropped).tolist() == [1, 7] and read == ["v3.0"]
    kept = kept_weight("keep-deminf-50", table, 0, [ENVIRONMENT], 8)[table.starts] > 0
    # An episode without a value is kept.
    assert np.flatnonzero(kept).tolist() == [*range(11), 20]


def test_keeping_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OF_TABLE, "keep-shortest-70", lambda table: np.zeros(table.num_episodes, bool))
    with pytest.raises(InputError, match="keep-shortest-70 keeps no episode of 'synthetic'"):
        kept_weight("keep-shortest-70", synthetic_table(), 0, [ENVIRONMENT], 8)


def test_results_with_rdq_depend_on_its_pinned_version() -> None:
    assert f"rdq=={selecting.pinned_version()}" in selecting.PINNED.read_text(encoding="utf-8").split()
