"""LoRA with peft: adding an adapter to a policy, loading one with its base model, and merging it.

peft is imported inside the functions: `import hf_ptr` loads this module, and few policies have an adapter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from transformers.utils import cached_file

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder, origin
from hf_ptr.utils.components import ADAPTER_WEIGHTS, LOAD_ERRORS, require_exact
from hf_ptr.utils.pickle_guard import refuse_pickles_in

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ADAPTER_CONFIG = "adapter_config.json"
# The settings in which a requested adapter must equal the existing one. Target modules are not compared: one
# configuration may list layers and another match them by a pattern.
IDENTITY = ("peft_type", "r", "lora_alpha")


def is_adapted(policy: object) -> bool:
    """Whether a policy has a peft adapter."""
    from peft import PeftModel

    return isinstance(policy, PeftModel)


def base_model_of(policy: Any) -> str | None:
    """Path or repo id of the base model of a policy with an adapter; None for a policy without one."""
    return policy.peft_config["default"].base_model_name_or_path if is_adapted(policy) else None


def has_adapter(source: str) -> bool:
    """Whether a folder or Hub repo holds a peft adapter."""
    return cached_file(source, ADAPTER_CONFIG, _raise_exceptions_for_missing_entries=False) is not None


def with_adapter(policy: Any, peft_config: PeftConfig) -> PeftModel:
    """
    Freezes a policy and adds a new adapter; a policy that has an adapter continues with it.

    Args:
        policy: loaded from a folder or Hub repo: a run saves only the adapter, and refers to the policy's source.
        peft_config: configuration of the adapter.

    Raises:
        InputError: the policy was never saved, it has an adapter of another kind, or peft refuses the configuration.
    """
    if is_adapted(policy):
        _require_same(policy.peft_config["default"], peft_config)
        return policy
    source = getattr(policy.config, "name_or_path", "") or ""
    if not source:
        raise InputError(
            "peft_config adapts a policy that was saved before, and this one is new: only the adapter would be saved; "
            "save the policy and pass its folder, or train it in full"
        )
    from peft import get_peft_model

    try:
        adapted = get_peft_model(policy, peft_config)
    except ValueError as error:
        raise InputError(f"peft_config does not fit {type(policy).__name__}: {error}") from error
    # After peft, which stores the path as it was loaded. An absolute path is found again from any working directory,
    # and a Hub id by everyone who downloads the adapter.
    config, repo = adapted.peft_config["default"], origin(source)
    if repo is not None:
        config.base_model_name_or_path, config.revision = repo.repo_id, repo.revision
    else:
        config.base_model_name_or_path = os.path.abspath(source) if os.path.isdir(source) else source
    return adapted


def base_model_source(source: str) -> str:
    """
    Path or `user/name@revision` of the base model of the adapter in a folder or Hub repo.

    Raises:
        ValueError: the adapter does not name a base model.
    """
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(source)
    if not config.base_model_name_or_path:
        raise ValueError(f"{ADAPTER_CONFIG} in {source} does not name a base model in base_model_name_or_path")
    revision = None if os.path.isdir(config.base_model_name_or_path) else config.revision
    return config.base_model_name_or_path + ("" if revision is None else f"@{revision}")


def load_adapted(source: str, load: Callable[[str], Any]) -> PeftModel:
    """
    A policy with the adapter in a folder or Hub repo, ready for further training.

    Args:
        source: the adapter's folder or Hub id.
        load: loads the base model from the source that the adapter names.

    Raises:
        InputError: the adapter or its base model cannot be read, is damaged or unsafe.
    """
    from peft import PeftModel, get_peft_model_state_dict

    refuse_pickles_in(source)
    try:
        base = load(str(model_folder(base_model_source(source))))
        adapted = PeftModel.from_pretrained(base, source, is_trainable=True)
        with safe_open(str(cached_file(source, ADAPTER_WEIGHTS)), "pt") as file:
            found = set(file.keys())
        wanted = set(get_peft_model_state_dict(adapted))
        require_exact(found - wanted, wanted - found, (), source)
        return adapted
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"the adapter in {source} or its base model cannot be loaded ({error}); the base model must be at the "
            f"path or Hub id in {ADAPTER_CONFIG}"
        ) from error


def merged(policy: Any) -> Any:
    """The base policy with the adapter merged into its weights; a policy without an adapter is returned unchanged."""
    return policy.merge_and_unload() if is_adapted(policy) else policy


def _require_same(found: PeftConfig, asked: PeftConfig) -> None:
    for name in IDENTITY:
        has, wanted = getattr(found, name, None), getattr(asked, name, None)
        if has != wanted:
            raise InputError(
                f"the policy has an adapter with {name} {has}, and peft_config asks for {wanted}; leave peft_config "
                "out to continue with it, or merge it first"
            )
