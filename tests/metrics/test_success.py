"""Success rates with Wilson intervals, and t-intervals of means."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from hf_ptr.metrics.statistics import mean_interval, ratio_interval
from hf_ptr.metrics.success import SuccessRate, SuccessTable, comparison_table, success_difference


@pytest.mark.parametrize(("successes", "episodes"), [(0, 20), (20, 20), (7, 20), (81, 150)])
def test_wilson_intervals(successes: int, episodes: int) -> None:
    z, rate = 1.959963984540054, successes / episodes
    centre = (rate + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = z / (1 + z * z / episodes) * math.sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes**2))
    low, high = SuccessRate(successes, episodes).interval
    assert low == pytest.approx(max(0.0, centre - half), abs=1e-12)
    assert high == pytest.approx(min(1.0, centre + half), abs=1e-12)


def test_success_table() -> None:
    table = SuccessTable.from_episodes({"reach-v3": [True, True, False], "push-v3": [False]})
    result = json.loads(json.dumps(table.to_dict()))
    assert result["success"] == 0.5
    assert (result["successes"], result["episodes"]) == (2, 4)
    assert result["interval"] == list(SuccessRate(2, 4).interval)
    assert list(result["tasks"]) == ["reach-v3", "push-v3"]
    assert result["tasks"]["push-v3"]["successes"] == 0
    assert set(result["tasks"]["reach-v3"]) == {"success", "interval", "successes", "episodes"}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table.to_rich("policy"))
    assert "reach-v3" in capture.get()
    assert "50.0%" in capture.get()
    for successes, episodes in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="is not a rate"):
            SuccessRate(successes, episodes)


def paired(both: int, mine: int, other: int, neither: int) -> tuple[SuccessTable, SuccessTable]:
    one = (True,) * (both + mine) + (False,) * (other + neither)
    two = (True,) * both + (False,) * mine + (True,) * other + (False,) * neither
    return SuccessTable({"reach": one}), SuccessTable({"reach": two})


def test_differences_are_of_pairs() -> None:
    # Newcombe 1998, table II, method 10: 36, 12, 2 and 0 of 50 pairs.
    found = success_difference(*paired(36, 12, 2, 0))
    assert found["difference"] == pytest.approx(0.2)
    assert found["interval"] == [pytest.approx(0.0569, abs=1e-4), pytest.approx(0.3404, abs=1e-4)]
    # Of episodes that most often end alike, the difference is known better.
    alike, mixed = (success_difference(*paired(*counts))["interval"] for counts in ((45, 10, 0, 45), (25, 30, 20, 25)))
    assert alike[0] > 0.03 and mixed[0] < 0 and alike[1] - alike[0] < 0.7 * (mixed[1] - mixed[0])
    same = success_difference(*paired(20, 0, 0, 0))
    assert same["difference"] == 0 and same["interval"][0] < 0 < same["interval"][1]
    with pytest.raises(ValueError, match="other episodes"):
        success_difference(paired(3, 0, 0, 0)[0], paired(4, 0, 0, 0)[0])
    console = Console(width=100)
    with console.capture() as capture:
        console.print(comparison_table(dict(zip(("sft", "ptr"), paired(36, 12, 2, 0)[::-1], strict=True))))
    assert "+20.0 points  +5.7 to +34.0  better" in capture.get()


def test_t_intervals() -> None:
    values = np.array([0.2, 0.5, 0.9, 0.4])
    result = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert result == {"mean": pytest.approx(0.5), "interval": [pytest.approx(low), pytest.approx(high)]}
    assert mean_interval(values[:1]) == {"mean": 0.2, "interval": None}


def test_a_ratio_of_means_lies_in_its_interval() -> None:
    reference = np.array([1.0, 4.0, 2.0, 8.0])
    assert ratio_interval(0.5 * reference, reference) == {"mean": 0.5, "interval": pytest.approx([0.5, 0.5])}
    assert ratio_interval(reference[:1], 2 * reference[:1]) == {"mean": 0.5, "interval": None}
    assert np.isnan(ratio_interval(reference, 0 * reference)["mean"])
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        pairs = rng.gamma(4.0, size=(2, 12)) + rng.gamma(2.0, size=12)
        low, high = ratio_interval(pairs[0] * 1.5, pairs[1])["interval"]
        inside += low <= 1.5 <= high
    # Four standard deviations of the count around 95 %.
    assert inside / 300 >= 0.90
