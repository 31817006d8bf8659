"""The structure of the library: every equation is used, no modules import each other, tests mirror packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from hf_ptr import equations, functional

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hf_ptr"
FILES = sorted(SOURCE.rglob("*.py"))
HOMES = (SOURCE / "functional.py", SOURCE / "equations.py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def public(module: object) -> list[str]:
    """Names of the equations that a module offers."""
    named = getattr(module, "__all__", None)
    own = [
        n for n, value in vars(module).items() if getattr(value, "__module__", "") == getattr(module, "__name__", 0)
    ]
    return sorted(named or [name for name in own if not name.startswith("_")])


@cache
def calls(path: Path) -> frozenset[str]:
    """Names of the functions that a file calls, or hands on as `partial` does; not those it only imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for part in (node.func, *node.args):
                if isinstance(part, ast.Attribute):
                    found.add(part.attr)
                elif isinstance(part, ast.Name):
                    found.add(part.id)
    return frozenset(found)


def imports(path: Path) -> Iterator[str]:
    """Modules of the library that a file imports when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hf_ptr":
            # `from package import module` names the module.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "hf_ptr")
        stack.extend(ast.iter_child_nodes(node))


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
    assert "identification_loss" in calls(SOURCE / "training" / "ptr_trainer.py")


def test_no_modules_import_each_other() -> None:
    """No circle of imports, the package's own exports included: what the top level imports, imports nothing of it."""
    graph = {module_name(path): set(imports(path)) & MODULES for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for imported in sorted(graph[module]):
                visit(imported, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_tests_mirror_packages_and_do_not_import_each_other() -> None:
    tests = ROOT / "tests"
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    folders = {path.parent.name for path in tests.rglob("test_*.py") if path.parent != tests}
    assert folders - {"docs", "benchmarks", "examples", "fuzz", "lerobot_plugin", "packaging"} <= packages
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("test_", "tests.")), f"{path} imports {node.module}"
