"""The card of a run, filled from what its folder tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers.trainer import TRAINER_STATE_NAME

from hf_ptr.errors import InputError
from hf_ptr.hub.cards import MADE_BY, Facts, Result, component_card, policy_card
from hf_ptr.hub.plots import HISTOGRAM_FILE, save_weight_histogram
from hf_ptr.hub.push import PARTS, without_local_paths
from hf_ptr.policies.lora import ADAPTER_CONFIG
from hf_ptr.training.provenance import RECIPE_FILE, RUN_FILE, chosen_settings
from hf_ptr.training.ptr_config import ARGUMENTS_FILE
from hf_ptr.training.weight_record import WEIGHTS_FILE
from hf_ptr.utils.atomic_files import write_text

EVALUATION_FILE = "evaluation.json"
CARD_FILE = "README.md"
# What the card tells of the last log.
TOLD = ("loss", "loss_action", "nce_acc", "ptr_score", "weight_mean", "ess", "eval_loss")
ADAPTER_SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules")
# Of a recipe, what the card tells elsewhere, or what says where and not what.
TOLD_ELSEWHERE = ("hub_", "push_", "output_", "dataset", "weights", "disable_tqdm", "resume_", "sources")


def write_card(
    folder: Path,
    out: Path,
    repo_id: str,
    *,
    said: Mapping[str, Any] | None = None,
    results: str | Path | None = None,
    state: Path | None = None,
) -> dict[str, Path]:
    """
    Writes a run's card and its picture; a card that somebody wrote is left as it is.

    Args:
        folder: of the run, or a component's within it.
        out: the folder to write to.
        repo_id: where it is pushed.
        said: what the run does not know: `license`, `language`, `tags`.
        results: what `hf-ptr evaluate --json` wrote; the run's own `evaluation.json` by default.
        state: the folder whose training state is told of; the run's own by default.

    Returns:
        What was written, by name.
    """
    mine = folder / CARD_FILE
    if mine.is_file() and MADE_BY not in mine.read_text(encoding="utf-8"):
        return {}
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type in ("ptr_transition_scorer", "ptr_belief_tokenizer"):
        run = folder.parent if (folder.parent / RUN_FILE).is_file() else folder
        card: Any = component_card(_facts(run, run, repo_id, said, None, None), read_json(folder / "config.json"))
        write_text(str(card), out / CARD_FILE)
        return {CARD_FILE: out / CARD_FILE}
    state = folder if state is None else state
    written = {CARD_FILE: out / CARD_FILE}
    record = read_json(state / WEIGHTS_FILE)
    if record:
        edges = np.linspace(record["low"], record["high"], len(record["counts"]) + 1)
        save_weight_histogram(edges, record["counts"], out / HISTOGRAM_FILE)
        written[HISTOGRAM_FILE] = out / HISTOGRAM_FILE
    facts = _facts(folder, state, repo_id, said, results_of(folder, results), HISTOGRAM_FILE if record else None)
    adapter = read_json(state / ADAPTER_CONFIG)
    kept: dict[str, Any] = {name: adapter[name] for name in ADAPTER_SETTINGS if name in adapter}
    write_text(str(policy_card(facts, kept if adapter else None)), out / CARD_FILE)
    return written


def results_of(folder: Path, given: str | Path | None) -> str | Path | None:
    """Where the figures of a run stand: what is given, or else what lies in its folder; None for nowhere."""
    own = folder / EVALUATION_FILE
    return own if given is None and own.is_file() else given


def read_results(file: str | Path, name: str) -> list[Result]:
    """
    The figures of a file that `hf-ptr evaluate --json` wrote.

    Args:
        file: the JSON.
        name: of the run's folder; a file with one checkpoint is taken as the run's whatever it is called.

    Raises:
        InputError: when the file is none, or does not hold the run.
    """
    told = without_local_paths(read_json(Path(file)))
    arms = told.get("arms")
    if not isinstance(arms, dict) or not arms:
        raise InputError(f"{file} holds no results; write it with hf-ptr evaluate RUN --json FILE")
    arm = arms.get(name) or (next(iter(arms.values())) if len(arms) == 1 else None)
    if arm is None:
        raise InputError(f"{file} holds no results of {name}, but of {', '.join(arms)}")
    how = told.get("evaluation") or {}
    where = str(how.get("environment") or how.get("dataset") or "unknown")
    readable = {"metaworld": "Meta-World", "libero": "LIBERO", "robocasa": "RoboCasa"}.get(where, where)
    told_of = ("suite", "seed", "max_steps", "episode_ids", "revision")
    details = {key: how[key] for key in told_of if how.get(key) is not None}
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
    said: Mapping[str, Any] | None,
    results: str | Path | None,
    picture: str | None,
) -> Facts:
    given = {key: value for key, value in (said or {}).items() if value}
    tags = given.get("tags", ())
    run, record = read_json(state / RUN_FILE), read_json(state / WEIGHTS_FILE)
    base = run.get("base_model")
    shown = None if base is None else base["repo_id"]
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text("utf-8")) if (folder / RECIPE_FILE).is_file() else {}
    args = read_json(state / ARGUMENTS_FILE)
    chosen = {key: value for key, value in recipe.items() if key != "policy" and not key.startswith(TOLD_ELSEWHERE)}
    return Facts(
        repo_id=repo_id,
        method=_method(args, recipe) if args else "how is not recorded",
        data=run.get("data"),
        corruption=run.get("corruption"),
        settings=without_local_paths(chosen_settings(args) | chosen),
        weights=record or None,
        sources=[(name, part["share"], part["weight"]) for name, part in record.get("sources", {}).items()],
        steps=_steps(state),
        results=read_results(results, folder.name) if results is not None else (),
        versions=run.get("versions", {}),
        base_model=None if shown is None else (shown, bool(run.get("base_model_on_hub"))),
        license=given.get("license") or run.get("base_license"),
        language=given.get("language"),
        tags=[tags] if isinstance(tags, str) else tags,
        parts=[part for part in PARTS if (state / part).is_dir() and part != "ptr"],
        picture=picture,
    )


def _method(args: dict[str, Any], recipe: dict[str, Any]) -> str:
    alpha, tokens = args["alpha"], args["belief_tokens"]
    belief = f", with {tokens} belief tokens" if tokens else ""
    if alpha > 0 and args["scoring"] == "calibrated":
        return f"each chunk counts as much as calibrated scores say (α = {alpha:g}){belief}"
    if alpha > 0:
        how = "each chunk counts as much as what followed it can be identified, by the published score"
        return f"{how} (α = {alpha:g}){belief}"
    if recipe.get("weights") or any(source.get("weights") for source in recipe.get("sources") or ()):
        return f"each chunk counts as much as a score file says{belief}"
    return f"supervised post-training in which every chunk counts alike{belief}"


def _steps(state: Path) -> str:
    told = read_json(state / TRAINER_STATE_NAME)
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


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); train or evaluate again") from error
    return content if isinstance(content, dict) else {}
