"""The pages: their commands exist with the options that they use, their recipes are there, their Python runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import typer.main

from hf_ptr.cli import app
from hf_ptr.data.corruption import RECIPES
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "recipes" / "README.md"])
COMMAND = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The `hf-ptr` commands of a page's blocks, their comments left out."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    names = [[Path(word).name for word in line] for line in words]
    return [line[name.index("hf-ptr") + 1 :] for line, name in zip(words, names, strict=True) if "hf-ptr" in name]


def test_there_are_commands_to_check() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page):
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


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} links to {target}#{anchor}"


def test_the_notebook_of_the_first_hour_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Cell after cell, with less of everything; `make docs` runs it as it stands."""
    monkeypatch.setattr(fit_scores, "__defaults__", (ScoreConfig(steps=2),))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matplotlib.use("agg")
    notebook = json.loads((ROOT / "docs" / "first_hour.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None, "commit the notebook without its outputs"
        source = "".join(cell["source"])
        if cell["id"] == "settings":
            source += "\nDEMONSTRATIONS, HELD_OUT, STEPS = 3, 1, 2\nTASKS = TASKS[:2]"
        exec(compile(source, f"first_hour.ipynb, {cell['id']}", "exec"), names)
    printed = capsys.readouterr().out
    assert "8 episodes" in printed and "AUROC" in printed and "weighted: action error" in printed
    assert names["page"].is_file() and len(names["scores"]) == names["table"].num_frames
