"""The model card of a run, filled from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers.trainer import TRAINER_STATE_NAME

from hf_ptr.errors import InputError
from hf_ptr.hub.cards import GENERATED, CardFacts, Result, component_card, policy_card
from hf_ptr.hub.plots import HISTOGRAM_FILE, save_weight_histogram
from hf_ptr.hub.push import PARTS, without_local_paths
from hf_ptr.policies.lora import ADAPTER_CONFIG
from hf_ptr.training.provenance import RECIPE_FILE, RUN_FILE, chosen_settings
from hf_ptr.training.ptr_config import ARGUMENTS_FILE
from hf_ptr.training.weight_record import WEIGHTS_FILE
from hf_ptr.utils.atomic_files import write_text

EVALUATION_FILE = "evaluation.json"
CARD_FILE = "README.md"
# Metrics of the last log that the card shows.
LOGGED = ("loss", "loss_action", "nce_acc", "ptr_score", "weight_mean", "ess", "eval_loss")
ADAPTER_SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules")
# Prefixes of recipe keys that the settings table leaves out: shown elsewhere on the card, or only paths.
NOT_IN_TABLE = ("hub_", "push_", "output_", "dataset", "weights", "disable_tqdm", "resume_", "sources")


def write_card(
    folder: Path,
    out: Path,
    repo_id: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    results: str | Path | None = None,
    state: Path | None = None,
) -> dict[str, Path]:
    """
    Writes the card of a run and its weight histogram. A card that was written by hand stays unchanged.

    Args:
        folder: the folder of the run, or of a component within it.
        out: the folder to write to.
        repo_id: the repository on the Hub.
        metadata: card metadata that the run does not record: `license`, `language`, `tags`.
        results: JSON from `hf-ptr evaluate --json`; default: `evaluation.json` in the run's folder.
        state: the folder of the training state that the card describes; default: the run's folder.

    Returns:
        The written files by name.

    Raises:
        InputError: a file of the run is damaged, or the results do not contain the run.
    """
    mine = folder / CARD_FILE
    if mine.is_file() and GENERATED not in mine.read_text(encoding="utf-8"):
        return {}
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type in ("ptr_transition_scorer", "ptr_belief_tokenizer"):
        run = folder.parent if (folder.parent / RUN_FILE).is_file() else folder
        card: Any = component_card(_facts(run, run, repo_id, metadata, None, None), read_json(folder / "config.json"))
        write_text(str(card), out / CARD_FILE)
        return {CARD_FILE: out / CARD_FILE}
    state = folder if state is None else state
    written = {CARD_FILE: out / CARD_FILE}
    record = read_json(state / WEIGHTS_FILE)
    if record:
        edges = np.linspace(record["low"], record["high"], len(record["counts"]) + 1)
        save_weight_histogram(edges, record["counts"], out / HISTOGRAM_FILE)
        written[HISTOGRAM_FILE] = out / HISTOGRAM_FILE
    facts = _facts(folder, state, repo_id, metadata, results_of(folder, results), HISTOGRAM_FILE if record else None)
    adapter = read_json(state / ADAPTER_CONFIG)
    kept: dict[str, Any] = {name: adapter[name] for name in ADAPTER_SETTINGS if name in adapter}
    write_text(str(policy_card(facts, kept if adapter else None)), out / CARD_FILE)
    return written


def results_of(folder: Path, given: str | Path | None) -> str | Path | None:
    """The results file of a run: the given one, else the one in its folder; None if there is neither."""
    own = folder / EVALUATION_FILE
    return own if given is None and own.is_file() else given


def read_results(file: str | Path, name: str) -> list[Result]:
    """
    Reads the results of a run from a file that `hf-ptr evaluate --json` wrote.

    Args:
        file: the JSON file.
        name: the name of the run's folder. If the file contains only one checkpoint, its name does not matter.

    Raises:
        InputError: the file contains no results, or none of this run.
    """
    content = without_local_paths(read_json(Path(file)))
    arms = content.get("arms")
    if not isinstance(arms, dict) or not arms:
        raise InputError(f"{file} contains no results; write it with hf-ptr evaluate RUN --json FILE")
    arm = arms.get(name) or (next(iter(arms.values())) if len(arms) == 1 else None)
    if arm is None:
        raise InputError(f"{file} contains no results of {name}, only of {', '.join(arms)}; evaluate {name}")
    how = content.get("evaluation") or {}
    where = str(how.get("environment") or how.get("dataset") or "unknown")
    readable = {"metaworld": "Meta-World", "libero": "LIBERO", "robocasa": "RoboCasa"}.get(where, where)
    described = ("suite", "seed", "max_steps", "episode_ids", "revision")
    details = {key: how[key] for key in described if how.get(key) is not None}
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
    folder: Path,
    state: Path,
    repo_id: str,
    metadata: Mapping[str, Any] | None,
    results: str | Path | None,
    histogram: str | None,
) -> CardFacts:
    given = {key: value for key, value in (metadata or {}).items() if value}
    tags = given.get("tags", ())
    run, record = read_json(state / RUN_FILE), read_json(state / WEIGHTS_FILE)
    base = run.get("base_model")
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text("utf-8")) if (folder / RECIPE_FILE).is_file() else {}
    args = read_json(state / ARGUMENTS_FILE)
    chosen = {key: value for key, value in recipe.items() if key != "policy" and not key.startswith(NOT_IN_TABLE)}
    return CardFacts(
        repo_id=repo_id,
        method=_method(args, recipe) if args else "the method is not recorded",
        data=run.get("data"),
        corruption=run.get("corruption"),
        settings=without_local_paths(chosen_settings(args) | chosen),
        weights=record or None,
        sources=[(name, part["share"], part["weight"]) for name, part in record.get("sources", {}).items()],
        steps=_steps(state),
        results=read_results(results, folder.name) if results is not None else (),
        versions=run.get("versions", {}),
        base_model=None if base is None else (base["repo_id"], bool(run.get("base_model_on_hub"))),
        license=given.get("license") or run.get("base_license"),
        language=given.get("language"),
        tags=[tags] if isinstance(tags, str) else tags,
        parts=[part for part in PARTS if (state / part).is_dir() and part != "ptr"],
        histogram=histogram,
    )


def _method(args: dict[str, Any], recipe: dict[str, Any]) -> str:
    alpha, tokens = args["alpha"], args["belief_tokens"]
    belief = f", with {tokens} belief tokens" if tokens else ""
    if alpha > 0 and args["scoring"] == "calibrated":
        return f"the loss of each chunk is weighted by the calibrated label-free score (α = {alpha:g}){belief}"
    if alpha > 0:
        return f"the loss of each chunk is weighted by the PTR score, as published (α = {alpha:g}){belief}"
    if recipe.get("weights") or any(source.get("weights") for source in recipe.get("sources") or ()):
        return f"the loss of each chunk is weighted by a score file{belief}"
    return f"supervised post-training; all chunks have the same weight{belief}"


def _steps(state: Path) -> str:
    trained = read_json(state / TRAINER_STATE_NAME)
    if not trained:
        return "The number of training steps is not recorded."
    last: dict[str, Any] = {}
    for entry in trained.get("log_history", ()):
        last |= {name: entry[name] for name in LOGGED if name in entry}
    figures = ", ".join(f"`{name}` {value:.4g}" for name, value in last.items())
    epochs = f" ({trained['epoch']:.1f} epochs)" if trained.get("epoch") else ""
    return f"{trained['global_step']} optimiser steps{epochs}." + (f" At the last log: {figures}." if figures else "")


def _pair(interval: Any) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file does not exist."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); train or evaluate again") from error
    return content if isinstance(content, dict) else {}
