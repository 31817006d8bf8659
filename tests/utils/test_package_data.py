"""Recipes and templates are found without a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_ptr.runs.recipe import load_recipe
from hf_ptr.utils.package_data import package_folder, recipe_file

ROOT = Path(__file__).resolve().parents[2]
SFT = Path("recipes/vla/metaworld_state/sft.yaml")


def test_a_packaged_recipe_is_read_where_there_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_file(SFT) == ROOT / SFT
    assert load_recipe(SFT, ["dataset=data"]).training.max_steps == 1500
    SFT.parent.mkdir(parents=True)
    SFT.write_text("dataset: own\nmax_steps: 7\n")
    assert load_recipe(SFT).training.max_steps == 7, "a file of the user comes first"
    for other in (Path("mine.yaml"), Path("recipes/mine.yaml"), tmp_path / "recipes" / "mine.yaml", Path("recipes")):
        assert recipe_file(other) == other


def test_an_installed_package_has_its_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_folder("model_cards") == ROOT / "model_cards"
    monkeypatch.setattr("hf_ptr.utils.package_data.PACKAGE", tmp_path)
    (tmp_path / "recipes").mkdir()
    assert package_folder("recipes") == tmp_path / "recipes"
