"""The structure of the library: every equation is used, packages point one way, and no two tests share code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_ptr import equations, functional

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hf_ptr"
FILES = sorted(SOURCE.rglob("*.py"))
HOMES = (SOURCE / "functional.py", SOURCE / "equations.py")
# Each package may import those before it, and none after it.
ORDER = (
    ("errors", "equations"),
    ("utils", "functional", "embodiment"),
    ("data", "metrics"),
    ("ptr", "scoring", "hub", "envs"),
    ("policies",),
    ("training",),
    ("runs",),
    ("evaluation", "report"),
    ("cli",),
    ("score", "train"),
)


def public(module: object) -> list[str]:
    """Names of the equations that a module offers."""
    named = getattr(module, "__all__", None)
    own = [
        n for n, value in vars(module).items() if getattr(value, "__module__", "") == getattr(module, "__name__", 0)
    ]
    return sorted(named or [name for name in own if not name.startswith("_")])


def calls(path: Path) -> Iterator[str]:
    """Names of the functions that a file calls, or hands on as `partial` does; not those it only imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for part in (node.func, *node.args):
                if isinstance(part, ast.Attribute):
                    yield part.attr
                elif isinstance(part, ast.Name):
                    yield part.id


def imports(path: Path) -> Iterator[str]:
    """Packages of the library that a file imports, wherever in the file; imports for types only are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    left_out = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in left_out and node.module:
            parts = node.module.split(".")
            if parts[0] == "hf_ptr":
                yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("name", sorted({*public(functional), *public(equations)}))
def test_every_equation_has_a_caller_in_the_library(name: str) -> None:
    """Docs and theory tests vouch for these functions: training, scoring and reports must run them."""
    outside = [path for path in FILES if path not in HOMES]
    users = [path for path in outside if name in calls(path)]
    # Some are parts of an equation that is itself called from outside.
    inside = [path for path in HOMES if name in calls(path)]
    assert users or inside, f"no file of the library calls {name}"
    if name in public(functional) and name not in public(equations):
        assert users or name == "match_log_probability", f"only the equations themselves call {name}"


def test_the_search_for_callers_can_fail() -> None:
    assert not any("an_equation_that_nobody_calls" in calls(path) for path in FILES)
    assert "identification_loss" in set(calls(SOURCE / "training" / "ptr_trainer.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    level = {package: number for number, group in enumerate(ORDER) for package in group}
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for package in imports(path):
        if package in level and package != own:
            assert level[package] < level[own], f"{path.relative_to(SOURCE)} imports {package}"


def test_every_package_is_in_the_order() -> None:
    here = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if not path.name.startswith("__")}
    here = {name for name in here if (SOURCE / f"{name}.py").exists() or list((SOURCE / name).glob("*.py"))}
    assert here == {package for group in ORDER for package in group}


def test_tests_mirror_packages_and_do_not_import_each_other() -> None:
    tests = ROOT / "tests"
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    folders = {path.parent.name for path in tests.rglob("test_*.py") if path.parent != tests}
    assert folders - {"docs", "benchmarks"} <= packages
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("test_", "tests.")), f"{path} imports {node.module}"
