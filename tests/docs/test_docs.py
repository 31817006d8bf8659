"""The pages and recipes: their commands, options and links exist; the notebook runs (pages: test_commands.py)."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import typer.main
import yaml
from page_helpers import PAGES, ROOT, blocks, commands, run, short_recipes

from hf_ptr.cli import app
from hf_ptr.data.corruption import RECIPES
from hf_ptr.data.mixture.sources import SourceSpec
from hf_ptr.runs.recipe import SECTIONS

COMMAND = typer.main.get_command(app)
RECIPE_FILES = sorted((ROOT / "recipes").rglob("*.yaml"))


def quoted_commands(file: Path) -> list[list[str]]:
    """The words of every `hf-ptr` command: in bash blocks and in the text of a page, in the header of a recipe."""
    if file.suffix == ".yaml":
        found = re.findall(r"^#   (hf-ptr .*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    else:
        inline = re.findall(r"`(hf-ptr [^`\n]+)`", file.read_text(encoding="utf-8"))
        found = [*commands(file), *(line for line in inline if "…" not in line)]
    words = [shlex.split(line, comments=True) for line in found]
    return [line[1:] for line in words if line and Path(line[0]).name == "hf-ptr"]


@pytest.mark.parametrize("file", [*PAGES, *RECIPE_FILES], ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_and_options_exist(file: Path) -> None:
    for words in quoted_commands(file):
        command: Any = COMMAND
        rest = list(words)
        while rest and not rest[0].startswith("-") and hasattr(command, "commands"):
            assert rest[0] in command.commands or rest[0].isupper(), f"no command {' '.join(words)!r}"
            if rest[0].isupper():
                break
            command = command.commands[rest.pop(0)]
        known = {option for parameter in [*command.params, *COMMAND.params] for option in parameter.opts}
        used = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert used <= known, f"{' '.join(words)!r} has unknown options {used - known}"
        for word in words:
            if word.startswith("recipes/"):
                assert (ROOT / word).is_file(), word
        if "--corruption" in words:
            name = words[words.index("--corruption") + 1]
            assert name in RECIPES or name.isupper(), name


def test_keys_of_recipes_in_the_pages_exist() -> None:
    known = {field.name for section in SECTIONS for field in dataclasses.fields(section)}
    shown = [block.text for page in PAGES for block in blocks(page) if block.language == "yaml"]
    assert len(shown) >= 2
    for text in shown:
        content = yaml.safe_load(text)
        assert set(content) <= known, set(content) - known
        for source in content.get("sources", []):
            assert set(source) <= {field.name for field in dataclasses.fields(SourceSpec)}, source


def test_every_recipe_has_its_own_command() -> None:
    for recipe in RECIPE_FILES:
        if recipe.parent.name != "accelerate":
            trained = [words[1] for words in quoted_commands(recipe) if words[0] == "train"]
            assert trained == [str(recipe.relative_to(ROOT))], recipe


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_link_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} links to {target}#{anchor}"


def code_cells(notebook: str) -> Iterator[tuple[str, str]]:
    """The id and the source of each cell with code of a notebook in the documentation."""
    for cell in json.loads((ROOT / "docs" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "commit the notebook without its outputs"
            yield cell["id"], "".join(cell["source"])


@pytest.mark.slow
def test_the_notebook_of_the_first_hour_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """All cells with fewer tasks, demonstrations and steps; `make docs` runs the notebook as it is."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matplotlib.use("agg")
    names: dict[str, Any] = {}
    for cell, source in code_cells("first_hour"):
        if cell == "settings":
            source += "\nDEMONSTRATIONS, HELD_OUT, STEPS = 3, 1, 2\nTASKS, SCORE = TASKS[:2], ScoreConfig(steps=2)"
        exec(compile(source, f"first_hour.ipynb, {cell}", "exec"), names)
    printed = capsys.readouterr().out
    assert "8 episodes" in printed and "AUROC" in printed and "weighted: predicted actions are" in printed
    assert names["page"].is_file() and len(names["scores"]) == names["table"].num_frames


def test_a_cell_of_several_commands_stops_at_the_first_that_fails() -> None:
    scripts = {cell: source.splitlines() for cell, source in code_cells("two_hours") if source.startswith("%%bash")}
    several = {cell: lines for cell, lines in scripts.items() if len(lines) > 2}
    assert "train" in several and all(lines[1] == "set -e" for lines in several.values())


@pytest.mark.slow
def test_the_notebook_of_two_hours_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """All cells with fewer tasks, demonstrations and steps; `make docs` runs the notebook as it is."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # The notebook sets these; they get their values back.
    for name in ("PATH", "FORCE_COLOR", "DEMONSTRATIONS", "STEPS", "ROLLOUTS", "TASKS", "RECIPE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    names: dict[str, Any] = {}
    printed: dict[str, str] = {}
    for cell, source in code_cells("two_hours"):
        shell, _, lines = source.partition("\n")
        if shell == "%%bash":
            # Something is edited, whatever is found in so few episodes.
            ending = " --skip-episodes 0" if cell == "apply" else ""
            commands = [line for line in lines.splitlines() if line != "set -e"]
            printed[cell] = "".join(run(os.path.expandvars(line) + ending) for line in commands)
            continue
        if cell == "settings":
            source = source.replace("DEMONSTRATIONS = 30", "DEMONSTRATIONS = 4").replace("STEPS = 800", "STEPS = 2")
            source = source.replace('TASKS = "push,door-open', 'TASKS = "reach,push"  # ')
        exec(compile(source, f"two_hours.ipynb, {cell}", "exec"), names)
        if cell == "settings":
            short_recipes(Path.cwd())
    assert "demonstrations is usable: 8 episodes" in printed["validate"]
    assert "scores.parquet: a score and a weight for each of" in printed["score"]
    assert "2 of 8 episodes have a planted fault" in capsys.readouterr().out
    assert all(name in printed["evaluate"] for name in ("as_they_are", "weighted", "on_the_copy"))
