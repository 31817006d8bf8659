"""A new native policy sized and normalised to a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import normalization, relative_normalization
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.modeling_vla import VLAPolicy
from hf_ptr.policies.vla.processing_vla import VLAProcessor, instruction_tokenizer


def policy_from_dataset(
    table: EpisodeTable,
    *,
    observation_features: Sequence[str],
    state_feature: str = "observation.state",
    action_feature: str = "action",
    **settings: Any,
) -> tuple[VLAPolicy, VLAProcessor]:
    """
    A [`VLAPolicy`] with fresh weights and the dataset's statistics, and its processor.

    Args:
        table: the episodes it will be trained on.
        observation_features, state_feature, action_feature: which columns are `o`, `s` and `a`.
        settings: further fields of [`VLAPolicyConfig`].

    Raises:
        InputError: when the dataset lacks one of the features.
    """
    width = sum(table.feature(name).shape[1] for name in observation_features)
    config = VLAPolicyConfig(
        observation_dim=width,
        state_dim=table.feature(state_feature).shape[1],
        action_dim=table.feature(action_feature).shape[1],
        observation_features=list(observation_features),
        state_feature=state_feature,
        action_feature=action_feature,
        num_instructions=len(table.tasks),
        **settings,
    )
    policy = VLAPolicy(config)
    normalized = (
        (policy.tower.normalizer, observation_features),
        (policy.state_normalizer, [state_feature]),
    )
    for normalizer, features in normalized:
        statistics = normalization(table, features)
        normalizer.set(torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"]))
    if config.relative_actions:
        statistics = relative_normalization(table, action_feature, state_feature, config.chunk_size)
    else:
        statistics = normalization(table, [action_feature])
    policy.action_normalizer.set(torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"]))
    return policy, VLAProcessor(instruction_tokenizer(table.tasks))
