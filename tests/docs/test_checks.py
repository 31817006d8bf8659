"""The pages of the checks are what the code says today; the example of an own check installs and runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from command_line import hf_ptr
from leading_table import leading_table

from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.detection.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "own_check.md"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "make_checks", raising=False)
    import make_checks

    return make_checks


def test_the_pages_are_current(made: ModuleType) -> None:
    written = {file: file.read_text(encoding="utf-8") for file in (made.INDEX, *made.FOLDER.glob("*.md"))}
    assert written == made.pages(), "run make docs-checks"


@pytest.mark.parametrize("check", BUILT_IN, ids=lambda check: check.name)
def test_every_check_has_a_page_with_all_sections(check: type, made: ModuleType) -> None:
    page = made.pages()[made._file(check)]
    for section in made.SECTIONS:
        (text,) = re.findall(rf"^## {section}\n\n(.+)$", page, re.MULTILINE)
        assert len(text) >= 8 and text[0] == text[0].upper(), section
    assert "None" not in page and f"| {check.unit} |" in page


def clipped(number: int, action: np.ndarray) -> np.ndarray:
    """Episode 5 has one command cut off at 60 % of its range."""
    if number == 5:
        action = action.copy()
        low, high = action[:, 1].min(), action[:, 1].max()
        action[:, 1] = np.minimum(action[:, 1], low + 0.6 * (high - low))
    return action


def test_the_example_of_an_own_check_is_installed_and_finds_its_fault(tmp_path: Path) -> None:
    package, site, out = tmp_path / "clipped-commands", tmp_path / "site", tmp_path / "scores.parquet"
    package.mkdir()
    files = re.findall(r'^```\w+ title="([\w.]+)"\n(.*?)^```', EXAMPLE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == ["pyproject.toml", "clipped_commands.py"]
    for name, text in files:
        (package / name).write_text(text, encoding="utf-8")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(package)]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    data = write_table(leading_table(12, clipped), tmp_path / "data")
    fast = ("steps=2", "rounds=1", "--chunk-size", 8, "--target-offset", 8)
    done = hf_ptr("score", data, *fast, "--out", out, before=f"import sys; sys.path.insert(0, {str(site)!r})")
    assert done.returncode == 0, done.stderr
    found = [one for one in json.loads((tmp_path / "findings.json").read_text()) if one["check"] == "action/clipped"]
    assert {one["episode_index"] for one in found} == {5}
    assert found[0]["cause"] == "commands of 1 cut off at a limit" and found[0]["severity"] == "fault"
    card = json.loads((tmp_path / "power.json").read_text())
    (power,) = [one for one in card["powers"] if one["check"] == "action/clipped"]
    assert power["fault"] == "commands cut off at 70 % of their range" and power["probability"] > 0.5
