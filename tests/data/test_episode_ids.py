"""Episode ids as users write them, in options, recipes and sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import hf_ptr, the_line
from data_helpers import drifting_table, write_v21
from hypothesis import given
from hypothesis import strategies as st

from hf_ptr.data.episode_ids import episode_ranges, episode_text, parse_episodes
from hf_ptr.data.mixture.sources import SourceSpec
from hf_ptr.errors import InputError
from hf_ptr.runs.recipe import load_recipe


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("0:3,9", [0, 1, 2, 9]),
        ("5", [5]),
        (5, [5]),
        ([0, 1, 2], [0, 1, 2]),
        ("[0, 1, 2]", [0, 1, 2]),
        ([0, "4:6", "[8, 9]"], [0, 4, 5, 8, 9]),
        (" 3 , 1 ", [3, 1]),
        (None, None),
    ],
)
def test_forms_of_episode_ids(value: Any, ids: list[int] | None) -> None:
    assert parse_episodes(value) == ids
    if value is not None:
        assert parse_episodes(episode_text(value)) == ids


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0-3", "write 0:4, the end of a range is exclusive"),
        ("2..5", "write 2:6"),
        ("4:4", "'4:4' is an empty list"),
        ([], "is an empty list"),
        ("[]", "is an empty list"),
        ("a", "cannot be read at 'a'"),
        ("3:", "cannot be read at '3:'"),
        (-1, "cannot be read at '-1'"),
        (2.0, "cannot be read at '2.0'"),
        (True, "cannot be read at 'True'"),
        ({"a": 1}, "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_other_values_are_refused_with_their_name(value: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_episodes(value, "--episodes")
    assert str(refused.value).startswith("--episodes ") and message in str(refused.value)


@given(st.sets(st.integers(0, 40)))
def test_ranges_read_back(ids: set[int]) -> None:
    text = episode_ranges(ids)
    assert text == "" if not ids else parse_episodes(text) == sorted(ids)


def test_ranges_are_short() -> None:
    assert episode_ranges([9, 0, 1, 2, 5, 6]) == "0:3,5,6,9"


@pytest.mark.parametrize("value", ["[0, 1, 2]", [0, 1, 2], "0:3", "0,1,2"])
def test_a_recipe_and_a_source_take_every_form(tmp_path: Path, value: Any) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"dataset": "d", "episodes": value, "skip_episodes": value, "eval_episodes": 7}))
    data = load_recipe(file).data
    assert parse_episodes(data.episodes) == parse_episodes(data.skip_episodes) == [0, 1, 2]
    assert parse_episodes(data.eval_episodes) == [7]
    spec = SourceSpec.parse({"dataset": "d", "embodiment": "e", "episodes": value, "skip_episodes": 3}, 0)
    assert parse_episodes(spec.episodes) == [0, 1, 2] and parse_episodes(spec.skip_episodes) == [3]


def test_a_recipe_says_where_its_episodes_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("dataset: d\nskip_episodes: 0-3\n")
    with pytest.raises(InputError, match=r"skip_episodes '0-3' .*write 0:4.* \(in .*recipe.yaml, line 2\)"):
        load_recipe(file)


def test_commands_name_the_option_that_leaves_an_episode_out(tmp_path: Path) -> None:
    data = write_v21(drifting_table([24] * 6), tmp_path / "data")
    (data / "data/chunk-000/episode_000010.parquet").unlink()
    out = tmp_path / "scores.parquet"
    score = ("score", data, "--chunk-size", 4, "--target-offset", 4, "--out", out, "steps=2", "rounds=1")
    for refused, form in (
        (hf_ptr(*score), "(--skip-episodes 10)"),
        (hf_ptr("train", _recipe(tmp_path, data), "--dry-run"), '(skip_episodes: "10")'),
    ):
        line = the_line(refused)
        assert "episode_000010.parquet" in line and line.endswith(form), line
    done = hf_ptr(*score, "--skip-episodes", "10", "--json")
    assert done.returncode == 0, done.stderr
    assert hf_ptr("validate", data, "--skip-episodes", 10).returncode == 0
    assert hf_ptr("validate", data, "--episodes", "7:10").returncode == 0
    assert "has no episode 2" in the_line(hf_ptr("validate", data, "--episodes", 2))
    assert "--episodes '0-3' cannot be read" in the_line(hf_ptr("validate", data, "--episodes", "0-3"))


def _recipe(folder: Path, data: Path) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"dataset": str(data), "output_dir": str(folder / "run"), "max_steps": 1}))
    return file
