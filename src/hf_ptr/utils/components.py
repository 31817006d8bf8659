"""Saved components: registered with the Auto classes, and loaded strictly from safetensors.

Strict loading means: safetensors only, every tensor present with its expected shape, and no configuration that a newer
version of this library has written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from hf_ptr._version import __version__
from hf_ptr.errors import InputError
from hf_ptr.utils.pickle_guard import refuse_pickles_in

VERSION_KEY = "hf_ptr_version"
# The file of an adapter's tensors, and the beginning of their names in it.
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
# transformers and peft raise the Hub client's errors for a missing file, and ValueError for a damaged one.
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def register_component(
    config: type[PreTrainedConfig], model: type[PreTrainedModel], processor: type[ProcessorMixin] | None = None
) -> None:
    """Registers a component with `AutoConfig`, `AutoModel` and, if it has a processor, `AutoProcessor`."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    if processor is not None:
        AutoProcessor.register(config, processor, exist_ok=True)


class ComponentConfig(PreTrainedConfig):
    """A configuration that stores the version of this library that wrote it. An older version refuses to load it."""

    def to_diff_dict(self) -> dict[str, Any]:
        """The values that differ from the defaults, and the version."""
        return {**super().to_diff_dict(), VERSION_KEY: __version__}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        See [`PreTrainedConfig.from_dict`].

        Raises:
            InputError: a newer version wrote the configuration.
        """
        values = dict(config_dict)
        _require_known_version(values.pop(VERSION_KEY, None), cls.model_type)
        return super().from_dict(values, **kwargs)


class Component(PreTrainedModel):
    """A model that is loaded strictly: an unexpected, missing or mis-shaped tensor in its checkpoint is an error."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        [`PreTrainedModel.from_pretrained`], strict and from safetensors only.

        Args:
            pretrained_model_name_or_path: path or repo id.
            kwargs: options; with `ignore_mismatched_sizes=True`, tensors of another shape keep their initial values.

        Raises:
            InputError: the weights are pickled, or a tensor is unexpected, missing or of another shape.
        """
        source = pretrained_model_name_or_path
        folder = Path(str(source)) / kwargs.get("subfolder", "")
        refuse_pickles_in(folder)
        wants_info = kwargs.pop("output_loading_info", False)
        lenient = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs = {**kwargs, "use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        loaded: Any = super().from_pretrained(source, *args, **kwargs)
        model, info = loaded
        mismatched = [] if lenient else info["mismatched_keys"]
        require_exact(info["unexpected_keys"], info["missing_keys"], mismatched, folder)
        return (model, info) if wants_info else model

    def load_adapter(self, peft_model_id: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As in transformers. Older versions (5.4) find no tensor of the adapter, because they look for the names without
        peft's prefix, and return nothing, which their `from_pretrained` reads: the tensors are then loaded here.
        """
        info = super().load_adapter(peft_model_id, *args, **kwargs)
        return _AdapterTensors(self, peft_model_id) if info is None else info


class _AdapterTensors:
    """
    Loads the tensors of an adapter into a model that has its layers; says which were unexpected or missing.

    Args:
        model: with an adapter of the name `default`, whose values are replaced.
        source: the adapter's folder or repo id.
    """

    def __init__(self, model: PreTrainedModel, source: Any):
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        tensors = load_file(str(cached_file(source, ADAPTER_WEIGHTS)))
        found = {name.removeprefix(PEFT_PREFIX): value for name, value in tensors.items()}
        wanted = get_peft_model_state_dict(model, adapter_name="default")
        self.unexpected_keys, self.missing_keys = found.keys() - wanted.keys(), wanted.keys() - found.keys()
        set_peft_model_state_dict(model, found, adapter_name="default")

    def to_dict(self) -> dict[str, Any]:
        """As the information that newer versions of transformers return."""
        unexpected, missing = set(self.unexpected_keys), set(self.missing_keys)
        return {"unexpected_keys": unexpected, "missing_keys": missing, "mismatched_keys": set(), "error_msgs": []}


def require_exact(
    unexpected: Iterable[str], missing: Iterable[str], mismatched: Iterable[tuple[str, Any, Any]], source: object
) -> None:
    """
    Refuses a checkpoint whose tensors differ from those of the model.

    Args:
        unexpected, missing: names of tensors.
        mismatched: names, each with its shape in the checkpoint and its shape in the model.
        source: name of the checkpoint in the message.

    Raises:
        InputError: with the name of the first such tensor.
    """
    for name, found, wanted in sorted(mismatched, key=str):
        raise InputError(
            f"{source} is damaged or does not match its config.json: tensor {name} has shape {tuple(found)} in the "
            f"checkpoint and {tuple(wanted)} in the configuration; save the model again"
        )
    for what, names in (("has an unexpected tensor", unexpected), ("lacks the tensor", missing)):
        for name in sorted(names):
            raise InputError(
                f"{source} is damaged or does not match its config.json: it {what} {name}; save the model again"
            )


def load_exactly(module: torch.nn.Module, state: dict[str, torch.Tensor], source: object) -> None:
    """
    Loads a state dict whose tensors must be exactly those of the module.

    Raises:
        InputError: see [`require_exact`].
    """
    own = module.state_dict()
    both = own.keys() & state.keys()
    mismatched = [(name, state[name].shape, own[name].shape) for name in both if state[name].shape != own[name].shape]
    require_exact(state.keys() - own.keys(), own.keys() - state.keys(), mismatched, source)
    module.load_state_dict(state)


def _require_known_version(version: Any, model_type: str) -> None:
    if version is None:
        return
    try:
        newer = Version(str(version)).release[:2] > Version(__version__).release[:2]
    except InvalidVersion as error:
        raise InputError(
            f"the configuration of this {model_type} has an invalid {VERSION_KEY}: {error}; save the model again"
        ) from error
    if newer:
        raise InputError(
            f"this {model_type} was saved by hf-ptr {version}, which is newer than {__version__}; "
            "pip install --upgrade hf-ptr"
        )
