"""A new native policy sized and normalised to a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import normalization, relative_normalization
from hf_ptr.errors import InputError
from hf_ptr.hub.repos import name_and_revision
from hf_ptr.policies.lora import LOAD_ERRORS
from hf_ptr.policies.packaged import LITE0, PREFIX, load_lite0, place_of
from hf_ptr.policies.towers import used_parts
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.modeling_vla import VLAPolicy
from hf_ptr.policies.vla.processing_vla import VLAProcessor, instruction_tokenizer
from hf_ptr.policies.vla.sizes import size_settings, sized
from hf_ptr.policies.vla.vision import CameraTower


def policy_from_dataset(
    table: EpisodeTable,
    *,
    observation_features: Sequence[str],
    state_feature: str = "observation.state",
    action_feature: str = "action",
    size: str | None = None,
    vision_model: str | None = None,
    text_model: str | None = None,
    min_std: float = 0.0,
    **settings: Any,
) -> tuple[VLAPolicy, VLAProcessor]:
    """
    A [`VLAPolicy`] with fresh weights and the dataset's statistics, and its processor.

    Args:
        table: the episodes it will be trained on.
        observation_features, state_feature, action_feature: which columns are `o`, `s` and `a`; or, for `o`, cameras.
        size: one of [`SIZES`]; `settings` go before what it says.
        vision_model: folder or Hub id (`user/name`, `user/name@revision`) of a pretrained vision tower, or
            `package:NAME` for one inside a Python package.
        text_model: the same of a pretrained text encoder; without, instructions have learned embeddings.
        min_std: the least scale that observation and state are normalised by, in their units (see
            [`normalization`]). Actions have none: it would drown small ones in the noise of the flow.
        settings: further fields of [`VLAPolicyConfig`].

    Raises:
        InputError: when the dataset lacks one of the features, for a floor that is negative or not finite, an unknown
            size, or a pretrained model that cannot be read.
    """
    cameras = [name for name in observation_features if name in table.videos]
    if size is None and cameras:
        size = "tiny"
    sized_for = {} if size is None else size_settings(size)
    vision = None if vision_model is None else _pretrained(AutoModel, vision_model, use_safetensors=True)
    if vision is not None:
        # A pretrained tower brings its own pictures and layers, and keeps its normalisation.
        own = {"vision_config": vision.config, "target_layer": None, "group_norm": False}
        if getattr(vision.config, "image_size", None) is not None:
            own["image_size"] = vision.config.image_size
        sized_for = {**sized_for, **own, **_colours(str(vision_model))}
    settings = {**sized_for, **settings}
    sizes = None
    if cameras:
        settings["vision_config"] = sized(settings["vision_config"], settings["image_size"])
    else:
        settings["vision_config"] = None
        sizes = [table.feature(name).shape[1] for name in observation_features]
    text = None if text_model is None else _pretrained(AutoModel, text_model, use_safetensors=True)
    if text is None:
        settings["num_instructions"] = len(table.tasks)
    else:
        settings["text_config"] = text.config
    config = VLAPolicyConfig(
        observation_dim=sum(sizes or ()),
        state_dim=table.feature(state_feature).shape[1],
        action_dim=table.feature(action_feature).shape[1],
        observation_features=list(observation_features),
        observation_sizes=sizes,
        state_feature=state_feature,
        action_feature=action_feature,
        **settings,
    )
    policy = VLAPolicy(config)
    if isinstance(policy.tower, CameraTower):
        if vision is not None:
            _take(policy.tower.model, used_parts(vision), str(vision_model))
    else:
        statistics = normalization(table, observation_features, past_as_difference=True, min_std=min_std)
        policy.tower.normalizer.set(*_as_tensors(statistics))
    if text is not None:
        _take(policy.text_encoder, text, str(text_model))
    policy.state_normalizer.set(*_as_tensors(normalization(table, [state_feature], min_std=min_std)))
    if config.relative_actions:
        statistics = relative_normalization(table, action_feature, state_feature, config.chunk_size)
    else:
        statistics = normalization(table, [action_feature])
    policy.action_normalizer.set(*_as_tensors(statistics))
    tokenizer = instruction_tokenizer(table.tasks) if text_model is None else _pretrained(AutoTokenizer, text_model)
    return policy, VLAProcessor(tokenizer)


def _pretrained(kind: Any, place: str, **kwargs: Any) -> Any:
    try:
        if place == PREFIX + LITE0:
            return load_lite0()
        name, revision = name_and_revision(place_of(place))
        return kind.from_pretrained(name, revision=revision, **kwargs)
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(f"{place} is no pretrained model, or damaged ({error}); pass a folder or Hub id") from error


def _take(part: Any, pretrained: Any, place: str) -> None:
    """The pretrained weights of all that `part` has; a pretrained pooler, which it has not, is left."""
    wanted, given = part.state_dict(), pretrained.state_dict()
    wrong = [name for name in wanted if name not in given or given[name].shape != wanted[name].shape]
    if wrong:
        raise InputError(
            f"the weights of {place} do not fit: {wrong[0]} has another shape, or is missing; leave image_size out to "
            "take the pictures that it was pretrained with"
        )
    part.load_state_dict({name: given[name] for name in wanted})


def _colours(place: str) -> dict[str, Any]:
    """What a tower was pretrained with, as its image processor says, if it lies there."""
    if place == PREFIX + LITE0:
        return {}
    name, revision = name_and_revision(place_of(place))
    file = cached_file(
        name, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    values = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    return {name: values[name] for name in ("image_mean", "image_std") if name in values}


def _as_tensors(statistics: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"])
