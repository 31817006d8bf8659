"""The wheel contains every file of the package and nothing else; `make test-wheel` installs and uses it."""

from __future__ import annotations

import re
import runpy
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hf_ptr

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().split())
}
# Installed in an environment of its own, with other versions than those of constraints.txt.
NOT_PINNED = {"lerobot"}


@pytest.fixture(scope="module")
def check() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests" / "packaging" / "check_wheel.py"))


@pytest.fixture(scope="module")
def wheel(check: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return check["build"](tmp_path_factory.mktemp("dist"))[0]


def test_the_wheel_has_the_files_of_the_package(check: dict[str, Any], wheel: Path) -> None:
    files = check["wheel_files"](wheel)
    assert files == check["expected_files"]()
    assert {"hf_ptr/py.typed", "hf_ptr/recipes/vla/g1/calibrated.yaml", "hf_ptr/model_cards/policy.md"} <= files
    assert not [name for name in files if "test" in name or not name.startswith("hf_ptr/")]


def test_the_metadata_of_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("METADATA")]
        text = archive.read(name).decode()
    assert f"\nVersion: {hf_ptr.__version__}\n" in text and "\nRequires-Python: >=3.11\n" in text
    assert re.findall(r"Python :: (3\.\d+)", text) == ["3.11", "3.12", "3.13"]
    assert (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1].startswith(hf_ptr.__version__)
    assert f"\nversion: {hf_ptr.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_has_a_range_and_a_pin_inside(requirement: Requirement) -> None:
    assert any(each.operator in (">=", "==") for each in requirement.specifier), "no lowest version"
    if requirement.name not in NOT_PINNED:
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(Version(pin)), f"constraints.txt has {pin}"
