"""Prints the lowest versions that pyproject.toml allows, for `pip install --requirement`: `>=X` becomes `==X`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(requirement: str) -> str:
    """A requirement with its lower bound as the only version; one without a lower bound is unchanged."""
    text, semicolon, marker = requirement.partition(";")
    found = re.fullmatch(r"\s*([\w.\[\],-]+?)\s*>=\s*([\w.]+)\s*(?:,.*)?", text)
    return requirement if found is None else f"{found[1]}=={found[2]}{semicolon}{marker}"


def requirements(extras: list[str], without: str = "torch") -> list[str]:
    """The dependencies of the project and of some extras, at their lowest versions, without one of them."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(each for name in extras for each in project["optional-dependencies"][name])]
    return [lowest(each) for each in listed if re.match(r"[\w-]+", each)[0] != without]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
