"""The commands in the headers of recipes run as they stand, with smaller policies, on small data, for two steps."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from page_helpers import G1, ROOT, SAWYER, record, run, short_recipes

RECIPES = sorted((ROOT / "recipes" / "vla").rglob("ptr.yaml"))
# The arms of a folder differ in settings of the loss only, which tests/runs/test_recipe.py checks; one arm runs here.
ARM = "ptr"
# What a reader replaces.
STAND_INS = {"POLICY": "runs/metaworld_state/ptr", "DIR observation_features=[observation.images.top]": "data/top"}
# Beginnings of commands that do not run here, with the reason.
NOT_RUN = {
    "hf-ptr record": "the data are there",
    "accelerate launch": "eight GPUs; the same recipe runs in one process",
    "hf-ptr train recipes/pi0": "needs a pretrained PI0: tests/policies/test_pi0.py trains one of random weights",
    "hf-ptr train recipes/smolvla": "needs LeRobot's environment of 6 GB: make test-lerobot",
}


def header_commands(recipe: Path) -> list[str]:
    """The commands in the comment at the beginning of a recipe."""
    return re.findall(r"^#   (\S.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, metaworld_dataset: Path) -> Path:
    """A folder with short recipes and the data that their headers name."""
    folder = tmp_path_factory.mktemp("desk")
    short_recipes(folder)
    record(folder / "data" / "g1_bottle", G1)
    record(folder / "data" / "mt10-pixels", SAWYER, episodes=6)
    record(folder / "data" / "top", G1._replace(cameras=("observation.images.top",)))
    shutil.copytree(metaworld_dataset, folder / "data" / "mt10")
    return folder


def test_every_recipe_has_commands_that_run_or_have_a_reason() -> None:
    for recipe in sorted((ROOT / "recipes").rglob("*.yaml")):
        if recipe.parent.name == "accelerate":
            continue
        kinds = {command.split()[0] for command in header_commands(recipe)}
        assert kinds <= {"hf-ptr", "accelerate"} and "hf-ptr" in kinds, recipe
        same = recipe.with_name(f"{ARM}.yaml")
        assert same in RECIPES or header_commands(same)[0].startswith(tuple(NOT_RUN)), recipe


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_the_commands_of_a_header_run(recipe: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    done = 0
    for command in header_commands(recipe):
        if command.startswith(tuple(NOT_RUN)):
            continue
        for name, stand_in in STAND_INS.items():
            if name == "POLICY" and name in command and not Path(stand_in).exists():
                run("hf-ptr train recipes/vla/metaworld_state/ptr.yaml dataset=data/mt10")
            command = command.replace(f"={name}", f"={stand_in}")
        run(command)
        done += 1
    assert done
