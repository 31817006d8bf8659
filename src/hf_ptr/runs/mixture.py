"""The mixture of a recipe's `sources`, and its policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.mixture.dataset import MixtureDataset
from hf_ptr.data.mixture.robots import Robot, observes_state, robots_of
from hf_ptr.data.mixture.sources import Source, SourceSpec, make_source
from hf_ptr.embodiment import WIDTH, UnifiedActionSpace
from hf_ptr.errors import InputError
from hf_ptr.hub.datasets import score_file_path
from hf_ptr.hub.repos import dataset_folder, model_folder, parse_hub_repo
from hf_ptr.policies import adapter_of, policy_from_dataset
from hf_ptr.policies.action_queue import belief_lag
from hf_ptr.runs.base_policy import base_policy, learn_new_instructions, require_unset
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.runs.episodes import split_episodes, with_video_options
from hf_ptr.runs.recipe import NEW_POLICY_FIELDS, Recipe

# Keys of a single dataset: with sources, each source sets its own, or they do not apply.
OF_ONE_DATASET = (
    "dataset", "episodes", "skip_episodes", "eval_episodes", "corruption", "corruption_severity", "corruption_seed",
    "weights", "relative_actions", "min_std",
)  # fmt: skip


@dataclass(frozen=True)
class _Features:
    """Names of observation, state and action in the mixture."""

    observation_features: list[str]
    state_feature: str
    action_feature: str

    @property
    def additional(self) -> list[str]:
        """The observation features; empty if the observation is the state alone."""
        return [] if observes_state(self.observation_features, self.state_feature) else self.observation_features


def mixture_of(recipe: Recipe) -> tuple[MixtureDataset, MixtureDataset | None, Any, Any]:
    """
    The training chunks of a recipe's sources, the held-out chunks (None without), the policy and its processor. The
    policy is in the unified action space: the base policy of the recipe, or a new native policy.

    Raises:
        InputError: a source cannot be read or used, a source lacks a camera, or the recipe sets a key of a single
            dataset.
    """
    data = recipe.data
    clash = [name for name in OF_ONE_DATASET if name in recipe.given]
    if clash:
        raise InputError(f"{', '.join(clash)} cannot be set with sources; remove the key, or write it into a source")
    base, features, known = recipe.policy.policy, _features(data), {}
    if base is not None:
        policy, actor, processor = base_policy(recipe)
        require_unset([name for name in dataclasses.asdict(features) if name in recipe.given], base)
        if (actor.config.state_dim, actor.config.action_dim) != (WIDTH, WIDTH):
            raise InputError(
                f"{base} is not a policy in the unified action space of sources; train one with sources first"
            )
        features, known = _features(actor.config), robots_of(model_folder(base))
    specs = [SourceSpec.parse(given, number) for number, given in enumerate(data.sources or ())]
    sources = []
    for number, spec in enumerate(specs):
        try:
            sources.append(_read(spec, data, features, known))
        except InputError as error:
            raise error.with_option(f'skip_episodes: "{{}}" in source {number}') if error.skip else error from None
    if base is None:
        policy, processor = policy_from_dataset(
            _example(sources, features),
            **dataclasses.asdict(features),
            **{name: getattr(recipe.policy, name) for name in NEW_POLICY_FIELDS if name in recipe.given},
        )
        # Robots have different rates.
        policy.config.fps = None
    config = adapter_of(policy).config
    cut: dict[str, Any] = {
        "chunk_size": config.chunk_size,
        "segment_chunks": data.segment_chunks,
        "chunk_stride": belief_lag(config) * config.n_action_steps,
        "target_offset": data.target_offset,
        "observation_features": features.observation_features,
        "state_feature": features.state_feature,
        "action_feature": features.action_feature,
        "image_size": config.image_resolution,
    }
    mixture = MixtureDataset(sources, **cut)
    held_out = [
        dataclasses.replace(source, table=source.held_out, weights=None)
        for source in sources
        if source.held_out is not None
    ]
    # The tasks of all sources, so that `task_index` has the same meaning as in training.
    evaluation = MixtureDataset(held_out, **cut, tasks=mixture.tasks) if held_out else None
    if base is not None:
        learn_new_instructions(policy, processor, recipe, mixture.tasks)
        return mixture, evaluation, policy, processor
    state, action = (
        {key: torch.from_numpy(value) for key, value in mixture.normalization(kind).items()}
        for kind in ("state", "action")
    )
    policy.state_normalizer.set(**state)
    policy.action_normalizer.set(**action)
    if not mixture.cameras:
        seen = {key: torch.from_numpy(value) for key, value in mixture.normalization("observation").items()}
        cast(Any, policy.tower).normalizer.set(**seen)
    return mixture, evaluation, policy, processor


def _features(given: Any) -> _Features:
    return _Features(list(given.observation_features), given.state_feature, given.action_feature)


def _read(spec: SourceSpec, data: DataArguments, features: _Features, known: Mapping[str, Robot]) -> Source:
    repo = parse_hub_repo(spec.dataset)
    name = spec.name or (Path(spec.dataset).resolve().name if repo is None else repo.repo_id.rpartition("/")[2])
    own = [spec.features.get(feature, feature) for feature in features.additional]
    # Report what is missing on the Hub before the data is downloaded.
    weight_file = None if spec.weights is None else score_file_path(spec.weights)
    folder = dataset_folder(spec.dataset, () if data.streaming else own)
    split = split_episodes(folder, spec)
    source = make_source(
        spec,
        with_video_options(split.train, folder, data),
        name,
        state_feature=features.state_feature,
        action_feature=features.action_feature,
        held_out=None if split.held_out is None else with_video_options(split.held_out, folder, data),
        weight_file=weight_file,
        known=known.get(name),
    )
    has = (*split.whole.videos, *split.whole.columns)
    missing = [
        feature for feature in features.additional if feature not in {*source.table.videos, *source.table.columns}
    ]
    if missing:
        raise InputError(
            f"source {name} has no {missing[0]!r}; map it to one of its features with features: {{{missing[0]}: …}} "
            f"(it has: {', '.join(has)})"
        )
    ids = split.whole.episode_index.tolist()
    here = () if data.streaming else own
    named = [*features.additional, features.state_feature, features.action_feature]
    used = [spec.features.get(feature, feature) for feature in named]
    found = validate_dataset(folder, episodes=ids, features=used, cameras=here, decode=False)
    require_usable(found, split.skip)
    return source


def _example(sources: list[Source], features: _Features) -> EpisodeTable:
    """One unified frame of each source, to build a policy from; the statistics are set later, from all data."""
    tasks = tuple(dict.fromkeys(task for source in sources for task in source.table.tasks))
    space = UnifiedActionSpace()
    rows = {
        feature: np.concatenate(
            [
                space.unify(torch.from_numpy(source.table.feature(feature)[:1]), source.robot.embodiment, kind).numpy()
                for source in sources
            ]
        )
        for feature, kind in ((features.state_feature, "state"), (features.action_feature, "action"))
    }
    # Observed vectors other than the state have the same meaning for every robot.
    for feature in features.additional:
        if all(feature in source.table.columns for source in sources):
            rows[feature] = np.concatenate([source.table.feature(feature)[:1] for source in sources])
    count = np.ones(len(sources), dtype=np.int64)
    return EpisodeTable(
        columns=rows,
        task_index=np.zeros(len(sources), dtype=np.int64),
        tasks=tasks,
        starts=np.arange(len(sources)),
        lengths=count,
        episode_index=np.arange(len(sources)),
        frame_id=np.arange(len(sources)),
        fps=sources[0].table.fps,
        robot_type=None,
        source="mixture",
        features={name: {"dtype": "float32", "shape": [row.shape[1]], "names": None} for name, row in rows.items()},
        videos=sources[0].table.videos,
    )
