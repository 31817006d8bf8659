"""A training run from a recipe: data, policy, trainer, and a folder that says what made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.validation import require_usable, validate_dataset
from hf_ptr.data.mixture.dataset import MixtureDataset
from hf_ptr.data.mixture.robots import MIXTURE_FILE
from hf_ptr.data.score_file import read_weights
from hf_ptr.errors import InputError, first_line
from hf_ptr.hub.datasets import pull_videos, score_file_path
from hf_ptr.hub.repos import checkpoint_folder, dataset_folder
from hf_ptr.policies import adapter_of, policy_from_dataset, require_fits
from hf_ptr.policies.action_queue import belief_lag
from hf_ptr.runs.base_policy import given_policy, pull_policy, refuse_settings, teach
from hf_ptr.runs.data_arguments import parse_episodes
from hf_ptr.runs.data_digest import require_same_data
from hf_ptr.runs.episodes import seen_through, select_episodes
from hf_ptr.runs.mixture import mixture_of
from hf_ptr.runs.recipe import NEW_POLICY_FIELDS, Recipe, load_recipe
from hf_ptr.training.checkpointing import last_complete_checkpoint, restore_replaced
from hf_ptr.training.distributed import Ranks
from hf_ptr.training.provenance import RECIPE_FILE, corruption_record, load_corruption_truth, mixture_corruption_record
from hf_ptr.training.ptr_trainer import PTRTrainer
from hf_ptr.training.publishing import check_hub_access, push_finished_run
from hf_ptr.utils.atomic_files import write_json, write_text

DONE_FILE = "train_results.json"
# Is there once the run is pushed to its end; by its name it is not pushed itself.
PUSHED_FILE = "_pushed.json"


def run_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Path:
    """
    Trains what the recipe describes, or goes on where an interrupted run of the same recipe stopped.

    Args:
        path: of the recipe.
        overrides: `key=value`.

    Returns:
        The run's folder, with the policy at its root.

    Raises:
        InputError: whatever is wrong with recipe or data, before anything is written.
    """
    recipe = load_recipe(path, overrides)
    folder = Path(str(recipe.training.output_dir))
    require_same_run(folder, recipe)
    if (folder / DONE_FILE).exists():
        if recipe.training.push_to_hub and not (folder / PUSHED_FILE).exists() and recipe.training.process_index == 0:
            _push(partial(push_finished_run, folder, recipe.training), folder, recipe.training.hub_model_id)
        return folder
    restore_replaced(folder)
    # What a killed run left is nearer to the end than what the recipe begins with.
    resume = last_complete_checkpoint(folder) or recipe.training.resume_from_checkpoint
    ask_where_to_push(recipe)
    resume = None if resume is None else _checkpoint(resume)
    trainer = build_trainer(recipe)
    trainer.ranks.from_first(partial(_begin, folder, recipe, trainer))
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    if trainer.eval_dataset is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    # Last: its presence says that the run is complete.
    trainer.save_metrics("train", result.metrics, combined=False)
    if recipe.training.push_to_hub:
        _push(trainer.push_to_hub, folder, trainer.hub_model_id)
    return folder


def ask_where_to_push(recipe: Recipe) -> None:
    """
    Asks the Hub whether a run that is to be pushed can be, before its data are read.

    Raises:
        InputError: it cannot.
    """
    training = recipe.training
    if training.push_to_hub:
        ask = partial(check_hub_access, training, recipe.policy.policy, recipe.lora.use_peft)
        Ranks(training.process_index, training.world_size).from_first(ask)


def _begin(folder: Path, recipe: Recipe, trainer: PTRTrainer) -> None:
    """Writes what the run is, or checks that the one that goes on is the same."""
    write_text(yaml.safe_dump(recipe.given, sort_keys=True, allow_unicode=True), folder / RECIPE_FILE)
    require_same_data(folder, {"train": trainer.train_dataset, "eval": trainer.eval_dataset})
    if isinstance(trainer.train_dataset, MixtureDataset):
        write_json(trainer.train_dataset.to_dict(), folder / MIXTURE_FILE)


def _checkpoint(place: str) -> str:
    """
    The folder of the checkpoint to go on from.

    Raises:
        InputError: when there is none at that place.
    """
    folder = checkpoint_folder(place)
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise InputError(f"resume_from_checkpoint {place} is no checkpoint: it has no {TRAINER_STATE_NAME}")
    return str(folder)


def _push(push: Callable[[], str | None], folder: Path, repo_id: str | None) -> None:
    """Pushes a run that is trained; a commit leaves a mark, without which the run, started again, is pushed."""
    try:
        commit = push()
    except InputError as error:
        raise InputError(
            f"{folder} is trained, but could not be pushed: {error}; then start the command again, or hf-ptr push "
            f"{folder} --repo-id {repo_id or folder.absolute().name}"
        ) from error
    if commit is not None:
        write_json({"commit": commit}, folder / PUSHED_FILE)


def build_trainer(recipe: Recipe) -> PTRTrainer:
    """Reads the data, makes or loads the policy, and puts both into a [`PTRTrainer`]."""
    # Before the policy's weights are drawn, so that a recipe and its seed are one run.
    set_seed(recipe.training.seed)
    if recipe.data.sources is not None:
        mixture, evaluated, policy, processor = mixture_of(recipe)
        trainer = _trainer(recipe, policy, processor, mixture, evaluated)
        trainer.provenance["corruption"] = mixture_corruption_record(
            {source.name: source.truth for source in mixture.sources}
        )
        return trainer
    # What is missing on the Hub is told before the data are pulled, which are the most.
    weights_file = None if recipe.data.weights is None else score_file_path(recipe.data.weights)
    if recipe.policy.policy is not None:
        pull_policy(recipe)
    streams = recipe.data.streaming
    dataset = dataset_folder(str(recipe.data.dataset), () if streams else recipe.data.observation_features)
    selected = select_episodes(dataset, recipe.data)
    whole, table, held_out = selected.whole, selected.train, selected.held_out
    faults = selected.truth if selected.truth.faults else load_corruption_truth(dataset)
    policy, processor = _policy(recipe, table)
    config = adapter_of(policy).config
    if not streams:
        pull_videos(whole, config.observation_features)
    # The videos that are not here yet are looked at when they come.
    cameras = [name for name in config.observation_features if name in table.videos and not streams]
    ids = whole.episode_index.tolist()
    require_usable(validate_dataset(str(dataset), episodes=ids, cameras=cameras, decode=False), selected.skip)
    cut: dict[str, Any] = {
        "segment_chunks": recipe.data.segment_chunks,
        "target_offset": recipe.data.target_offset,
    }
    weights = None if weights_file is None else read_weights(weights_file, table)
    train = chunks_for(config, seen_through(table, dataset, recipe.data), weights=weights, **cut)
    evaluation = None if held_out is None else chunks_for(config, seen_through(held_out, dataset, recipe.data), **cut)
    trainer = _trainer(recipe, policy, processor, train, evaluation)
    trainer.provenance["corruption"] = None if faults is None else corruption_record(faults)
    return trainer


def _trainer(recipe: Recipe, policy: Any, processor: Any, train: Dataset, evaluation: Dataset | None) -> PTRTrainer:
    with _settings_refused():
        trainer = PTRTrainer(
            model=policy,
            args=recipe.training,
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=processor,
            peft_config=recipe.lora.peft_config(),
        )
        # What training would build first, and would complain of when the folder is already made.
        trainer.get_train_dataloader()
        trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    return trainer


@contextmanager
def _settings_refused() -> Iterator[None]:
    """Says in one line what transformers finds wrong with the settings, a missing package among them."""
    try:
        yield
    except InputError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        raise InputError(f"these settings cannot be used here: {first_line(error)}") from error


def chunks_for(
    config: Any, table: EpisodeTable, *, segment_chunks: int, target_offset: int, weights: np.ndarray | None = None
) -> ChunkDataset:
    """The chunks that a policy trains on, or is scored by; those of a segment do not overlap, see `belief_lag`."""
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
        # What the recipe leaves out, a size or the policy's own configuration decides.
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
    policy, actor, processor = given_policy(recipe)
    features = {
        name: getattr(data, name)
        for name in ("observation_features", "state_feature", "action_feature")
        if name in recipe.given
    }
    if actor.needs_dataset:
        actor.fit_to(table, **features)
        features = {}
    refuse_settings(list(features), place)
    require_fits(actor.config, table, place)
    teach(policy, processor, recipe, table.tasks)
    return policy, processor


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def trained_episodes(folder: str | Path, dataset: str) -> set[int]:
    """
    The episodes that a run's recipe names for training, of a mixture those of the source whose dataset is called so;
    empty where it names none, or the folder is no run.
    """
    made = Path(folder) / RECIPE_FILE
    given = yaml.safe_load(made.read_text(encoding="utf-8")) if made.is_file() else None
    if not isinstance(given, dict):
        return set()
    listed = given.get("sources") or ()
    name = Path(dataset).name
    mine = [each for each in listed if Path(str(each.get("dataset")).partition("@")[0]).name == name]
    return {episode for each in (given, *mine) for episode in parse_episodes(each.get("episodes")) or ()}


def evaluation_command(folder: Path) -> str:
    """The command that evaluates a finished run, as far as its recipe says on what."""
    given = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    for each in (given, *(given.get("sources") or ())):
        if each.get("eval_episodes"):
            which = f" --source {each['name']}" if each.get("name") else ""
            return f"hf-ptr evaluate {folder} --dataset {each['dataset']} --episodes {each['eval_episodes']}{which}"
    return f"hf-ptr evaluate {folder} --env metaworld, or --dataset DIR --episodes IDS that it was not trained on"


def require_same_run(folder: Path, recipe: Recipe) -> None:
    """An output folder belongs to one recipe: two runs in one folder would resume from each other."""
    made = folder / RECIPE_FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {folder} is a file; choose another output_dir")
    if not made.exists():
        # A run that was killed at its first write leaves the beginning of a hidden file.
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(f"output_dir {folder} is not empty and no run of ours; choose another output_dir")
        return
    try:
        before = dict(yaml.safe_load(made.read_text()))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise InputError(f"{made} is damaged; delete {folder}, or choose another output_dir") from error
    changed = sorted(key for key in {*before, *recipe.given} if before.get(key) != recipe.given.get(key))
    if changed:
        raise InputError(
            f"output_dir {folder} holds a run with another {', '.join(changed)}; "
            "choose another output_dir, or delete the folder to start again"
        )
