"""Saved policies: loading them, and whether they fit a dataset, with one line where they do not."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils import cached_file

from hf_ptr.belief import BELIEF_FOLDER, BeliefTokenizer
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError, nearest
from hf_ptr.policies.adapters import adapter_of, load_model, load_processor
from hf_ptr.policies.lora import has_adapter, load_adapted

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


def load_policy(place: str) -> tuple[Any, Any]:
    """
    A saved policy in evaluation mode, with its belief tokenizer if it has one, and its processor.

    Args:
        place: a folder or Hub id.

    Returns:
        What keeps the contract [`PostTrainable`] and acts (`reset`, `select_action`): the policy, or its adapter.

    Raises:
        InputError: when there is no policy, it is damaged, or it is none that can be post-trained.
    """
    try:
        policy = adapter_of(load_trainable(place).eval())
        if hasattr(policy, "attach_belief"):
            policy.attach_belief(_belief_of(place))
        return policy, load_processor(place, AutoConfig.from_pretrained(checkpoint_places(place)[-1]))
    except LOAD_ERRORS as error:
        raise InputError(
            f"{place} is no saved policy, or damaged ({error}); pass a run's folder or a Hub id"
        ) from error


def load_trainable(place: str, **kwargs: Any) -> Any:
    """The model of a folder or Hub id, under the LoRA adapter that lies there if one does."""
    return load_adapted(place, load_model) if has_adapter(place) else load_model(place, **kwargs)


def _belief_of(place: str) -> BeliefTokenizer | None:
    if cached_file(place, f"{BELIEF_FOLDER}/config.json", _raise_exceptions_for_missing_entries=False) is None:
        return None
    return BeliefTokenizer.from_pretrained(place, subfolder=BELIEF_FOLDER).eval()


def checkpoint_places(place: str) -> list[str]:
    """The folders or Hub ids that a policy is loaded from: its own, and under an adapter that of the policy below."""
    places = [place]
    while has_adapter(places[-1]):
        below = PeftConfig.from_pretrained(places[-1]).base_model_name_or_path
        if below in places:
            raise InputError(f"the adapter in {place} names itself as the policy that it adapts; write it anew")
        places.append(below)
    return places


def require_fits(config: Any, table: EpisodeTable, place: str) -> None:
    """
    Checks that a dataset has the features a policy was trained on, in their widths.

    Raises:
        InputError: naming the feature that differs.
    """
    widths = {
        "state_dim": table.feature(config.state_feature).shape[1],
        "action_dim": table.feature(config.action_feature).shape[1],
    }
    if not config.cameras:
        widths["observation_dim"] = sum(table.feature(name).shape[1] for name in config.observation_features)
    for name in config.cameras:
        if name not in table.videos:
            known = ", ".join(table.videos) or "none"
            raise InputError(
                f"{place} sees through camera {name!r}, which {table.source!r} lacks (it has: {known})."
                f"{nearest(name, table.videos)}"
            )
    for name, width in widths.items():
        if width != getattr(config, name):
            raise InputError(
                f"{name} of {table.source!r} is {width} and {place} was trained with {getattr(config, name)}; "
                "use data of the same robot"
            )
