"""Weight files of the plug-in for LeRobot: read by frame, refused by name if damaged or of another dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from plugin_helpers import plugin_module, weight_rows

from hf_ptr.data.score_file import write_scores

module = plugin_module("weight_file")
STARTS, LENGTHS = np.array([0, 5, 8]), np.array([5, 3, 4])


def scored(frames: int = 12, starts: np.ndarray = STARTS) -> pd.DataFrame:
    """A score file of three episodes."""
    rows = weight_rows(frames)
    episode = np.searchsorted(starts, rows["index"], side="right") - 1
    return rows.assign(episode_index=episode, frame_index=rows["index"] - starts[episode])


def write(rows: pd.DataFrame, folder: Path) -> Path:
    return write_scores(rows, folder / "w.parquet")


def test_weights_are_those_of_the_rows_and_the_fallback(tmp_path: Path) -> None:
    rows = scored().iloc[:7]
    file = module.read_weight_file(write(rows, tmp_path))
    weights, known = file.by_frame(12, 0.5)
    expected = np.full(12, 0.5)
    expected[rows["index"]] = rows["weight"]
    np.testing.assert_array_equal(weights, expected)
    assert set(np.flatnonzero(known)) == set(rows["index"])
    # `fallback_weight: 1` in a recipe is an integer.
    np.testing.assert_array_equal(file.by_frame(12, 1)[0][rows["index"]], rows["weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="weight"), r"no column 'weight', it has index"),
        (lambda rows: rows.rename(columns={"index": "frame"}), r"no column 'index'"),
        (lambda rows: rows.assign(weight=-rows["weight"]), r"12 weights are negative or not finite, the first is -"),
        (lambda rows: rows.assign(weight=rows["weight"].where(rows["index"] != 3)), r"1 weights .* nan of frame 3"),
        (lambda rows: rows.assign(weight=np.inf), r"not finite, the first is inf"),
        (lambda rows: rows.assign(weight=0.0), r"every weight is 0"),
        (lambda rows: rows.assign(weight="much"), r"'weight' must be numbers"),
        (lambda rows: rows.assign(index=rows["index"] - 1), r"frame index -1"),
        (lambda rows: rows.assign(index=rows["index"] + 0.5), r"'index' must be integers"),
        (lambda rows: pd.concat([rows, rows.iloc[:2]]), r"2 times; give the scores of one dataset"),
        (lambda rows: rows.iloc[:0], r"no rows"),
    ],
)
def test_a_damaged_file_is_refused_by_name(change, message: str, tmp_path: Path) -> None:
    path = write(change(weight_rows(12)), tmp_path)
    with pytest.raises(module.WeightFileError, match=message) as refused:
        module.read_weight_file(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.parquet").write_text("index,weight\n0,1\n")
    with pytest.raises(module.WeightFileError, match=r"not a readable parquet file"):
        module.read_weight_file(tmp_path / "w.parquet")
    with pytest.raises(module.WeightFileError, match=r"none\.parquet is not a file"):
        module.read_weight_file(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        # More frames, by the indices alone.
        (weight_rows(13), r"3 episodes and 12 frames: it weighs frame 12"),
        # As many frames, in episodes of other lengths.
        (scored(starts=np.array([0, 4, 8])), r"frame \d of episode 1 has the index \d, not \d"),
        # Fewer frames: the first episodes agree, the last is shorter.
        (scored(11), r"it weighs 3 frames of episode 2, which has 4"),
        # More episodes.
        (scored(starts=np.array([0, 5, 8, 11])), r"it weighs episode 3"),
    ],
)
def test_the_file_of_another_dataset_is_refused(rows: pd.DataFrame, message: str, tmp_path: Path) -> None:
    file = module.read_weight_file(write(rows, tmp_path))
    with pytest.raises(module.WeightFileError, match=message):
        file.require_fits("local/g1", STARTS, LENGTHS)


def test_an_exported_file_weighs_whole_episodes_and_others_any_frames(tmp_path: Path) -> None:
    rows = weight_rows(12)
    rows = rows[rows["index"] < 11]
    path = write(rows, tmp_path)
    module.read_weight_file(path).require_fits("local/g1", STARTS, LENGTHS)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"hf_ptr": "{}"}), path)
    with pytest.raises(module.WeightFileError, match=r"it weighs 3 frames of episode 2, which has 4"):
        module.read_weight_file(path).require_fits("local/g1", STARTS, LENGTHS)


def test_scores_of_some_episodes_are_taken(tmp_path: Path) -> None:
    rows = scored()
    rows = rows[rows["episode_index"] != 1]
    file = module.read_weight_file(write(rows, tmp_path))
    file.require_fits("local/g1", STARTS, LENGTHS)
    assert file.by_frame(12, 1.0)[1].sum() == 9
