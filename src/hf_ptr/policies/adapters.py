"""Registry of adapters: classes that implement [`PostTrainable`] for models of other libraries, by model type."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig
from transformers.utils import cached_file

from hf_ptr.errors import InputError
from hf_ptr.policies.contract import missing_methods
from hf_ptr.policies.lora import is_adapted
from hf_ptr.utils.components import require_exact
from hf_ptr.utils.pickle_guard import refuse_pickles_in


class AdapterClass(Protocol):
    """
    An adapter class. Its instances hold a model and implement [`PostTrainable`] for it.

    Attributes:
        model_class: the class whose `from_pretrained` loads models of this type. An adapter for models unknown to
            transformers also has a static method `load_model(source, dtype)`.
    """

    model_class: Any

    def __call__(self, model: Any) -> Any:
        """An adapter around a model. It is a plain object: the model alone is a module and holds the weights."""
        ...

    def load_processor(self, source: str) -> Any:
        """The processor saved with a model: `encode_instructions`, and a call that makes the inputs for acting."""
        ...


# Needed in addition to the contract, to load saved models and to act.
ADAPTER_ATTRIBUTES = ("model_class", "load_processor", "predict_action_chunk")
ADAPTERS: dict[str, AdapterClass] = {}
# Imported on first use: the models behind them take seconds to import.
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
        model_type: `model_type` of the model's configuration; `lerobot/TYPE` for a LeRobot policy.
        adapter: the adapter class. It replaces one registered earlier for the same type.

    Example:
        ```python
        register_adapter("my_policy", MyAdapter)
        PTRTrainer(model=my_policy, ...)
        ```
    """
    ADAPTERS[model_type] = adapter


def adapter_of(policy: Any) -> Any:
    """
    The object that implements [`PostTrainable`] for a policy: the policy itself (without its peft wrapper, if it has
    one), or a new adapter around it.

    Raises:
        InputError: the policy lacks a method and no adapter is registered for its type.
    """
    # LoRA layers are part of the base model, so that its own methods apply them.
    inner = policy.get_base_model() if is_adapted(policy) else policy
    missing = missing_methods(inner)
    if not missing:
        return inner
    model_type = _model_type(getattr(inner, "config", None))
    found = _adapter_class(model_type)
    if found is None:
        raise InputError(
            f"{type(inner).__name__} cannot be post-trained: it lacks {', '.join(missing)}, and no adapter is "
            f"registered for its type {model_type!r} (there are: {_known()}; see hf_ptr.policies.register_adapter)"
        )
    adapter = found(inner)
    missing = missing_methods(adapter)
    missing += [name for name in ADAPTER_ATTRIBUTES if not hasattr(adapter, name)]
    if missing:
        raise InputError(
            f"the adapter of {model_type!r} lacks {', '.join(missing)}; see hf_ptr.policies.PostTrainable"
        )
    return adapter


def load_model(source: str, **kwargs: Any) -> Any:
    """
    The model in a folder or Hub repo: by the `model_class` of its adapter, or else by `AutoModel`.

    Raises:
        InputError: for pickled weights, and for tensors that are missing or of another shape.
    """
    known = {name: kwargs[name] for name in ("revision", "cache_dir", "token", "local_files_only") if name in kwargs}
    model_type = _saved_model_type(source, **known)
    adapter: Any = _adapter_class(model_type)
    if adapter is None and model_type.startswith("lerobot/"):
        raise InputError(
            f"{source} is a {model_type}, for which no adapter is registered (there are: {_known()}; see "
            "hf_ptr.policies.register_adapter)"
        )
    if adapter is None:
        return AutoModel.from_pretrained(source, **kwargs)
    refuse_pickles_in(source)
    if hasattr(adapter, "load_model"):
        return adapter.load_model(source, **kwargs)
    strictly = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = adapter.model_class.from_pretrained(source, **kwargs, **strictly)
    require_exact((), info["missing_keys"], info["mismatched_keys"], source)
    return model


def new_model(config: PreTrainedConfig) -> Any:
    """A model with fresh weights for a configuration."""
    adapter = _adapter_class(config.model_type)
    return AutoModel.from_config(config) if adapter is None else adapter.model_class(config)


def load_processor(source: str, model_source: str) -> Any:
    """The processor in `source`; `model_source` holds the model's configuration (for a LoRA run, the base model's)."""
    adapter = _adapter_class(_saved_model_type(model_source))
    return AutoProcessor.from_pretrained(source) if adapter is None else adapter.load_processor(source)


def _known() -> str:
    return ", ".join(sorted({*ADAPTERS, *BUILT_IN}))


def _model_type(config: Any) -> str | None:
    """`model_type` of a transformers configuration, `lerobot/TYPE` of a LeRobot configuration."""
    model_type = getattr(config, "model_type", None)
    lerobot = getattr(config, "type", None)
    return f"lerobot/{lerobot}" if model_type is None and lerobot is not None else model_type


def _saved_model_type(source: str, **known: Any) -> str:
    """The model type, as in [`_model_type`], of the configuration in a folder or Hub repo."""
    file = cached_file(source, "config.json", _raise_exceptions_for_missing_entries=False, **known)
    try:
        values = None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if isinstance(values, dict) and "type" in values and "model_type" not in values:
        return f"lerobot/{values['type']}"
    # Raises transformers' own error where there is no valid configuration.
    return AutoConfig.from_pretrained(source, **known).model_type


def _adapter_class(model_type: str | None) -> AdapterClass | None:
    if model_type in BUILT_IN and model_type not in ADAPTERS:
        importlib.import_module(BUILT_IN[model_type])
    return None if model_type is None else ADAPTERS.get(model_type)
