"""What is read of a saved component: safetensors alone, every tensor in its shape, by a version that knows it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ptr import __version__
from hf_ptr.errors import InputError
from hf_ptr.utils.pickle_guard import refuse_pickles_in

VERSION_KEY = "hf_ptr_version"


class ComponentConfig(PreTrainedConfig):
    """A configuration that says which version of this library wrote it, and is refused by an older one."""

    def to_diff_dict(self) -> dict[str, Any]:
        """As it is written: what differs from the defaults, and the version."""
        return {**super().to_diff_dict(), VERSION_KEY: __version__}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        As [`PreTrainedConfig.from_dict`].

        Raises:
            InputError: for a configuration of a newer version.
        """
        values = dict(config_dict)
        _require_known(values.pop(VERSION_KEY, None), cls.model_type)
        return super().from_dict(values, **kwargs)


class Component(PreTrainedModel):
    """A model that is loaded whole: what its checkpoint has too much, too little or of another shape is an error."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As [`PreTrainedModel.from_pretrained`], from safetensors alone.

        Args:
            pretrained_model_name_or_path: a folder or Hub id.
            kwargs: with `ignore_mismatched_sizes=True` tensors of another shape are left as they were initialised.

        Raises:
            InputError: for pickled weights, and for tensors that are unexpected, missing or of another shape.
        """
        place = pretrained_model_name_or_path
        part = Path(str(place)) / kwargs.get("subfolder", "")
        refuse_pickles_in(part)
        wants_info = kwargs.pop("output_loading_info", False)
        lenient = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs = {**kwargs, "use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        loaded: Any = super().from_pretrained(place, *args, **kwargs)
        model, info = loaded
        mismatched = [] if lenient else info["mismatched_keys"]
        require_whole(info["unexpected_keys"], info["missing_keys"], mismatched, part)
        return (model, info) if wants_info else model


def require_whole(
    unexpected: Iterable[str], missing: Iterable[str], mismatched: Iterable[tuple[str, Any, Any]], place: object
) -> None:
    """
    Refuses a checkpoint that is not exactly the model.

    Args:
        unexpected, missing: names of tensors.
        mismatched: names, with the shape that the checkpoint has and the one that the model has.
        place: what the message calls the checkpoint.

    Raises:
        InputError: naming the first such tensor.
    """
    for name, found, wanted in sorted(mismatched, key=str):
        raise InputError(
            f"{place} is damaged or no match for its config.json: tensor {name} is {tuple(found)} there and "
            f"{tuple(wanted)} by the configuration; save the model again"
        )
    for what, names in (("has an unexpected tensor", unexpected), ("lacks the tensor", missing)):
        for name in sorted(names):
            raise InputError(
                f"{place} is damaged or no match for its config.json: it {what} {name}; save the model again"
            )


def load_exactly(module: torch.nn.Module, state: dict[str, torch.Tensor], place: object) -> None:
    """
    Loads a state into a module that has exactly its tensors.

    Raises:
        InputError: as [`require_whole`].
    """
    own = module.state_dict()
    both = own.keys() & state.keys()
    mismatched = [(name, state[name].shape, own[name].shape) for name in both if state[name].shape != own[name].shape]
    require_whole(state.keys() - own.keys(), own.keys() - state.keys(), mismatched, place)
    module.load_state_dict(state)


def _require_known(version: Any, model_type: str) -> None:
    if version is None:
        return
    try:
        newer = Version(str(version)).release[:2] > Version(__version__).release[:2]
    except InvalidVersion as error:
        raise InputError(
            f"the configuration of this {model_type} names no version as {VERSION_KEY}: {error}"
        ) from error
    if newer:
        raise InputError(
            f"this {model_type} was saved by hf-ptr {version}, and {__version__} may not understand it; "
            "pip install --upgrade hf-ptr"
        )
