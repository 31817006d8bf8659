"""A run's way to the Hub: its card, filled from its folder, and its pushes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from transformers.trainer import TRAINER_STATE_NAME

from hf_ptr.errors import InputError
from hf_ptr.files import write_text
from hf_ptr.hub.cards import MADE_BY, Facts, Result, component_card, policy_card
from hf_ptr.hub.pictures import PICTURE_FILE, weight_histogram
from hf_ptr.hub.places import LAST_CHECKPOINT
from hf_ptr.hub.push import PARTS, push_files, run_files
from hf_ptr.policies.lora import ADAPTER_CONFIG
from hf_ptr.training.config import ARGUMENTS_FILE
from hf_ptr.training.provenance import RUN_FILE, chosen_settings
from hf_ptr.training.weight_record import WEIGHTS_FILE

RECIPE_FILE = "recipe.yaml"
STAGING = "_push-"
EVALUATION_FILE = "evaluation.json"
CARD_FILE = "README.md"
# What the card tells of the last log.
TOLD = ("loss", "loss_action", "nce_acc", "ptr_score", "weight_mean", "ess", "eval_loss")
# Where the run says what it is, beside the model.
RUN_FILES = (RECIPE_FILE, CARD_FILE)
logger = logging.getLogger(__name__)


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    license: str | None = None,
    results: str | Path | None = None,
) -> str:
    """
    Pushes a run, or one of its components, with its card, in one commit.

    Args:
        folder: of the run, or a component's within it.
        repo_id: of a repository that is there.
        message: of the commit.
        revision: the branch; None for the main one.
        token: to write with; None for the one of `hf auth login` or HF_TOKEN.
        license: its id, for the card.
        results: what `hf-ptr evaluate --json` wrote; the run's own `evaluation.json` by default.

    Returns:
        The commit.

    Raises:
        InputError: when the folder holds no model, an adapter's policy is not on the Hub, or the push fails.
    """
    root = Path(folder)
    files = require_pushable(root, results)
    with tempfile.TemporaryDirectory() as made:
        card = write_card(root, Path(made), repo_id, license=license, results=results)
        return push_files(files | card, repo_id, message=message, revision=revision, token=token)


def require_pushable(folder: Path, results: str | Path | None = None) -> dict[str, Path]:
    """
    What is pushed of a run or component, by path in the repository.

    Raises:
        InputError: when the folder holds no model, an adapter's policy is not on the Hub, or the results are no run's.
    """
    files = run_files(folder)
    require_base_on_hub(folder)
    if results is not None:
        read_results(results, folder.name)
    return files


def write_card(
    folder: Path,
    out: Path,
    repo_id: str,
    *,
    license: str | None = None,
    results: str | Path | None = None,
    state: Path | None = None,
) -> dict[str, Path]:
    """
    Writes a run's card and its picture; a card that somebody wrote is left as it is.

    Args:
        folder: of the run, or a component's within it.
        out: the folder to write to.
        repo_id: where it is pushed.
        license, results: as [`push_run`].
        state: the folder whose training state is told of; the run's own by default.

    Returns:
        What was written, by name.
    """
    mine = folder / CARD_FILE
    if mine.is_file() and MADE_BY not in mine.read_text(encoding="utf-8"):
        return {}
    model_type = _read(folder / "config.json").get("model_type")
    if model_type in ("ptr_transition_scorer", "ptr_belief_tokenizer"):
        run = folder.parent if (folder.parent / RUN_FILE).is_file() else folder
        card: Any = component_card(_facts(run, run, repo_id, license, None, None), _read(folder / "config.json"))
        write_text(str(card), out / CARD_FILE)
        return {CARD_FILE: out / CARD_FILE}
    state = folder if state is None else state
    written = {CARD_FILE: out / CARD_FILE}
    record = _read(state / WEIGHTS_FILE)
    if record:
        weight_histogram(record["counts"], record["low"], record["high"], out / PICTURE_FILE)
        written[PICTURE_FILE] = out / PICTURE_FILE
    facts = _facts(folder, state, repo_id, license, results, PICTURE_FILE if record else None)
    adapter = _read(state / ADAPTER_CONFIG)
    kept: dict[str, Any] = {
        name: adapter[name] for name in ("r", "lora_alpha", "lora_dropout", "target_modules") if name in adapter
    }
    write_text(str(policy_card(facts, kept if adapter else None)), out / CARD_FILE)
    return written


def require_base_on_hub(folder: Path) -> None:
    """
    Refuses to push an adapter whose policy only lies here: nobody else could load it.

    Raises:
        InputError: naming that policy.
    """
    require_shared_base(_read(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))


def require_shared_base(base: str | None) -> None:
    """As [`require_base_on_hub`], for the place that an adapter's configuration names."""
    if base is not None and os.path.isabs(base):
        raise InputError(
            f"the adapter belongs to the policy in {base}, which is not on the Hub: push that first (hf-ptr push "
            f"{base} --repo-id …), and train with policy: its id"
        )


