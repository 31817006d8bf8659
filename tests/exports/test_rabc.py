"""The progress file for LeRobot's RA-BC: its weights under the rule, and how near they come to the given ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hf_ptr.errors import InputError
from hf_ptr.exports.rabc import progress_table, rabc_weights, weight_error


def scores(weight: np.ndarray, lengths: tuple[int, ...], first: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "index": np.arange(first, first + len(weight)),
            "episode_index": np.repeat(np.arange(len(lengths)), lengths),
            "weight": weight,
        }
    )


def by_the_rule(table: pd.DataFrame, chunk: int, kappa: float = 0.01, epsilon: float = 1e-6) -> np.ndarray:
    """The rule frame by frame, as LeRobot's documentation states it."""
    progress = dict(zip(table["index"], table["progress_sparse"], strict=True))
    end = {episode: rows["index"].max() for episode, rows in table.groupby("episode_index")}
    gaps = np.array(
        [
            progress[min(frame + chunk, end[episode])] - progress[frame]
            for frame, episode in zip(table["index"], table["episode_index"], strict=True)
        ]
    )
    mean, deviation = max(gaps.mean(), 0.0), max(gaps.std(), epsilon)
    found = []
    for gap in gaps.astype(np.float32):
        soft = min(max((gap - (mean - 2 * deviation)) / (4 * deviation + epsilon), 0.0), 1.0)
        found.append(1.0 if gap > kappa else soft if gap >= 0 else 0.0)
    return np.array(found)


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_the_weights_of_the_rule_are_those_of_its_definition(chunk: int) -> None:
    rng = np.random.default_rng(0)
    table = scores(np.zeros(90), (30, 1, 59), first=400).assign(progress_sparse=rng.normal(0, 1e-2, 90))
    assert np.abs(rabc_weights(table, chunk) - by_the_rule(table, chunk)).max() < 1e-6


@pytest.mark.parametrize("chunk", [1, 16, 50])
def test_graded_weights_are_reached_except_in_the_last_frame_of_an_episode(chunk: int) -> None:
    """The difference of the last frame to itself is 0 whatever the file says."""
    weight = np.random.default_rng(1).uniform(2.0, 4.0, 300)
    lengths = (100, 37, 163)
    table = progress_table(scores(weight, lengths, first=1000), chunk)
    reached = by_the_rule(table, chunk)
    inner = np.setdiff1d(np.arange(300), np.cumsum(lengths) - 1)
    ratio = reached[inner] / weight[inner]
    # Frames at the ends of the distribution may be clipped to lower the error of the last frames.
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 1e-3
    error = weight_error(weight, rabc_weights(table, chunk))
    assert error["mean"] < 0.02 and error["correlation"] > 0.9
    assert list(table["index"]) == list(range(1000, 1300)) and list(table.columns) == [
        "index",
        "episode_index",
        "progress_sparse",
    ]


def test_frames_of_weight_0_get_none_and_equal_weights_stay_equal() -> None:
    weight = np.where(np.arange(200) % 10 < 6, 4.0, 0.0)
    # The last frame of each episode has weight 0, which RA-BC cannot give it.
    reached = rabc_weights(progress_table(scores(weight, (100, 100)), 16), 16)
    inner = np.setdiff1d(np.arange(200), [99, 199])
    assert (reached[inner][weight[inner] == 0] == 0).all()
    assert np.ptp(reached[inner][weight[inner] > 0]) < 1e-6 and reached[0] > 0.3
    equal = rabc_weights(progress_table(scores(np.full(200, 4.0), (150, 50)), 16), 16)
    assert np.ptp(equal) < 1e-6 and equal[0] > 0.3


def test_the_error_is_that_of_weights_of_mean_1() -> None:
    error = weight_error(np.array([1.0, 3.0]), np.array([0.3, 0.5]))
    assert error["mean"] == pytest.approx(0.25) and error["max"] == pytest.approx(0.25)
    assert error["correlation"] == pytest.approx(1.0)


def test_frames_with_a_gap_are_refused() -> None:
    broken = scores(np.ones(10), (10,)).drop(index=4)
    with pytest.raises(InputError, match="episode 0 has frame 5 after frame 3, and RA-BC needs consecutive ones"):
        progress_table(broken, 16)
