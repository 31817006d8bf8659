"""The lowest versions of the dependencies, which `make test-oldest` installs."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / ".ci" / "lowest_versions.py"))


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("transformers>=5.4,<6", "transformers==5.4"),
        ("hf-libero>=0.1.4,<0.2; sys_platform == 'linux'", "hf-libero==0.1.4; sys_platform == 'linux'"),
        ("mkdocstrings[python]>=1.0", "mkdocstrings[python]==1.0"),
        ("metaworld==3.1.1", "metaworld==3.1.1"),
    ],
)
def test_a_lower_bound_becomes_the_version(requirement: str, expected: str) -> None:
    assert SCRIPT["lowest"](requirement) == expected


def test_every_dependency_but_torch_has_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(each) for each in SCRIPT["requirements"](["metaworld"])]
    expected = {Requirement(each).name for each in project["dependencies"]} - {"torch"} | {"metaworld"}
    assert {each.name for each in found} == expected
    assert all([part.operator for part in each.specifier] == ["=="] for each in found)
