"""The files named in CONTRIBUTING exist, and imports follow its order of packages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "hf_ptr"


def package_order() -> dict[str, int]:
    """Each package of the rule on imports, with its rank; packages in braces share one."""
    (rule,) = re.findall(r"Imports point one way:(.*?)\. `data`", TEXT, re.DOTALL)
    return {name: rank for rank, step in enumerate(rule.split("←")) for name in re.findall(r"`(\w+)`", step)}


def test_paths_exist() -> None:
    paths = re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w./]*)`", TEXT)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_package_has_its_place_in_the_order() -> None:
    names = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))}
    # The package itself, which exports from all of them, and the three commands for `python -m`.
    assert names - {"__init__", "__main__", "__pycache__", "_version", "score", "train"} == set(package_order())


def test_imports_keep_the_order() -> None:
    order = package_order()
    wrong = []
    for path in SOURCE.rglob("*.py"):
        package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if package not in order:  # __init__ exports from every package; score and train are commands
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_ptr."):
                imported = (node.module or "").split(".")[1]
                if imported == "_version":  # a number, which anything may read
                    continue
                if order[imported] > order[package] or (order[imported] == order[package] and imported != package):
                    wrong.append(f"{path.relative_to(SOURCE)} imports {imported}")
    assert wrong == []
