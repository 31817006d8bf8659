"""The components in transformers' Auto classes, from `import hf_ptr` on and yet without loading anything then.

Loading transformers' Auto classes takes seconds, and so do the components. So `defer` only asks to be told when
something else loads them; then a stand-in takes each component's place, and the component itself is loaded, and
registered by its own package, when anything of it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Model type to the package, or module, that registers it.
COMPONENTS = {
    "ptr_belief_tokenizer": "hf_ptr.ptr.belief_tokenizer",
    "ptr_transition_scorer": "hf_ptr.ptr.scorer",
    "ptr_vla": "hf_ptr.policies.vla",
    "ptr_efficientnet_lite": "hf_ptr.policies.efficientnet_lite",
    "ptr": "hf_ptr.training.ptr_model",
}
# Processors, which are looked up by name before any model type is.
PROCESSORS = {"VLAProcessor": "hf_ptr.policies.vla"}


def register(config: Any, model: Any, processor: Any = None) -> None:
    """Makes a component known to `AutoConfig`, `AutoModel` and, with a processor, to `AutoProcessor`."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    if processor is not None:
        AutoProcessor.register(config, processor, exist_ok=True)


def defer() -> None:
    """Puts stand-ins for the components where the Auto classes look them up, as soon as those are loaded."""
    for name, put in WAITED_FOR.items():
        loaded = sys.modules.get(name)
        if loaded is not None:
            put(loaded)
    sys.meta_path.insert(0, _Waiting())


def _put_configurations(module: ModuleType) -> None:
    for model_type, package in COMPONENTS.items():
        if model_type not in module.CONFIG_MAPPING:
            find = partial(module.CONFIG_MAPPING.__getitem__, model_type)
            stand_in = _StandIn(package, find)
            # transformers goes through all names, as when it looks for a tokenizer; this one is nobody's.
            stand_in.__name__ = model_type
            module.CONFIG_MAPPING.register(model_type, stand_in)


def _put_processors(module: ModuleType) -> None:
    for name, package in PROCESSORS.items():
        stand_in = _StandIn(package, partial(_attribute, package, name))
        stand_in.__name__ = name
        # Looked up by its name; the configuration that it belongs to need not be known for that.
        module.AutoProcessor.register(stand_in, stand_in, exist_ok=True)


def _attribute(package: str, name: str) -> Any:
    return getattr(sys.modules[package], name)


WAITED_FOR: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _put_configurations,
    "transformers.models.auto.processing_auto": _put_processors,
}


class _StandIn:
    """A class that is loaded when anything of it is asked for."""

    __name__: str

    def __init__(self, package: str, find: Callable[[], Any]):
        self._package, self._find = package, find

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        importlib.import_module(self._package)
        return getattr(self._find(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        importlib.import_module(self._package)
        return self._find()(*args, **kwargs)


class _Waiting(MetaPathFinder):
    """Finds nothing itself: it lets the others find the modules that are waited for, and adds the stand-ins."""

    def __init__(self) -> None:
        self._asking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in WAITED_FOR or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, WAITED_FOR[fullname])
        return spec


class _Then(Loader):
    """Loads as the loader that was found, and then puts the stand-ins."""

    def __init__(self, found: Loader, put: Callable[[ModuleType], None]):
        self._found, self._put = found, put

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._found.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._found
        self._found.exec_module(module)
        self._put(module)
