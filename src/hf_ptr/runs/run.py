"""A training run from a recipe: one folder, resumed until it is finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import yaml
from transformers.trainer import TRAINER_STATE_NAME

from hf_ptr.data.episode_ids import episode_text, parse_episodes
from hf_ptr.data.mixture.dataset import MixtureDataset
from hf_ptr.data.mixture.robots import MIXTURE_FILE
from hf_ptr.errors import InputError
from hf_ptr.hub.repos import checkpoint_folder
from hf_ptr.runs.build import RunInputs, read_inputs
from hf_ptr.runs.episodes import require_same_data
from hf_ptr.runs.recipe import Recipe, load_recipe
from hf_ptr.runs.weights_in_words import weights_in_words
from hf_ptr.training.checkpointing import last_complete_checkpoint, restore_replaced
from hf_ptr.training.distributed import ProcessGroup
from hf_ptr.training.provenance import RECIPE_FILE
from hf_ptr.training.ptr_trainer import PTRTrainer
from hf_ptr.training.publishing import check_hub_access, push_finished_run
from hf_ptr.utils.atomic_files import write_json, write_text
from hf_ptr.utils.yaml_values import dump_values

DONE_FILE = "train_results.json"
# Marks a run whose final state is on the Hub. The underscore keeps it from being pushed itself.
PUSHED_FILE = "_pushed.json"


class RunStopped(Exception):
    """
    A signal ended the run before it was finished; its last step is saved, and the same recipe resumes it.

    Attributes:
        folder: folder of the run.
        signal: number of the signal.
    """

    def __init__(self, folder: Path, signal: int):
        super().__init__(f"{folder} was stopped by signal {signal} and is saved; run the same recipe again to resume")
        self.folder = folder
        self.signal = signal


def run_recipe(path: str | Path, overrides: Sequence[str] = (), *, say: Callable[[str], None] | None = None) -> Path:
    """
    Trains a recipe, or resumes an interrupted run of the same recipe.

    Args:
        path: path of the recipe.
        overrides: `key=value` texts, as in [`load_recipe`].
        say: called by the first process with a line about the weights before the first step.

    Returns:
        The folder of the run, with the policy at its root.

    Raises:
        InputError: the recipe or the data is invalid. In this case nothing has been written.
        RunStopped: SIGTERM or Ctrl-C ended the run early, with a checkpoint.
    """
    recipe = load_recipe(path, overrides)
    folder, training = Path(str(recipe.training.output_dir)), recipe.training
    require_same_run(folder, recipe)
    if (folder / DONE_FILE).exists():
        if training.push_to_hub and not (folder / PUSHED_FILE).exists() and training.process_index == 0:
            _push(partial(push_finished_run, folder, training), folder, training.hub_model_id)
        return folder
    restore_replaced(folder)
    # The last checkpoint of a killed run is nearer to the end than the checkpoint that the recipe starts from.
    resume = last_complete_checkpoint(folder) or training.resume_from_checkpoint
    _check_push(recipe)
    resume = None if resume is None else _checkpoint(resume)
    trainer = _started(read_inputs(recipe), folder, resume)
    if say is not None and training.process_index == 0:
        say(weights_in_words(trainer, recipe.data.weights))
    result = trainer.train(resume_from_checkpoint=resume)
    if trainer.stopped_by:
        raise RunStopped(folder, trainer.stopped_by)
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    if trainer.eval_dataset is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    # Last: its presence says that the run is complete.
    trainer.save_metrics("train", result.metrics, combined=False)
    if training.push_to_hub:
        _push(trainer.push_to_hub, folder, trainer.hub_model_id)
    return folder


def _started(inputs: RunInputs, folder: Path, resume: str | None) -> PTRTrainer:
    """The trainer of a run whose folder describes it. Nothing is written before the settings are checked."""
    training = inputs.recipe.training
    group = ProcessGroup(training.process_index, training.world_size)
    begin = partial(_write_description, folder, inputs)
    if training.calibrates:
        # The fit writes into the folder, and comes before the trainer.
        inputs.check()
        group.run_on_main(begin)
        return inputs.calibrated(resume).trainer()
    trainer = inputs.trainer()
    group.run_on_main(begin)
    return trainer


def _write_description(folder: Path, inputs: RunInputs) -> None:
    """Writes recipe and data of a run, or checks that they are those it started with."""
    write_text(dump_values(inputs.recipe.given), folder / RECIPE_FILE)
    require_same_data(folder, {"train": inputs.train, "eval": inputs.evaluation})
    if isinstance(inputs.train, MixtureDataset):
        write_json(inputs.train.to_dict(), folder / MIXTURE_FILE)


def _check_push(recipe: Recipe) -> None:
    """Asks the Hub whether the run can be pushed, before its data is read."""
    training = recipe.training
    if training.push_to_hub:
        ask = partial(check_hub_access, training, recipe.policy.policy, recipe.lora.use_peft)
        ProcessGroup(training.process_index, training.world_size).run_on_main(ask)


def _checkpoint(source: str) -> str:
    """
    The folder of the checkpoint to resume from.

    Raises:
        InputError: that path or repo id has no checkpoint.
    """
    folder = checkpoint_folder(source)
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise InputError(f"resume_from_checkpoint {source} is not a checkpoint: it has no {TRAINER_STATE_NAME}")
    return str(folder)


def _push(push: Callable[[], str | None], folder: Path, repo_id: str | None) -> None:
    """Pushes a finished run and marks it; without the mark, the same command pushes again."""
    try:
        commit = push()
    except InputError as error:
        raise InputError(
            f"{folder} is trained, but could not be pushed: {error}; then rerun the command, or use hf-ptr push "
            f"{folder} --repo-id {repo_id or folder.absolute().name}"
        ) from error
    if commit is not None:
        write_json({"commit": commit}, folder / PUSHED_FILE)


def trained_episodes(folder: str | Path, dataset: str, known: Collection[int]) -> set[int]:
    """
    The training episodes of a run, by its recipe.

    Args:
        folder: folder of the run.
        dataset: name of the dataset; of a mixture's sources, those with this name count.
        known: ids of all episodes of the dataset.

    Returns:
        The ids; empty if the run was trained on another dataset, or the folder is not a run.
    """
    made = Path(folder) / RECIPE_FILE
    given = yaml.safe_load(made.read_text(encoding="utf-8")) if made.is_file() else None
    if not isinstance(given, dict):
        return set()
    name, found = Path(dataset).name, set[int]()
    for each in (given, *(given.get("sources") or ())):
        if Path(str(each.get("dataset")).partition("@")[0]).name == name:
            ids = parse_episodes(each.get("episodes"))
            left_out = {*(parse_episodes(each.get("skip_episodes")) or ())}
            left_out |= set() if ids is not None else {*(parse_episodes(each.get("eval_episodes")) or ())}
            found |= {*(known if ids is None else ids)} - left_out
    return found


def require_policy(folder: Path) -> None:
    """
    Check that the run in a folder, if it is one, has saved its policy.

    Raises:
        InputError: the run was interrupted; the message names its last checkpoint.
    """
    saved = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    if saved or not (folder / RECIPE_FILE).is_file():
        return
    last = last_complete_checkpoint(folder)
    other = "" if last is None else f", or pass {last}"
    raise InputError(f"the run {folder} was interrupted; rerun hf-ptr train to finish it{other}")


def evaluation_command(folder: Path) -> str:
    """The command that evaluates a finished run, on the held-out episodes of its recipe where it has any."""
    given = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    for each in (given, *(given.get("sources") or ())):
        if each.get("eval_episodes"):
            which = f" --source {each['name']}" if each.get("name") else ""
            ids = episode_text(each["eval_episodes"])
            return f"hf-ptr evaluate {folder} --dataset {each['dataset']} --episodes {ids}{which}"
    return f"hf-ptr evaluate {folder} --env metaworld, or --dataset DIR --episodes IDS outside its training data"


def require_same_run(folder: Path, recipe: Recipe) -> None:
    """
    An output folder belongs to one recipe: two runs in one folder would resume from each other.

    Raises:
        InputError: the folder belongs to another recipe, or was not created by hf-ptr.
    """
    made = folder / RECIPE_FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {folder} is a file; choose another output_dir")
    if not made.exists():
        # A run killed during its first write leaves a hidden file.
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(
                f"output_dir {folder} is not empty and was not created by hf-ptr; choose another output_dir"
            )
        return
    try:
        before = dict(yaml.safe_load(made.read_text()))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise InputError(f"{made} is damaged; delete {folder}, or choose another output_dir") from error
    changed = sorted(key for key in {*before, *recipe.given} if before.get(key) != recipe.given.get(key))
    if changed:
        raise InputError(
            f"output_dir {folder} contains a run with other settings ({', '.join(changed)}); "
            "choose another output_dir, or delete the folder to start over"
        )
