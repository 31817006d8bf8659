"""Adapters: how policies that are not ours keep the contract, by the model type of their configuration."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig

from hf_ptr.errors import InputError
from hf_ptr.pickles import refuse_pickles_in
from hf_ptr.policies.contract import lacking
from hf_ptr.policies.lora import is_adapted
from hf_ptr.saved import require_whole


class AdapterClass(Protocol):
    """
    A class of adapters: made around a model, it keeps the contract [`PostTrainable`] for it.

    Attributes:
        model_class: what the policies of its type are loaded as.
    """

    model_class: Any

    def __call__(self, model: Any) -> Any:
        """The adapter of a model; it holds the model and is no module of its own."""
        ...

    def load_processor(self, place: str) -> Any:
        """The processor that is saved beside it: `encode_instructions`, and a call for acting."""
        ...


# Where in the configuration of a policy that is not ours an adapter keeps what it knows of the dataset.
INTERFACE_KEY = "hf_ptr"
# Of an adapter, beside the contract: how saved models are loaded, and how it acts.
NEEDED = ("model_class", "load_processor", "predict_action_chunk")
ADAPTERS: dict[str, AdapterClass] = {}
# Imported when a policy of the type turns up: their models take seconds to import.
BUILT_IN = {"pi0": "hf_ptr.policies.pi0"}


def register_adapter(model_type: str, adapter: AdapterClass) -> None:
    """
    Makes policies of a model type trainable.

    Args:
        model_type: of the model's configuration.
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
    model_type = getattr(getattr(inner, "config", None), "model_type", None)
    found = _adapter_class(model_type)
    if found is None:
        known = ", ".join(sorted({*ADAPTERS, *BUILT_IN}))
        raise InputError(
            f"{type(inner).__name__} cannot be post-trained: it lacks {', '.join(lacking(policy))}, and no adapter is "
            f"registered for its type {model_type!r} (there are: {known}; see hf_ptr.policies.register_adapter)"
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
    found = _class_of(AutoConfig.from_pretrained(place, **known))
    if found is AutoModel:
        return AutoModel.from_pretrained(place, **kwargs)
    refuse_pickles_in(place)
    strictly = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = found.from_pretrained(place, **kwargs, **strictly)
    require_whole((), info["missing_keys"], info["mismatched_keys"], place)
    return model


def model_of(config: PreTrainedConfig) -> Any:
    """A new model of a configuration."""
    found = _class_of(config)
    return found.from_config(config) if found is AutoModel else found(config)


def load_processor(place: str, config: PreTrainedConfig) -> Any:
    """The processor beside a model of this configuration."""
    adapter = _adapter_class(config.model_type)
    return AutoProcessor.from_pretrained(place) if adapter is None else adapter.load_processor(place)


def _class_of(config: PreTrainedConfig) -> Any:
    adapter = _adapter_class(config.model_type)
    return AutoModel if adapter is None else adapter.model_class


def _adapter_class(model_type: str | None) -> AdapterClass | None:
    if model_type in BUILT_IN and model_type not in ADAPTERS:
        importlib.import_module(BUILT_IN[model_type])
    return None if model_type is None else ADAPTERS.get(model_type)
