"""LoRA by peft: policies that are post-trained by an adapter, saved as one, and merged for deployment."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder, origin
from hf_ptr.utils.components import require_exact
from hf_ptr.utils.pickle_guard import refuse_pickles_in

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# By which two adapters are told apart. Layers may be named by a pattern in one and one by one in the other.
IDENTITY = ("peft_type", "r", "lora_alpha")
# peft asks for a file that is not there with an error of the Hub's client; a damaged one is a ValueError.
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def is_adapted(policy: object) -> bool:
    """Whether a policy is trained by an adapter."""
    return isinstance(policy, PeftModel)


def adapted_place(policy: Any) -> str | None:
    """Where the policy under an adapter lies; None for a policy without one."""
    return policy.peft_config["default"].base_model_name_or_path if is_adapted(policy) else None


def has_adapter(place: str) -> bool:
    """Whether a folder or Hub id holds an adapter."""
    return cached_file(place, ADAPTER_CONFIG, _raise_exceptions_for_missing_entries=False) is not None


def with_adapter(policy: Any, peft_config: PeftConfig) -> PeftModel:
    """
    A policy whose own weights are frozen, under a new adapter; one that has an adapter goes on with it.

    Args:
        policy: as it was loaded. Only the adapter will be saved, so it must have been saved somewhere.
        peft_config: of the adapter.

    Raises:
        InputError: when the policy comes from nowhere, when it has an adapter of another kind, or when peft refuses.
    """
    if is_adapted(policy):
        _require_same(policy.peft_config["default"], peft_config)
        return policy
    place = getattr(policy.config, "name_or_path", "") or ""
    if not place:
        raise InputError(
            "peft_config adapts a policy that was saved before, and this one is new: only the adapter would be kept; "
            "save the policy and pass its folder, or train it in full"
        )
    try:
        adapted = get_peft_model(policy, peft_config)
    except ValueError as error:
        raise InputError(f"peft_config does not fit {type(policy).__name__}: {error}") from error
    # After peft, which writes the place as it was loaded from. An adapter is found again with the policy below it from
    # wherever it is loaded, and by anybody who pulls it.
    own, there = adapted.peft_config["default"], origin(place)
    if there is not None:
        own.base_model_name_or_path, own.revision = there.repo_id, there.revision
    else:
        own.base_model_name_or_path = os.path.abspath(place) if os.path.isdir(place) else place
    return adapted


def below(place: str) -> str:
    """
    Where the policy lies that the adapter in a folder or Hub id adapts.

    Raises:
        ValueError: when the adapter names none.
    """
    config = PeftConfig.from_pretrained(place)
    if not config.base_model_name_or_path:
        raise ValueError(f"{ADAPTER_CONFIG} in {place} names no policy as base_model_name_or_path")
    revision = None if os.path.isdir(config.base_model_name_or_path) else config.revision
    return config.base_model_name_or_path + ("" if revision is None else f"@{revision}")


def load_adapted(place: str, load: Callable[[str], Any]) -> PeftModel:
    """
    A policy with the adapter that a folder or Hub id holds, which goes on training.

    Args:
        place: of the adapter.
        load: loads the policy below it, from where the adapter says.

    Raises:
        InputError: when the adapter or the policy below it cannot be read, is damaged or unsafe.
    """
    refuse_pickles_in(place)
    try:
        adapted = PeftModel.from_pretrained(load(str(model_folder(below(place)))), place, is_trainable=True)
        with safe_open(str(cached_file(place, ADAPTER_WEIGHTS)), "pt") as file:
            found = set(file.keys())
        wanted = set(get_peft_model_state_dict(adapted))
        require_exact(found - wanted, wanted - found, (), place)
        return adapted
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"the adapter in {place}, or the policy that it adapts, cannot be loaded ({error}); the policy must lie "
            f"where {ADAPTER_CONFIG} says"
        ) from error


def merged(policy: Any) -> Any:
    """The policy with its adapter's weights added to its own, and no adapter; one without is returned as it is."""
    return policy.merge_and_unload() if is_adapted(policy) else policy


def _require_same(found: PeftConfig, asked: PeftConfig) -> None:
    for name in IDENTITY:
        has, wanted = getattr(found, name, None), getattr(asked, name, None)
        if has != wanted:
            raise InputError(
                f"the policy has an adapter with {name} {has}, and peft_config asks for {wanted}; leave peft_config "
                "out to go on with it, or merge it first"
            )
