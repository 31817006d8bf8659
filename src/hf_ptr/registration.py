"""The components in transformers' Auto classes, from `import hf_ptr` on and yet without loading anything then.

Loading transformers' Auto classes takes seconds, and so do the components. So `defer` only asks to be told when
something else loads them; then a stand-in takes each component's place among the configurations, and the component
itself is loaded, and registered by its own package, when its model type is first asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

CONFIGURATIONS = "transformers.models.auto.configuration_auto"
# Model type to the package that registers it.
COMPONENTS = {
    "ptr_belief_tokenizer": "hf_ptr.belief",
    "ptr_transition_scorer": "hf_ptr.scoring",
    "ptr_vla": "hf_ptr.policies.vla",
    "ptr": "hf_ptr.training",
}


def register(config: type, model: type, processor: type | None = None) -> None:
    """Makes a component known to `AutoConfig`, `AutoModel` and, with a processor, to `AutoProcessor`."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    AutoConfig.register(config.model_type, config, exist_ok=True)  # type: ignore[attr-defined]
    AutoModel.register(config, model, exist_ok=True)
    if processor is not None:
        AutoProcessor.register(config, processor, exist_ok=True)


def defer() -> None:
    """Puts stand-ins for the components among the configurations that `AutoConfig` knows, as soon as it is loaded."""
    loaded = sys.modules.get(CONFIGURATIONS)
    if loaded is not None and hasattr(loaded, "CONFIG_MAPPING"):
        _put_stand_ins(loaded)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _put_stand_ins(configurations: ModuleType) -> None:
    mapping = configurations.CONFIG_MAPPING
    for model_type, package in COMPONENTS.items():
        if model_type not in mapping:
            mapping.register(model_type, _StandIn(model_type, package))


class _StandIn:
    """A configuration class that is loaded when anything of it is asked for."""

    def __init__(self, model_type: str, package: str):
        self.model_type, self._package = model_type, package

    def _load(self) -> Any:
        importlib.import_module(self._package)
        return sys.modules[CONFIGURATIONS].CONFIG_MAPPING[self.model_type]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)


class _Waiting(MetaPathFinder):
    """Finds nothing itself: it lets the others find transformers' configurations, and adds the stand-ins."""

    _asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != CONFIGURATIONS or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


class _Then(Loader):
    """Loads as the loader that was found, and then puts the stand-ins."""

    def __init__(self, found: Loader):
        self._found = found

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._found.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._found
        self._found.exec_module(module)
        _put_stand_ins(module)
