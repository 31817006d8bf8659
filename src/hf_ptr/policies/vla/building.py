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
    scale_floor: float = 0.0,
    **settings: Any,
) -> tuple[VLAPolicy, VLAProcessor]:
    """
    A [`VLAPolicy`] with fresh weights and the dataset's statistics, and its processor.

    Args:
        table: the episodes it will be trained on.
        observation_features, state_feature, action_feature: which columns are `o`, `s` and `a`.
        scale_floor: the least scale that observation and state are normalised by, in their units (see
            [`normalization`]). Actions have none: it would drown small ones in the noise of the flow.
        settings: further fields of [`VLAPolicyConfig`].

    Raises:
        InputError: when the dataset lacks one of the features, or for a floor that is negative or not finite.
    """
    sizes = [table.feature(name).shape[1] for name in observation_features]
    config = VLAPolicyConfig(
        observation_dim=sum(sizes),
        state_dim=table.feature(state_feature).shape[1],
        action_dim=table.feature(action_feature).shape[1],
        observation_features=list(observation_features),
        observation_sizes=sizes,
        state_feature=state_feature,
        action_feature=action_feature,
        num_instructions=len(table.tasks),
        **settings,
    )
    policy = VLAPolicy(config)
    statistics = normalization(table, observation_features, past_as_difference=True, floor=scale_floor)
    policy.tower.normalizer.set(torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"]))
    statistics = normalization(table, [state_feature], floor=scale_floor)
    policy.state_normalizer.set(torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"]))
    if config.relative_actions:
        statistics = relative_normalization(table, action_feature, state_feature, config.chunk_size)
    else:
        statistics = normalization(table, [action_feature])
    policy.action_normalizer.set(torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"]))
    return policy, VLAProcessor(instruction_tokenizer(table.tasks))
