"""The objects of a run from its recipe: datasets, policy and trainer."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed
from transformers.integrations import get_reporting_integration_callbacks

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.mixture.dataset import Chunks
from hf_ptr.data.score_file import read_weights, warn_of_longer_chunks
from hf_ptr.errors import DataWarning, InputError, first_line
from hf_ptr.hub.datasets import pull_videos, score_file_path
from hf_ptr.hub.repos import dataset_folder, parse_hub_dataset
from hf_ptr.policies import adapter_of, policy_from_dataset
from hf_ptr.policies.action_queue import belief_lag
from hf_ptr.policies.loading import has_rate, require_features
from hf_ptr.runs.base_policy import base_policy, learn_new_instructions, pull_policy, require_unset
from hf_ptr.runs.episodes import select_episodes, with_video_options
from hf_ptr.runs.mixture import mixture_of
from hf_ptr.runs.recipe import NEW_POLICY_FIELDS, Recipe
from hf_ptr.training.calibrated_weights import calibrated_chunks
from hf_ptr.training.check_arguments import check_arguments
from hf_ptr.training.provenance import corruption_record, load_corruption_truth, mixture_corruption_record
from hf_ptr.training.ptr_trainer import PTRTrainer


@dataclass(frozen=True)
class RunInputs:
    """
    The objects of a run, except the trainer.

    Attributes:
        recipe: the recipe.
        policy: policy to train, see [`PTRTrainer`].
        processor: processor of the policy.
        train: the chunks to train on.
        evaluation: held-out chunks, or None.
        corruption: record of the synthetic faults in the training data, or None.
    """

    recipe: Recipe
    policy: Any
    processor: Any
    train: Chunks
    evaluation: Chunks | None
    corruption: dict[str, Any] | None

    def calibrated(self, checkpoint: str | Path | None = None) -> RunInputs:
        """The same with calibrated weights, fitted or read from a checkpoint."""
        return dataclasses.replace(self, train=calibrated_chunks(self.train, self.recipe.training, checkpoint))

    def uniform(self) -> RunInputs:
        """The same with weights of 1, for a trainer that will not train."""
        return dataclasses.replace(self, train=self.train.with_weights(np.ones(len(self.train))))

    def check(self) -> None:
        """
        Checks the settings without a trainer.

        Raises:
            InputError: the settings cannot be used here.
        """
        args = self.recipe.training
        with refused_settings():
            check_arguments(args, self.train, self.evaluation, self.processor, None)
            PTRTrainer.get_optimizer_cls_and_kwargs(args)
            for integration in get_reporting_integration_callbacks(args.report_to):
                integration()

    def trainer(self) -> PTRTrainer:
        """
        The trainer of the run.

        Raises:
            InputError: the settings cannot be used here.
        """
        with refused_settings():
            trainer = PTRTrainer(
                model=self.policy,
                args=self.recipe.training,
                train_dataset=self.train,
                eval_dataset=self.evaluation,
                processing_class=self.processor,
                peft_config=self.recipe.lora.peft_config(),
            )
            # Training would build these first, and fail if the folder of the run already exists.
            trainer.get_train_dataloader()
            trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        trainer.provenance["corruption"] = self.corruption
        return trainer


def _features(recipe: Recipe) -> list[str] | None:
    """The vectors of a new policy; None for all, where the policy has features of its own or faults are planted."""
    data = recipe.data
    if recipe.policy.policy is not None or data.corruption != "clean":
        return None
    return [*data.observation_features, data.state_feature, data.action_feature]


def build_trainer(recipe: Recipe) -> PTRTrainer:
    """The trainer of a recipe; with `scoring: calibrated` the weights are fitted first."""
    return read_inputs(recipe).trainer()


def read_inputs(recipe: Recipe) -> RunInputs:
    """
    Reads the data of a recipe, and builds or loads its policy.

    Raises:
        InputError: a part of the recipe or of the data is wrong; the message names it.
    """
    # Before the weights of the policy are drawn, so that a recipe and its seed give one run.
    set_seed(recipe.training.seed)
    if recipe.data.sources is not None:
        mixture, held_out_mixture, policy, processor = mixture_of(recipe)
        truths = {source.name: source.truth for source in mixture.sources}
        return RunInputs(recipe, policy, processor, mixture, held_out_mixture, mixture_corruption_record(truths))
    _require_here(str(recipe.data.dataset))
    # Report what is missing on the Hub before the data is pulled, which is the largest part.
    weights_file = None if recipe.data.weights is None else score_file_path(recipe.data.weights)
    if recipe.policy.policy is not None:
        pull_policy(recipe)
    streams = recipe.data.streaming
    dataset = dataset_folder(str(recipe.data.dataset), () if streams else recipe.data.observation_features)
    selected = select_episodes(dataset, recipe.data, _features(recipe))
    whole, table, held_out = selected.whole, selected.train, selected.held_out
    faults = selected.truth if selected.truth.faults else load_corruption_truth(dataset)
    policy, processor = _policy(recipe, table)
    config = adapter_of(policy).config
    if not streams:
        pull_videos(whole, config.observation_features)
    # Streamed videos are checked when they arrive.
    cameras = [name for name in config.observation_features if name in table.videos and not streams]
    ids = whole.episode_index.tolist()
    used = [*config.observation_features, config.state_feature, config.action_feature]
    found = validate_dataset(str(dataset), episodes=ids, features=used, cameras=cameras, decode=False)
    require_usable(found, selected.skip)
    cut: dict[str, Any] = {
        "segment_chunks": recipe.data.segment_chunks,
        "target_offset": recipe.data.target_offset,
    }
    weights = None if weights_file is None else read_weights(weights_file, table)
    if weights is not None and recipe.training.calibrates:
        raise InputError("weights names the weights, and scoring calibrated would fit others; leave one of them out")
    if weights_file is not None:
        warn_of_longer_chunks(weights_file, config.chunk_size)
    train = chunks_for(config, with_video_options(table, dataset, recipe.data), weights=weights, **cut)
    evaluation = (
        None if held_out is None else chunks_for(config, with_video_options(held_out, dataset, recipe.data), **cut)
    )
    return RunInputs(
        recipe, policy, processor, train, evaluation, None if faults is None else corruption_record(faults)
    )


def _require_here(dataset: str) -> None:
    """
    Checks that a dataset whose name cannot be one of the Hub is there; others are looked up by `dataset_folder`.

    Raises:
        InputError: it is not.
    """
    if parse_hub_dataset(dataset) is not None or Path(dataset).exists():
        return
    if Path(dataset).is_absolute():
        raise InputError(f"dataset {dataset} does not exist; correct the path, or pass dataset=PATH")
    raise InputError(
        f"dataset {dataset} does not exist in {Path.cwd()}; start from the folder that it is relative to, or pass "
        "dataset=PATH"
    )


@contextmanager
def refused_settings() -> Iterator[None]:
    """Turns errors of transformers about settings, such as a missing package, into one line; not other failures."""
    try:
        yield
    except InputError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        # Integrations raise RuntimeError for a missing package, PyTorch for memory that is used up and for its bugs.
        if isinstance(error, RuntimeError) and "install" not in str(error):
            raise
        raise InputError(f"these settings cannot be used here: {first_line(error)}") from error


def chunks_for(
    config: Any, table: EpisodeTable, *, segment_chunks: int, target_offset: int, weights: np.ndarray | None = None
) -> ChunkDataset:
    """The chunks of a policy, for training or scoring; those of a segment do not overlap, see `belief_lag`."""
    return ChunkDataset(
        table,
        chunk_size=config.chunk_size,
        segment_chunks=segment_chunks,
        chunk_stride=belief_lag(config) * config.n_action_steps,
        target_offset=target_offset,
        observation_features=config.observation_features,
        state_feature=config.state_feature,
        action_feature=config.action_feature,
        image_size=config.image_resolution,
        weights=weights,
    )


def _policy(recipe: Recipe, table: EpisodeTable) -> tuple[Any, Any]:
    data, place = recipe.data, recipe.policy.policy
    if place is None:
        # A size, or the default configuration, decides what the recipe leaves out.
        size = {name: getattr(recipe.policy, name) for name in NEW_POLICY_FIELDS if name in recipe.given}
        try:
            return policy_from_dataset(
                table,
                observation_features=data.observation_features,
                state_feature=data.state_feature,
                action_feature=data.action_feature,
                **size,
            )
        except StrictDataclassError as error:
            raise InputError(f"this policy cannot be built: {_innermost(error)}") from error
    policy, actor, processor = base_policy(recipe)
    features = {
        name: getattr(data, name)
        for name in ("observation_features", "state_feature", "action_feature")
        if name in recipe.given
    }
    if actor.needs_dataset:
        actor.fit_to(table, **features)
        features = {}
    require_unset(list(features), place)
    require_features(actor.config, table, place)
    if not has_rate(actor.config, (table.fps,)):
        warnings.warn(
            f"{place} was trained at {actor.config.fps:g} fps, and training continues on {table.source!r} at "
            f"{table.fps:g} fps: the same number of actions lasts another time; prefer data of one frame rate",
            DataWarning,
            stacklevel=2,
        )
    if hasattr(actor, "set_rate"):
        actor.set_rate(float(table.fps))
    learn_new_instructions(policy, processor, recipe, table.tasks)
    return policy, processor


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
