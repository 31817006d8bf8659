"""Weights of a score file, and the regression that uses them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import coded_table
from model_helpers import losses_of, tiny_batch, tiny_model
from recipe_helpers import recipe

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import (
    COLUMNS,
    read_scores,
    read_weights,
    score_frame,
    warn_of_longer_chunks,
    weight_lookup,
    write_scores,
)
from hf_ptr.errors import DataWarning, InputError
from hf_ptr.functional import self_normalized_mean
from hf_ptr.runs.dry_run import plan_recipe
from hf_ptr.runs.recipe import load_recipe
from hf_ptr.runs.run import run_recipe


def score_file(folder: Path, index: Any, weight: Any) -> Path:
    return write_scores(pd.DataFrame({"index": index, "weight": weight}), folder / "scores.parquet")


def test_weights_are_found_by_frame_whatever_their_order(tmp_path: Path) -> None:
    table = coded_table([5, 4, 6])
    index = np.arange(15)[::-1]
    path = score_file(tmp_path, index, index / 10)
    selected = table.select([2, 0])
    np.testing.assert_allclose(read_weights(path, selected), selected.frame_id / 10)


@pytest.mark.parametrize(
    ("index", "weight", "complaint"),
    [
        ([0, 1, 2], [1.0, -0.1, 1.0], "frame 1 is -0.1"),
        ([0, 1, 2], [1.0, 1.0, np.nan], "missing value in row 2"),
        ([0, 1, 2], [np.inf, 1.0, 1.0], "frame 0 is inf"),
        ([0, 1, 1, 2], [1.0, 1.0, 2.0, 1.0], "two weights for frame 1"),
        ([0, 2], [1.0, 1.0], "no weight for frame 1"),
        ([], [], "no weight for frame 0"),
        ([0, 1, 2], [0.0, 0.0, 0.0], "every weight"),
    ],
)
def test_a_wrong_score_file_is_one_line(index: Any, weight: Any, complaint: str, tmp_path: Path) -> None:
    path = score_file(tmp_path, np.array(index, dtype=np.int64), np.array(weight, dtype=np.float64))
    with pytest.raises(InputError, match=complaint) as caught:
        read_weights(path, coded_table([3]))
    assert "\n" not in str(caught.value)


def test_a_lookup_returns_weights_by_frame_in_the_shape_asked_for(tmp_path: Path) -> None:
    lookup = weight_lookup(score_file(tmp_path, np.array([7, 3, 5]), np.array([0.7, 0.3, 0.5])))
    np.testing.assert_array_equal(lookup(torch.tensor([[3, 5], [7, 3]])), [[0.3, 0.5], [0.7, 0.3]])
    assert lookup([]).shape == (0,)
    for frame in (0, 4, 9):
        with pytest.raises(InputError, match=f"no weight for frame {frame}"):
            lookup([3, frame])


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = coded_table([4, 5])
    columns = {"score": np.linspace(0.0, 1.0, 9), "weight": np.ones(9), "valid": np.ones(9, dtype=bool)}
    frame = score_frame(table, **columns, scorer="abc", failed_element="", score_action=np.full(9, np.nan))
    assert list(frame) == [column.name for column in COLUMNS if column.name in frame]
    read = read_scores(write_scores(frame, tmp_path / "s.parquet", dataset="coded"))
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    assert read.attrs == {"dataset": "coded", "fps": table.fps}
    shuffled = write_scores(frame.sample(frac=1.0, random_state=0), tmp_path / "shuffled.parquet")
    pd.testing.assert_frame_equal(read_scores(shuffled), read)
    with pytest.raises(KeyError, match="wieght"):
        score_frame(table, wieght=1.0)


def test_a_missing_or_damaged_score_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_weights(tmp_path / "none.parquet", coded_table([3]))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match="is damaged"):
        read_weights(tmp_path / "bad.parquet", coded_table([3]))


@pytest.mark.parametrize(("name", "lengths"), [("episode_index", [3, 6]), ("frame_index", [4, 5])])
def test_a_score_file_of_another_dataset_is_refused(name: str, lengths: list[int], tmp_path: Path) -> None:
    table, other = coded_table([4, 5]), coded_table(lengths)
    columns = {"index": other.frame_id, "weight": np.ones(9)}
    columns["episode_index"] = np.repeat(other.episode_index, other.lengths)
    if name == "frame_index":
        # The same episodes, as those of a dataset that was cut elsewhere.
        columns["frame_index"] = np.roll(other.frame_index, 1)
    path = write_scores(pd.DataFrame(columns), tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=f"another dataset.*{name}"):
        read_weights(path, table)


def test_a_chunk_brings_its_own_weight() -> None:
    table = coded_table([20, 18])
    weights = np.linspace(0.1, 3.9, 38)
    chunks = ChunkDataset(table, chunk_size=4, weights=weights)
    np.testing.assert_allclose(chunks.batch([3, 30, 7])["weight"], weights[[3, 30, 7]], rtol=1e-6)
    assert "weight" not in ChunkDataset(table, chunk_size=4)[0]
    with pytest.raises(InputError, match="weights have shape"):
        ChunkDataset(table, chunk_size=4, weights=weights[1:])


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf, 1e39])
def test_weights_in_memory_are_checked_like_those_of_a_file(value: float) -> None:
    table = coded_table([20, 18])
    weights = np.ones(38)
    weights[30] = value
    chunks = ChunkDataset(table, chunk_size=4)
    message = re.escape(f"the weight of frame {table.frame_id[30]} of {table.source!r} is {value}; weights must be")
    with pytest.raises(InputError, match=message):
        ChunkDataset(table, chunk_size=4, weights=weights)
    with pytest.raises(InputError, match=message):
        chunks.with_weights(weights)
    with pytest.raises(InputError, match=r"every weight of .* is 0; nothing would be learned"):
        chunks.with_weights(np.zeros(38))


def test_given_weights_make_the_weighted_regression_and_nothing_else() -> None:
    model = tiny_model(with_scorer=False, belief_tokens=0)
    weight = torch.tensor([0.25, 4.0, 1.0, 0.0, 2.0, 0.5])
    losses = losses_of(model, {**tiny_batch(), "weight": weight})
    output = losses.output
    assert output.action_loss is not None
    expected = (weight * output.action_loss).sum() / weight.sum()
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.action, self_normalized_mean(output.action_loss, weight))
    assert losses.metrics["weight_mean"] == pytest.approx(float(weight.mean()))


def test_a_recipe_trains_with_a_score_file(metaworld_dataset: Path, tmp_path: Path) -> None:
    frames = read_dataset(metaworld_dataset).frame_id
    given = score_file(tmp_path, frames, np.where(frames % 2, 4.0, 0.25))
    even = score_file(tmp_path / "even", frames, np.ones(len(frames)))
    runs = {}
    for name, extra in (("none", {}), ("even", {"weights": even}), ("given", {"weights": given})):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made = run_recipe(recipe(folder, metaworld_dataset, output_dir=folder / "run", **extra))
        log = json.loads((made / "trainer_state.json").read_text())["log_history"]
        runs[name] = [entry["loss"] for entry in log if "loss" in entry]
    np.testing.assert_allclose(runs["none"], runs["even"], rtol=1e-5)
    assert max(abs(a - b) for a, b in zip(runs["none"], runs["given"], strict=True)) > 1e-4


def test_weights_and_a_scorer_of_its_own_exclude_each_other(metaworld_dataset: Path, tmp_path: Path) -> None:
    frames = read_dataset(metaworld_dataset).frame_id
    given = score_file(tmp_path, frames, np.ones(len(frames)))
    with pytest.raises(InputError, match="set alpha to 0"):
        run_recipe(recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "run", weights=given, alpha=1.0))
    assert not (tmp_path / "run").exists()


def test_weights_for_shorter_chunks_than_those_of_the_policy_are_said(
    metaworld_dataset: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rows = score_frame(
        read_dataset(metaworld_dataset),
        score=0.0,
        weight=1.0,
        valid=True,
        scorer="s",
        failed_element="",
        failed_check="",
    )
    file = write_scores(rows, tmp_path / "s.parquet", chunk_size=5)
    warn_of_longer_chunks(file, 5)
    warn_of_longer_chunks(write_scores(rows.assign(), tmp_path / "old.parquet"), 16)
    assert not recwarn.list
    with pytest.warns(DataWarning) as said:
        warn_of_longer_chunks(file, 16)
    assert str(said[0].message) == (
        f"weights in {file} are for chunks of 5 actions, the policy has 16: frames up to 11 before a fault keep their "
        "weight; score again with --chunk-size 16"
    )


def test_given_weights_switch_the_fitted_ones_off_and_the_plan_measures_them(
    metaworld_dataset: Path, tmp_path: Path
) -> None:
    table = read_dataset(metaworld_dataset)
    weight = np.where(np.arange(table.num_frames) % 2, 0.0, 2.0)
    rows = score_frame(table, score=0.0, weight=weight, valid=True, scorer="s", failed_element="", failed_check="")
    file = write_scores(rows, tmp_path / "s.parquet", chunk_size=1)
    path = recipe(
        tmp_path, metaworld_dataset, weights=file, scoring="calibrated", alpha=1.0, output_dir=tmp_path / "run"
    )
    assert load_recipe(path).training.alpha == 0 and not load_recipe(path).training.calibrates
    with pytest.warns(DataWarning, match="weights in .* are for chunks of 1 actions"):
        method = plan_recipe(path)["method"]
    # Half of the frames have all of the weight.
    assert method["KL(q‖p)"] == "0.69 nats" and method["weight range"] == "[0, 2]"
    assert method["arm"].startswith("regression with the weights of a score file")