def push_checkpoint(
    checkpoint: Path, folder: Path, repo_id: str, *, strategy: str, revision: str | None, token: str | None
) -> Future:
    """
    Pushes a run as it is at a checkpoint, while the run goes on.

    Args:
        checkpoint: of the run.
        folder: of the run.
        repo_id: of a repository that is there.
        strategy: `hub_strategy`: whether the repository also gets the whole of the checkpoint, to go on from.
        revision: the branch; None for the main one.
        token: to write with; None for the one of `hf auth login` or HF_TOKEN.

    Returns:
        What becomes the commit. An error is logged: the push at the end of the training sends what is missing.
    """
    for left in folder.glob(f"{STAGING}*"):
        # Of a run that was killed while it pushed; those of pushes under way are locked by their number.
        if left.name.removeprefix(STAGING).partition("-")[0] != str(os.getpid()):
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{os.getpid()}-", dir=folder))
    card = write_card(folder, staging, repo_id, state=checkpoint)
    files = stage(checkpoint, folder, staging, checkpoint_name(strategy, checkpoint)) | card

    def push() -> str | None:
        try:
            step = checkpoint.name.rpartition("-")[2]
            message = f"Training in progress, step {step}"
            return push_files(files, repo_id, message=message, revision=revision, token=token)
        except InputError as error:
            logger.warning("the checkpoint could not be pushed, and the training goes on: %s", error)
            return None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    return HfApi().run_as_future(push)


def stage(checkpoint: Path, folder: Path, staging: Path, whole: str | None) -> dict[str, Path]:
    """
    Puts what is pushed of a checkpoint aside, where no later step of the training deletes or changes it.

    Args:
        checkpoint: of the run.
        folder: of the run.
        staging: a new folder on the same disk.
        whole: where the repository also gets all of the checkpoint, to go on from; None for not at all.

    Returns:
        The files, by path in the repository.
    """
    files = run_files(checkpoint)
    files |= {name: folder / name for name in RUN_FILES if (folder / name).is_file()}
    if whole is not None:
        files |= {
            f"{whole}/{path.relative_to(checkpoint).as_posix()}": path
            for path in sorted(checkpoint.rglob("*"))
            if path.is_file()
        }
    staged = {}
    for number, (name, path) in enumerate(files.items()):
        staged[name] = staging / str(number)
        try:
            os.link(path, staged[name])
        except OSError:
            # Another disk, or one without hard links.
            shutil.copyfile(path, staged[name])
    return staged


def checkpoint_name(strategy: str, checkpoint: Path) -> str | None:
    """Where `hub_strategy` wants the whole of a checkpoint in the repository."""
    return {"checkpoint": LAST_CHECKPOINT, "all_checkpoints": checkpoint.name}.get(strategy)


