"""New native policies for a dataset, and embeddings for instructions that an existing policy does not know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import normalization, relative_normalization
from hf_ptr.hub.pretrained import copy_weights, load_pretrained, pretrained_colours
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.modeling_vla import VLAPolicy
from hf_ptr.policies.vla.processing_vla import VLAProcessor, instruction_tokenizer
from hf_ptr.policies.vla.sizes import for_image_size, size_settings
from hf_ptr.policies.vla.vision import CameraTower
from hf_ptr.vision.towers import without_unused_parts

logger = logging.getLogger(__name__)


def policy_from_dataset(
    table: EpisodeTable,
    *,
    observation_features: Sequence[str] | None = None,
    state_feature: str = "observation.state",
    action_feature: str = "action",
    size: str | None = None,
    vision_model: str | None = None,
    text_model: str | None = None,
    min_std: float = 0.0,
    **settings: Any,
) -> tuple[VLAPolicy, VLAProcessor]:
    """
    A new [`VLAPolicy`] with random weights, sized and normalised to a dataset, and its processor.

    Args:
        table: the episodes to train on.
        observation_features, state_feature, action_feature: the features used as `o`, `s` and `a`. `o` is either
            vectors or cameras. `o` is `observation.state` by default; a dataset with cameras then gets a warning that
            these are not observed.
        size: one of [`SIZES`]; `settings` override it. With cameras `"tiny"` by default.
        vision_model: folder or Hub id (`user/name`, `user/name@revision`) of a pretrained vision tower, or
            `package:NAME` for one inside a Python package.
        text_model: the same for a pretrained text encoder; without one, instructions have learned embeddings.
        min_std: the smallest standard deviation by which observation and state are normalised, in their units (see
            [`normalization`]). It does not apply to actions, since small ones would drown in the noise of the flow.
        settings: further fields of [`VLAPolicyConfig`].

    Raises:
        InputError: the dataset lacks a feature, `min_std` is negative or not finite, the size is unknown, or a
            pretrained model cannot be read.

    Example:
        ```python
        policy, processor = policy_from_dataset(table, observation_features=["observation.images.front"], size="tiny")
        ```
    """
    if observation_features is None:
        observation_features = ("observation.state",)
        if table.videos:
            logger.warning(
                "The policy observes the state and no camera; with cameras: policy_from_dataset(table, "
                "observation_features=%s)",
                list(table.videos),
            )
    cameras = [name for name in observation_features if name in table.videos]
    if size is None and cameras:
        size = "tiny"
    defaults = {} if size is None else size_settings(size)
    vision = None if vision_model is None else load_pretrained(AutoModel, vision_model, use_safetensors=True)
    if vision is not None:
        # A pretrained tower has its own image size and layers, and keeps its batch normalisation.
        own = {"vision_config": vision.config, "target_layer": None, "group_norm": False}
        if getattr(vision.config, "image_size", None) is not None:
            own["image_size"] = vision.config.image_size
        defaults = {**defaults, **own, **pretrained_colours(str(vision_model))}
    settings = {**defaults, **settings}
    sizes = None
    if cameras:
        settings["vision_config"] = for_image_size(settings["vision_config"], settings["image_size"])
    else:
        settings["vision_config"] = None
        sizes = [table.feature(name).shape[1] for name in observation_features]
    text = None if text_model is None else load_pretrained(AutoModel, text_model, use_safetensors=True)
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
        fps=float(table.fps),
        **settings,
    )
    policy = VLAPolicy(config)
    if isinstance(policy.tower, CameraTower):
        if vision is not None:
            copy_weights(policy.tower.model, without_unused_parts(vision), str(vision_model))
    else:
        statistics = normalization(table, observation_features, past_as_difference=True, min_std=min_std)
        policy.tower.normalizer.set(*_as_tensors(statistics))
    if text is not None:
        copy_weights(policy.text_encoder, text, str(text_model))
    policy.state_normalizer.set(*_as_tensors(normalization(table, [state_feature], min_std=min_std)))
    if config.relative_actions:
        statistics = relative_normalization(table, action_feature, state_feature, config.chunk_size)
    else:
        statistics = normalization(table, [action_feature])
    policy.action_normalizer.set(*_as_tensors(statistics))
    tokenizer = (
        instruction_tokenizer(table.tasks) if text_model is None else load_pretrained(AutoTokenizer, text_model)
    )
    return policy, VLAProcessor(tokenizer)


def learn_instructions(policy: VLAPolicy, processor: VLAProcessor, tasks: Sequence[str]) -> list[str]:
    """
    Adds an embedding for every instruction that a policy does not know, in place. It starts as the mean of the known
    ones. A policy with a text encoder reads any instruction and is not changed.

    Args:
        policy, processor: changed in place.
        tasks: instructions.

    Returns:
        The new instructions.
    """
    if policy.config.text_config is not None:
        return []
    known = processor.known_instructions()
    new = [text for text in dict.fromkeys(tasks) if text not in known]
    if not new:
        return []
    before: torch.Tensor = policy.instruction_embedding.weight.data
    mean = before[1:].mean(dim=0) if len(known) else before[0]
    policy.instruction_embedding = nn.Embedding.from_pretrained(
        torch.cat((before, mean.expand(len(new), -1))), freeze=False
    )
    policy.config.num_instructions += len(new)
    processor.tokenizer = instruction_tokenizer([*known, *new])
    return new


def _as_tensors(statistics: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"])
