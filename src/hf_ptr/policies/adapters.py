"""Adapters: how policies that are not ours keep the contract, by the model type of their configuration."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig
from transformers.utils import cached_file

from hf_ptr.errors import InputError
from hf_ptr.policies.contract import lacking
from hf_ptr.policies.lora import is_adapted
from hf_ptr.utils.components import require_exact
from hf_ptr.utils.pickle_guard import refuse_pickles_in


class AdapterClass(Protocol):
    """
    A class of adapters: made around a model, it keeps the contract [`PostTrainable`] for it.

    Attributes:
        model_class: what the policies of its type are loaded as, by `from_pretrained`. An adapter of models that
            transformers does not know has a static method `load_model(place, dtype)` too.
    """

    model_class: Any

    def __call__(self, model: Any) -> Any:
        """The adapter of a model; it holds the model and is no module of its own."""
        ...

    def load_processor(self, place: str) -> Any:
        """The processor that is saved beside it: `encode_instructions`, and a call for acting."""
        ...


# Of an adapter, beside the contract: how saved models are loaded, and how it acts.
NEEDED = ("model_class", "load_processor", "predict_action_chunk")
ADAPTERS: dict[str, AdapterClass] = {}
# Imported when a policy of the type turns up: their models take seconds to import.
BUILT_IN = {
    "pi0": "hf_ptr.policies.pi0",
    "lerobot/act": "hf_ptr.policies.lerobot",
    "lerobot/diffusion": "hf_ptr.policies.lerobot",
    "lerobot/pi0": "hf_ptr.policies.lerobot",
    "lerobot/pi05": "hf_ptr.policies.lerobot",
    "lerobot/smolvla": "hf_ptr.policies.lerobot",
}


def register_adapter(model_type: str, adapter: AdapterClass) -> None:
    """
    Makes policies of a model type trainable.

    Args:
        model_type: of the model's configuration; `lerobot/TYPE` for a policy of LeRobot.
        adapter: the class; one that was registered before for the type is replaced.

    Example:
        ```python
        register_adapter("my_policy", MyAdapter)
        PTRTrainer(model=my_policy, ...)
        ```
    """
    ADAPTERS[model_type] = adapter


def adapter_of(policy: Any) -> Any:
    """
    What keeps the contract for a policy: the policy itself, or a new adapter around it.

    Raises:
        InputError: there is none, naming what the policy lacks.
    """
    if not lacking(policy):
        return policy
    inner = policy.get_base_model() if is_adapted(policy) else policy
    model_type = _type_of(getattr(inner, "config", None))
    found = _adapter_class(model_type)
    if found is None:
        raise InputError(
            f"{type(inner).__name__} cannot be post-trained: it lacks {', '.join(lacking(policy))}, and no adapter is "
            f"registered for its type {model_type!r} (there are: {_known()}; see hf_ptr.policies.register_adapter)"
        )
    adapter = found(inner)
    missing = lacking(adapter)
    missing += [name for name in NEEDED if not hasattr(adapter, name)]
    if missing:
        raise InputError(
            f"the adapter of {model_type!r} lacks {', '.join(missing)}; see hf_ptr.policies.PostTrainable"
        )
    return adapter


def load_model(place: str, **kwargs: Any) -> Any:
    """
    The model that a folder or Hub id holds, of the class that its adapter knows, or else by `AutoModel`.

    Raises:
        InputError: for pickled weights, and for tensors that are missing or of another shape.
    """
    known = {name: kwargs[name] for name in ("revision", "cache_dir", "token", "local_files_only") if name in kwargs}
    model_type = _type_at(place, **known)
    adapter: Any = _adapter_class(model_type)
    if adapter is None and model_type.startswith("lerobot/"):
        raise InputError(
            f"{place} is a {model_type}, for which no adapter is registered (there are: {_known()}; see "
            "hf_ptr.policies.register_adapter)"
        )
    if adapter is None:
        return AutoModel.from_pretrained(place, **kwargs)
    refuse_pickles_in(place)
    if hasattr(adapter, "load_model"):
        return adapter.load_model(place, **kwargs)
    strictly = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = adapter.model_class.from_pretrained(place, **kwargs, **strictly)
    require_exact((), info["missing_keys"], info["mismatched_keys"], place)
    return model


def model_of(config: PreTrainedConfig) -> Any:
    """A new model of a configuration."""
    adapter = _adapter_class(config.model_type)
    return AutoModel.from_config(config) if adapter is None else adapter.model_class(config)


def load_processor(place: str, base: str) -> Any:
    """The processor of a place whose model, or the one below whose adapter, lies in `base`."""
    adapter = _adapter_class(_type_at(base))
    return AutoProcessor.from_pretrained(place) if adapter is None else adapter.load_processor(place)


def _known() -> str:
    return ", ".join(sorted({*ADAPTERS, *BUILT_IN}))


def _type_of(config: Any) -> str | None:
    """The model type of a configuration of transformers, `lerobot/TYPE` of one of LeRobot."""
    model_type = getattr(config, "model_type", None)
    lerobot = getattr(config, "type", None)
    return f"lerobot/{lerobot}" if model_type is None and lerobot is not None else model_type


def _type_at(place: str, **known: Any) -> str:
    """As [`_type_of`], of the configuration that a folder or Hub id holds."""
    file = cached_file(place, "config.json", _raise_exceptions_for_missing_entries=False, **known)
    try:
        values = None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if isinstance(values, dict) and "type" in values and "model_type" not in values:
        return f"lerobot/{values['type']}"
    # With a complaint of its own where there is no such configuration.
    return AutoConfig.from_pretrained(place, **known).model_type


def _adapter_class(model_type: str | None) -> AdapterClass | None:
    if model_type in BUILT_IN and model_type not in ADAPTERS:
        importlib.import_module(BUILT_IN[model_type])
    return None if model_type is None else ADAPTERS.get(model_type)
