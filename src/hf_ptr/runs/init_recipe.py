"""A recipe for a dataset: its features, sizes and steps follow from the data, each with the reason as a comment."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.action_kind import action_kind
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episode_ids import episode_ranges, episode_text
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.features import ACTION, STATE
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import Validation, validate_dataset, validate_videos
from hf_ptr.errors import InputError
from hf_ptr.hub.datasets import load_dataset
from hf_ptr.hub.repos import dataset_folder, origin, parse_hub_dataset
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.feature_scale import feature_scale

# Half a second: 15 frames at 30 frames per second, near the 16 of the recipes for Unitree G1.
CHUNK_SECONDS = 0.5
MIN_CHUNK = 4
# Every tenth episode is held out.
HELD_OUT_EVERY = 10
# Passes over the data, and the bounds of the steps that follow from them.
EPOCHS, MIN_STEPS, MAX_STEPS = {"vectors": 20, "cameras": 10}, 200, 50_000
BATCH = {"vectors": 128, "cameras": 32}
# With fewer training episodes, the calibrated score flags good episodes as well (docs/calibrated.md).
MIN_CALIBRATED = 20
# A camera with errors in more than this share of the episodes is left out, not the episodes.
CAMERA_ERRORS = 0.2


@dataclass(frozen=True)
class Choice:
    """
    What to use of a dataset; None stands for what the data suggest.

    Attributes:
        state, action: names of the features; several are joined by commas.
        state_only: whether to observe the state without cameras.
        episodes: ids of the episodes to use.
        skip: ids of the episodes to leave out.
    """

    state: str = STATE
    action: str = ACTION
    state_only: bool = False
    episodes: Sequence[int] | None = None
    skip: Collection[int] = ()


def init_recipe(dataset: str, choice: Choice | None = None) -> str:
    """
    A recipe that trains a new policy on a dataset.

    Args:
        dataset: path, `user/name` or `user/name@revision`.
        choice: what to use of it.

    Returns:
        The YAML text. Every value has its reason as a comment.

    Raises:
        InputError: the dataset cannot be read, lacks the state or the action, or no episode is usable.
    """
    choice = choice or Choice()
    folder = dataset_folder(dataset)
    table, skip, notes = _usable(folder, choice)
    cameras = [] if choice.state_only else list(table.videos)
    if cameras and origin(folder) is None:
        cameras, unusable = _cameras(folder, cameras, choice, skip, notes)
        if unusable:
            skip |= unusable
            table = load_dataset(folder, choice.episodes, skip=sorted(skip))
    observation = cameras or [name.strip() for name in choice.state.split(",")]
    for feature, option in ((choice.state, "--state"), (choice.action, "--action")):
        _require(table, feature, option)
    cut: dict[str, Any] = _chunks(table)
    if not cameras:
        # The vectors that a run reads have to be finite; other episodes are left out like damaged ones.
        try:
            ChunkDataset(
                table,
                chunk_size=cut["chunk_size"],
                target_offset=cut["target_offset"],
                observation_features=observation,
                state_feature=choice.state,
                action_feature=choice.action,
            )
        except InputError as error:
            if not error.skip or set(error.skip) >= set(table.episode_index.tolist()):
                raise
            notes.append(str(error))
            skip |= set(error.skip)
            table = load_dataset(folder, choice.episodes, skip=sorted(skip))
            cut = _chunks(table)
    return _text(dataset, table, choice, observation, bool(cameras), cut, skip, notes)


def _usable(folder: Path, choice: Choice) -> tuple[EpisodeTable, set[int], list[str]]:
    """The usable episodes, the ids of the others, and notes why these are left out."""
    used = (choice.state, choice.action)
    found = validate_dataset(
        folder, episodes=choice.episodes, skip=choice.skip, features=used, cameras=(), decode=False
    )
    if not found.usable and found.skippable is None:
        require_usable(found, choice.skip)
    skip = {*choice.skip, *(found.skippable or ())}
    notes = _first_errors(found)
    return load_dataset(folder, choice.episodes, skip=sorted(skip)), skip, notes


def _first_errors(found: Validation, most: int = 5) -> list[str]:
    lines = [str(error).removeprefix("error: ") for error in found.errors[:most]]
    more = len(found.errors) - most
    return [*lines, f"{more} more: hf-ptr validate lists them"] if more > 0 else lines


def _cameras(
    folder: Path, cameras: Sequence[str], choice: Choice, skip: Collection[int], notes: list[str]
) -> tuple[list[str], set[int]]:
    """The usable cameras, and the episodes to leave out for them."""
    kept, unusable = [], set[int]()
    for camera, found in validate_videos(folder, cameras, episodes=choice.episodes, skip=skip).items():
        if not found.usable and (found.skippable is None or len(found.skippable) > CAMERA_ERRORS * found.episodes):
            notes.append(f"camera {camera} is not observed: {_first_errors(found)[0]}")
            continue
        kept.append(camera)
        unusable |= set(found.skippable or ()) if not found.usable else set()
        notes += _first_errors(found)
    return kept, unusable


def _require(table: EpisodeTable, feature: str, option: str) -> None:
    try:
        table.feature(feature)
    except InputError as error:
        vectors = ", ".join(f"{name} ({column.shape[1]})" for name, column in table.columns.items())
        raise InputError(f"{error}; name it with {option}, several joined by commas: {vectors}") from error


def _chunks(table: EpisodeTable) -> dict[str, int]:
    """Chunk length and Δ in frames: a constant time, but at most half of a typical episode."""
    wanted = max(MIN_CHUNK, round(CHUNK_SECONDS * table.fps))
    size = max(1, min(wanted, int(np.median(table.lengths)) // 2))
    return {"chunk_size": size, "target_offset": size}


def _held_out(ids: Sequence[int], listed: Sequence[int]) -> list[int]:
    """
    Every tenth episode from the fifth on, at least one; none of a single episode.

    Episodes that are left out are counted, too, so that runs with and without them are evaluated on the same ones.

    Args:
        ids: the episodes that are used.
        listed: the same with those that are left out.
    """
    if len(ids) < 2:
        return []
    used = set(ids)
    return [number for number in listed[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY] if number in used] or [ids[-1]]


def _text(
    dataset: str,
    table: EpisodeTable,
    choice: Choice,
    observation: list[str],
    cameras: bool,
    cut: dict[str, int],
    skip: Collection[int],
    notes: Sequence[str],
) -> str:
    repo = parse_hub_dataset(dataset)
    name = (Path(dataset).resolve().name if repo is None else repo.name.rpartition("/")[2]) or "data"
    listed = sorted({*table.episode_index.tolist(), *skip} if choice.episodes is None else set(choice.episodes))
    held_out = _held_out(table.episode_index.tolist(), listed)
    training = table.num_episodes - len(held_out)
    frames = int(table.lengths[~np.isin(table.episode_index, held_out)].sum())
    kind, chunk = ("cameras" if cameras else "vectors"), cut["chunk_size"]
    batch = min(BATCH[kind], 2 ** int(math.log2(max(1, frames // 10))))
    steps = min(max(round(EPOCHS[kind] * frames / batch), MIN_STEPS), MAX_STEPS)
    position = action_kind(table, choice.state, choice.action)
    state, tasks = table.feature(choice.state), len(set(table.task_index.tolist()))
    instructions = "1 instruction" if tasks == 1 else f"{tasks} instructions"
    lines: list[tuple[str, Any, str] | str] = [
        f"# Recipe for {name}, written by hf-ptr init: {table.num_episodes} episodes, {table.num_frames} frames at "
        f"{table.fps:g} per second, {instructions}.\n"
        f"#   hf-ptr train THIS_FILE --dry-run\n#   hf-ptr train THIS_FILE",
        ("output_dir", f"runs/{name}", "the folder of the run"),
        "# Data",
        ("dataset", dataset, ""),
    ]
    if choice.episodes is not None:
        less = {*held_out, *skip}.intersection(choice.episodes)
        why = "--episodes, without those that are held out or left out" if less else "--episodes"
        lines.append(("episodes", episode_text(_without(choice.episodes, less)), why))
    lines += [f"#   {note}" for note in notes]
    if skip:
        lines.append(("skip_episodes", episode_ranges(skip), _why_skipped(skip, set(choice.skip))))
    if held_out:
        why = "every tenth episode" if len(held_out) > 1 else "one episode"
        lines.append(("eval_episodes", episode_ranges(held_out), f"{why} held out, for eval_loss and hf-ptr evaluate"))
    vectors = [f"{each} ({column.shape[1]})" for each, column in table.columns.items() if each != choice.action]
    lines += [
        (
            "observation_features",
            observation,
            "the cameras; hf-ptr init --state-only leaves them out" if cameras else f"vectors: {', '.join(vectors)}",
        ),
        ("state_feature", choice.state, f"{state.shape[1]} dimensions"),
        ("action_feature", choice.action, f"{table.feature(choice.action).shape[1]} dimensions"),
        ("target_offset", chunk, "Δ in frames: the next observation is the one after the chunk"),
        "# Policy: a new native policy",
    ]
    if cameras:
        lines.append(("size", "tiny", "a small residual network for images of 96 pixels; or: small"))
    lines += [
        ("chunk_size", chunk, f"{chunk / table.fps:.2g} s at {table.fps:g} frames per second"),
        ("n_action_steps", max(1, chunk // 2), "half of a chunk is executed before the next one is predicted"),
        ("relative_actions", position.is_position, position.reason),
    ]
    floor, resting = _min_std(table, choice.state)
    if resting:
        lines.append(("min_std", floor, f"{resting} of {state.shape[1]} state dimensions rest, below this"))
    lines += [
        "# Optimisation",
        ("max_steps", steps, f"{steps * batch / frames:.0f} passes over {frames} chunks"),
        ("per_device_train_batch_size", batch, ""),
        ("learning_rate", 1e-3, ""),
        ("warmup_steps", 0.05, "a share of the steps, whatever max_steps is"),
        ("logging_steps", max(1, steps // 40), ""),
        ("save_steps", max(1, steps // 4), ""),
        ("seed", 0, ""),
    ]
    if training >= MIN_CALIBRATED:
        lines += [
            "# Weights: fitted on these episodes before the first step (docs/calibrated.md). With a score file:\n"
            "# weights: scores.parquet; nothing is fitted then",
            ("scoring", "calibrated", ""),
            ("alpha", 1.0, "strength of the fitted weights, 0 for equal ones; not read with weights: FILE"),
        ]
    else:
        lines += [
            f"# Weights: equal, since {training} training episodes are too few for the calibrated score (at least "
            f"{MIN_CALIBRATED});\n# to use a score file: weights: scores.parquet",
            ("alpha", 0.0, "equal weights"),
        ]
    lines.append(("belief_tokens", 0, "0: plain chunks; 4: belief tokens of the paper"))
    return "".join(_yaml(line) for line in lines)


def _why_skipped(skip: Collection[int], chosen: Collection[int]) -> str:
    """The comment of `skip_episodes`: which the user chose, and which are unusable, with notes above."""
    unusable = {*skip} - {*chosen}
    if not unusable:
        return "--skip-episodes"
    if not chosen:
        return "not usable, see above"
    return f"--skip-episodes, and {episode_ranges(unusable)} not usable, see above"


def _without(ids: Sequence[int], out: Collection[int]) -> str:
    return episode_ranges([number for number in ids if number not in out])


def _yaml(line: tuple[str, Any, str] | str) -> str:
    if isinstance(line, str):
        # The heading of a part follows an empty line; notes are indented.
        return f"{line}\n" if line.startswith(("#   ", "# Recipe")) else f"\n{line}\n"
    key, value, comment = line
    # JSON is YAML, and quotes what YAML would read as a number or a time.
    text = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    return f"{text}  # {' '.join(comment.split())}\n" if comment else f"{text}\n"


def _min_std(table: EpisodeTable, state: str) -> tuple[float, int]:
    """
    A bound on the standard deviation for normalising the state, and the number of dimensions below it that are not
    constant: those at rest, whose small deviations would become large inputs. Rest is defined as for the score; the
    bound does not exceed the standard deviation of any dimension that moves.
    """
    resting = np.isinf(feature_scale(table, state, ScoreConfig(), observed=True)["std"])
    deviation = table.feature(state).std(axis=0, dtype=np.float64)
    constant = deviation <= 1e-4
    if not (resting & ~constant).any():
        return 0.0, 0
    least = float(deviation[~resting].min())
    unit = 10.0 ** math.floor(math.log10(least))
    floor = float(f"{math.floor(least / unit) * unit:.1g}")
    return floor, int((resting & ~constant & (deviation < floor)).sum())