def read_results(file: str | Path, name: str) -> list[Result]:
    """
    The figures of a file that `hf-ptr evaluate --json` wrote.

    Args:
        file: the JSON.
        name: of the run's folder; a file with one checkpoint is taken as the run's whatever it is called.

    Raises:
        InputError: when the file is none, or does not hold the run.
    """
    told = _read(Path(file))
    arms = told.get("arms")
    if not isinstance(arms, dict) or not arms:
        raise InputError(f"{file} holds no results; write it with hf-ptr evaluate RUN --json FILE")
    arm = arms.get(name) or (next(iter(arms.values())) if len(arms) == 1 else None)
    if arm is None:
        raise InputError(f"{file} holds no results of {name}, but of {', '.join(arms)}")
    how = told.get("evaluation") or {}
    where = str(how.get("environment") or how.get("dataset") or "unknown")
    readable = {"metaworld": "Meta-World"}.get(where, where)
    details = {key: how[key] for key in ("seed", "max_steps", "episode_ids", "revision") if how.get(key) is not None}
    common: dict[str, Any] = {"where": readable, "dataset": where, "details": details}
    if "success" in arm:
        low, high = arm["interval"]
        return [Result("success_rate", arm["success"], (low, high), arm["episodes"], **common)]
    figures = [name for name in ("action_mae", "action_mse", "ratio_to_hold_state") if name in arm]
    return [
        Result(figure, arm[figure]["mean"], _pair(arm[figure]["interval"]), arm["episodes"], **common)
        for figure in figures
    ]


def _facts(
    folder: Path, state: Path, repo_id: str, license: str | None, results: str | Path | None, picture: str | None
) -> Facts:
    run, record = _read(state / RUN_FILE), _read(state / WEIGHTS_FILE)
    if results is None and (folder / EVALUATION_FILE).is_file():
        results = folder / EVALUATION_FILE
    base = run.get("base_model")
    shown = None if base is None else base["repo_id"]
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text("utf-8")) if (folder / RECIPE_FILE).is_file() else {}
    args = _read(state / ARGUMENTS_FILE)
    chosen = {key: value for key, value in recipe.items() if not key.startswith(("hub_", "push_", "output_"))}
    return Facts(
        repo_id=repo_id,
        method=_method(args, recipe) if args else "how is not recorded",
        data=run.get("data"),
        corruption=run.get("corruption"),
        settings={**chosen_settings(args), **_without_places(chosen)},
        weights=record or None,
        sources=[(name, part["share"], part["weight"]) for name, part in record.get("sources", {}).items()],
        steps=_steps(state),
        results=read_results(results, folder.name) if results is not None else (),
        versions=run.get("versions", {}),
        base_model=None if shown is None else (shown, bool(run.get("base_model_on_hub"))),
        license=license or run.get("base_license"),
        parts=[part for part in PARTS if (state / part).is_dir() and part != "ptr"],
        picture=picture,
    )


def _without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe without those that the card tells elsewhere, or that are folders of one machine."""
    return {key: value for key, value in recipe.items() if key not in ("dataset", "policy", "weights", "disable_tqdm")}


def _method(args: dict[str, Any], recipe: dict[str, Any]) -> str:
    alpha, tokens = args["alpha"], args["belief_tokens"]
    belief = f", with {tokens} belief tokens" if tokens else ""
    if alpha > 0 and args["scoring"] == "calibrated":
        return f"each chunk counts as much as calibrated scores say (α = {alpha:g}){belief}"
    if alpha > 0:
        how = "each chunk counts as much as what followed it can be identified, by the published score"
        return f"{how} (α = {alpha:g}){belief}"
    if recipe.get("weights"):
        return f"each chunk counts as much as a score file says{belief}"
    return f"supervised post-training in which every chunk counts alike{belief}"


def _steps(state: Path) -> str:
    told = _read(state / TRAINER_STATE_NAME)
    if not told:
        return "How long it trained is not recorded."
    last: dict[str, Any] = {}
    for entry in told.get("log_history", ()):
        last |= {name: entry[name] for name in TOLD if name in entry}
    figures = ", ".join(f"`{name}` {value:.4g}" for name, value in last.items())
    epochs = f" ({told['epoch']:.1f} epochs)" if told.get("epoch") else ""
    return f"{told['global_step']} optimiser steps{epochs}." + (f" At the last log: {figures}." if figures else "")


def _pair(interval: Any) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); train or evaluate again") from error
    return content if isinstance(content, dict) else {}
