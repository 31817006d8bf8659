"""Saved policies: loading, merging of LoRA adapters, and the check that a policy fits a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from hf_ptr.policies.feature_binding import BINDING_FILE, BINDING_KEY
from hf_ptr.policies.lora import base_model_source, has_adapter, is_adapted, load_adapted, merged
from hf_ptr.ptr import BELIEF_FOLDER, BeliefTokenizer
from hf_ptr.utils.frame_rates import same_rate
from hf_ptr.utils.pickle_guard import refuse_pickles_in

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


def load_policy(source: str) -> tuple[Any, Any]:
    """
    Loads a saved policy for acting, in evaluation mode, with its belief tokenizer if it has one.

    Args:
        source: a folder, `user/name` or `user/name@revision`.

    Returns:
        The policy, or its adapter (it implements [`PostTrainable`], `reset` and `select_action`), and its processor.

    Raises:
        InputError: the policy is missing, damaged or unsafe, or cannot be post-trained.

    Example:
        ```python
        policy, processor = load_policy("runs/ptr")
        policy.reset()  # at the start of every episode
        action = policy.select_action(**processor(instructions=["Reach the goal."], observation=o, state=s))
        ```
    """
    _, policy, processor = load_for_training(source)
    if hasattr(policy, "attach_belief"):
        policy.attach_belief(_saved_belief(str(model_folder(source))))
    return policy, processor


def load_for_training(source: str) -> tuple[Any, Any, Any]:
    """
    Loads a saved policy for a trainer: the model, the object that implements [`PostTrainable`] for it, and its
    processor, in evaluation mode.

    Raises:
        InputError: as [`load_policy`].
    """
    source = str(model_folder(source))
    refuse_pickles_in(source)
    try:
        policy = load_trainable_model(source).eval()
        processor = load_processor(source, checkpoint_folders(source)[-1])
        return policy, adapter_of(policy), processor
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"{source} is not a saved policy, or is damaged ({error}); pass a run's folder or a Hub id"
        ) from error


def load_trainable_model(source: str, **kwargs: Any) -> Any:
    """
    Loads the model in a folder, with its LoRA adapter if there is one.

    Args:
        source: the folder.
        kwargs: arguments of `from_pretrained`. `dtype` is float32 by default: half precision rounds an optimiser's
            small steps away. For speed, train with `bf16`.
    """
    kwargs = {"dtype": torch.float32, **kwargs}
    if has_adapter(source):
        policy = load_adapted(source, partial(load_model, dtype=kwargs["dtype"]))
    else:
        policy = load_model(source, **kwargs)
    binding = cached_file(source, BINDING_FILE, _raise_exceptions_for_missing_entries=False)
    if binding is not None:
        inner = policy.get_base_model() if is_adapted(policy) else policy
        setattr(inner.config, BINDING_KEY, json.loads(Path(binding).read_text(encoding="utf-8")))
    return policy


def merge_adapter(source: str, out: str | Path) -> None:
    """
    Merges a LoRA adapter into its base policy and saves the result, which loads without peft.

    Args:
        source: folder or Hub id of a LoRA run.
        out: the folder to write: the policy, its processor, and its belief tokenizer if it has one.

    Raises:
        InputError: there is no adapter, `out` is not empty, or as [`load_policy`].
    """
    if Path(out).exists() and any(Path(out).iterdir()):
        raise InputError(f"{out} is not empty; choose another folder")
    policy, _, processor = load_for_training(source)
    if not is_adapted(policy):
        raise InputError(f"{source} has no adapter; it can be deployed as it is")
    whole, belief = merged(policy), _saved_belief(str(model_folder(source)))
    actor = adapter_of(whole)
    if hasattr(actor, "attach_belief"):
        actor.attach_belief(belief)
    whole.save_pretrained(out)
    if hasattr(actor, "save_extra_files"):
        actor.save_extra_files(Path(out), adapted=False)
    processor.save_pretrained(out)
    if belief is not None:
        belief.save_pretrained(Path(out) / BELIEF_FOLDER)


def checkpoint_folders(source: str) -> list[str]:
    """The folders from which a policy is loaded: its own, and for a LoRA adapter that of its base model, in order."""
    folders = [str(model_folder(source))]
    while has_adapter(folders[-1]):
        base = str(model_folder(base_model_source(folders[-1])))
        if base in folders:
            raise InputError(f"the adapter in {source} names itself as its base model; save it again")
        folders.append(base)
    return folders


def require_fits(config: Any, table: EpisodeTable, source: str) -> None:
    """
    Checks that a dataset has the features and the frame rate that a policy was trained on.

    Args:
        config: the policy's configuration.
        table: the dataset.
        source: the policy's name in messages.

    Raises:
        InputError: as [`require_features`], or the frame rates differ.
    """
    require_features(config, table, source)
    if not has_rate(config, (table.fps,)):
        raise InputError(
            f"{source} was trained at {config.fps:g} fps, and {table.source!r} has {table.fps:g} fps: its actions "
            f"would be played at another speed; use data of {config.fps:g} fps"
        )


def has_rate(config: Any, rates: Iterable[float]) -> bool:
    """
    Whether one of the frame rates is that of a policy's training data, or that rate is unknown.
    """
    fps = getattr(config, "fps", None)
    return fps is None or any(same_rate(fps, rate) for rate in rates)


def require_features(config: Any, table: EpisodeTable, source: str) -> None:
    """
    Checks that a dataset has the features that a policy was trained on, with the same widths.

    Args:
        config: the policy's configuration.
        table: the dataset.
        source: the policy's name in messages.

    Raises:
        InputError: a feature is missing or has another width.
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
                f"{source} reads camera {name!r}, which {table.source!r} lacks (it has: {known})."
                f"{nearest(name, table.videos)}"
            )
    for name, width in widths.items():
        if width != getattr(config, name):
            raise InputError(
                f"{name} of {table.source!r} is {width} and {source} was trained with {getattr(config, name)}; "
                "use data of the same robot"
            )


def _saved_belief(source: str) -> BeliefTokenizer | None:
    # By its own folder: with `subfolder` some versions of transformers look there for the adapter of `source`.
    folder = Path(source) / BELIEF_FOLDER
    return BeliefTokenizer.from_pretrained(folder).eval() if (folder / "config.json").is_file() else None
