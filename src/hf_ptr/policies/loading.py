"""Saved policies: loading them, and whether they fit a dataset, with one line where they do not."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModel, AutoProcessor

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.hub.places import model_folder
from hf_ptr.policies.contract import require_post_trainable
from hf_ptr.policies.lora import below, has_adapter
from hf_ptr.saved import refuse_pickles_in

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


def load_policy(place: str) -> tuple[Any, Any]:
    """
    A saved policy in evaluation mode, with its belief tokenizer if it has one, and its processor.

    Args:
        place: a folder, `user/name` or `user/name@revision`.

    Raises:
        InputError: when there is no policy, it is damaged or unsafe, or it is none that can be post-trained.
    """
    folder = model_folder(place)
    refuse_pickles_in(folder)
    try:
        policy, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"{place} is no saved policy, or damaged ({error}); pass a run's folder or a Hub id"
        ) from error
    require_post_trainable(policy)
    return policy, processor


def checkpoint_places(place: str) -> list[str]:
    """The folders that a policy is loaded from: its own, and under an adapter that of the policy below."""
    places = [str(model_folder(place))]
    while has_adapter(places[-1]):
        base = str(model_folder(below(places[-1])))
        if base in places:
            raise InputError(f"the adapter in {place} names itself as the policy that it adapts; write it anew")
        places.append(base)
    return places


def require_fits(config: Any, table: EpisodeTable, place: str) -> None:
    """
    Checks that a dataset has the features a policy was trained on, in their widths.

    Raises:
        InputError: naming the feature that differs.
    """
    widths = {
        "observation_dim": sum(table.feature(name).shape[1] for name in config.observation_features),
        "state_dim": table.feature(config.state_feature).shape[1],
        "action_dim": table.feature(config.action_feature).shape[1],
    }
    for name, width in widths.items():
        if width != getattr(config, name):
            raise InputError(
                f"{name} of {table.source!r} is {width} and {place} was trained with {getattr(config, name)}; "
                "use data of the same robot"
            )
