"""Saved policies: loading them, and whether they fit a dataset, with one line where they do not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import cached_file

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError, nearest
from hf_ptr.hub.repos import model_folder
from hf_ptr.policies.adapters import adapter_of, load_model, load_processor
from hf_ptr.policies.fitted import INTERFACE_FILE, INTERFACE_KEY
from hf_ptr.policies.lora import below, has_adapter, is_adapted, load_adapted, merged
from hf_ptr.ptr import BELIEF_FOLDER, BeliefTokenizer
from hf_ptr.utils.pickle_guard import refuse_pickles_in

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


def load_policy(place: str) -> tuple[Any, Any]:
    """
    A saved policy in evaluation mode, with its belief tokenizer if it has one, and its processor.

    Args:
        place: a folder, `user/name` or `user/name@revision`.

    Returns:
        What keeps the contract [`PostTrainable`] and acts (`reset`, `select_action`): the policy, or its adapter.

    Raises:
        InputError: when there is no policy, it is damaged or unsafe, or it is none that can be post-trained.
    """
    _, policy, processor = load_to_train(place)
    if hasattr(policy, "attach_belief"):
        policy.attach_belief(_belief_of(str(model_folder(place))))
    return policy, processor


def load_to_train(place: str) -> tuple[Any, Any, Any]:
    """
    A saved policy as a trainer takes it, what keeps the contract for it, and its processor, in evaluation mode.

    Raises:
        InputError: as [`load_policy`].
    """
    place = str(model_folder(place))
    refuse_pickles_in(place)
    try:
        policy = load_trainable(place).eval()
        processor = load_processor(place, checkpoint_places(place)[-1])
        return policy, adapter_of(policy), processor
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"{place} is no saved policy, or damaged ({error}); pass a run's folder or a Hub id"
        ) from error


def load_trainable(place: str, **kwargs: Any) -> Any:
    """
    The model of a folder, under the LoRA adapter that lies there if one does; in float32 unless `dtype` says so, since
    half precision rounds an optimiser's steps away. For speed, training has `bf16`.
    """
    kwargs = {"dtype": torch.float32, **kwargs}
    if has_adapter(place):
        policy = load_adapted(place, partial(load_model, dtype=kwargs["dtype"]))
    else:
        policy = load_model(place, **kwargs)
    kept = cached_file(place, INTERFACE_FILE, _raise_exceptions_for_missing_entries=False)
    if kept is not None:
        inner = policy.get_base_model() if is_adapted(policy) else policy
        setattr(inner.config, INTERFACE_KEY, json.loads(Path(kept).read_text(encoding="utf-8")))
    return policy


def merge_adapter(place: str, out: str | Path) -> None:
    """
    Writes a policy with its LoRA adapter's weights added to its own, for deployment: no peft is needed to load it.

    Args:
        place: folder or Hub id of a run under an adapter.
        out: the folder to write, with the processor and the belief tokenizer, if there is one.

    Raises:
        InputError: when there is no adapter, as [`load_policy`], or when `out` is not empty.
    """
    if Path(out).exists() and any(Path(out).iterdir()):
        raise InputError(f"{out} is not empty; choose another folder")
    policy, _, processor = load_to_train(place)
    if not is_adapted(policy):
        raise InputError(f"{place} has no adapter; it can be deployed as it is")
    whole, belief = merged(policy), _belief_of(str(model_folder(place)))
    actor = adapter_of(whole)
    if hasattr(actor, "attach_belief"):
        actor.attach_belief(belief)
    whole.save_pretrained(out)
    if hasattr(actor, "save_beside"):
        actor.save_beside(Path(out), adapted=False)
    processor.save_pretrained(out)
    if belief is not None:
        belief.save_pretrained(Path(out) / BELIEF_FOLDER)


def _belief_of(place: str) -> BeliefTokenizer | None:
    # By its own folder: with `subfolder` some versions of transformers look for the adapter of `place` in it.
    folder = Path(place) / BELIEF_FOLDER
    return BeliefTokenizer.from_pretrained(folder).eval() if (folder / "config.json").is_file() else None


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
