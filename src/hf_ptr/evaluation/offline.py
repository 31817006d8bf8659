"""Held-out action error of a checkpoint on recorded episodes, next to baselines that need no policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ptr.data.action_kind import action_kind
from hf_ptr.data.chunks import CameraImages
from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.features import component_names
from hf_ptr.errors import InputError
from hf_ptr.evaluation.episodes import AS_TRAINED, CARRIED, require_belief
from hf_ptr.hub.datasets import pull_videos
from hf_ptr.metrics.statistics import mean_interval, ratio_interval
from hf_ptr.policies import VLAProcessor, load_for_robot, require_fits
from hf_ptr.utils.progress import progress_bar

SAMPLES = 16
HOLD, MEAN, ZERO = "hold position", "mean action", "zero"


@dataclass(frozen=True)
class Errors:
    """
    Errors of one predictor by held-out episode and action dimension, averaged over steps, as stored in the dataset.

    Attributes:
        absolute: `(E, da)`, mean absolute error.
        squared: `(E, da)`, mean squared error.
    """

    absolute: np.ndarray
    squared: np.ndarray

    @property
    def mae(self) -> np.ndarray:
        """`(E,)`, mean absolute error over all dimensions."""
        return self.absolute.mean(axis=1)

    @property
    def mse(self) -> np.ndarray:
        """`(E,)`, mean squared error over all dimensions."""
        return self.squared.mean(axis=1)

    def relative_to(self, other: Errors) -> dict[str, Any]:
        """The ratio of the mean absolute errors over all episodes, as in [`ratio_interval`]."""
        return ratio_interval(self.mae, other.mae)


@dataclass(frozen=True)
class ErrorTable:
    """
    Action errors of a policy and of baselines, in raw action units.

    Attributes:
        episodes: episode ids.
        dimensions: names of the action's dimensions.
        estimate: errors of the mean of [`SAMPLES`] sampled chunks, the point estimate of a policy that samples.
        sample: errors of single sampled chunks.
        baselines: errors of predictors without a policy. `hold position` repeats the state at the start of the chunk,
            where actions are target positions; `mean action` is the mean of the reference episodes; `zero` is 0.
        undefined: the baselines that are not defined for this dataset, each with the reason.
        action_feature: the feature that the policy predicts.
        steps: number of predicted actions in each episode; those of overlapping chunks count several times.
    """

    episodes: tuple[int, ...]
    dimensions: tuple[str, ...]
    estimate: Errors
    sample: Errors
    baselines: dict[str, Errors]
    undefined: dict[str, str]
    action_feature: str
    steps: tuple[int, ...]

    @property
    def policy(self) -> np.ndarray:
        """`(E,)`, mean absolute error of the estimate."""
        return self.estimate.mae

    @property
    def best(self) -> str:
        """The baseline with the smallest error."""
        return min(self.baselines, key=lambda name: float(self.baselines[name].mae.mean()))

    @property
    def hold_position(self) -> np.ndarray | None:
        """`(E,)`, mean absolute error of the hold-position baseline; None where it is not defined."""
        return self.baselines[HOLD].mae if HOLD in self.baselines else None

    def ratio(self, baseline: str) -> np.ndarray:
        """`(E,)`, the policy's mean absolute error in units of a baseline's; NaN where the baseline has no error."""
        errors = self.baselines[baseline].mae
        return np.divide(self.policy, errors, out=np.full(len(errors), np.nan), where=errors > 0)

    def to_dict(self) -> dict[str, Any]:
        """
        Means with 95 % t-intervals over episodes, the errors of the baselines, and the errors by episode and by
        dimension. The ratio is that of the mean errors; it is left out where the baseline has none.
        """
        result: dict[str, Any] = {
            "action_mae": error_interval(self.policy),
            "action_mse": error_interval(self.estimate.mse),
            "one_sample_mae": error_interval(self.sample.mae),
            "samples": SAMPLES,
            "episodes": len(self.episodes),
        }
        if self.hold_position is not None:
            result["hold_state_mae"] = error_interval(self.hold_position)
            ratio = self.estimate.relative_to(self.baselines[HOLD])
            if not np.isnan(ratio["mean"]):
                result["ratio_to_hold_state"] = ratio
        result["baselines"] = {
            _key(name): {"mae": error_interval(errors.mae), "mse": error_interval(errors.mse)}
            for name, errors in self.baselines.items()
        } | {_key(name): {"undefined": reason} for name, reason in self.undefined.items()}
        result["by_episode"] = [
            {"episode": number, "mae": float(mae)} for number, mae in zip(self.episodes, self.policy, strict=True)
        ]
        result["dimensions"] = [
            {
                "name": name,
                "mae": float(self.estimate.absolute[:, number].mean()),
                "mse": float(self.estimate.squared[:, number].mean()),
                **{
                    f"{_key(baseline)}_mae": float(errors.absolute[:, number].mean())
                    for baseline, errors in self.baselines.items()
                },
            }
            for number, name in enumerate(self.dimensions)
        ]
        return result


def error_interval(errors: np.ndarray) -> dict[str, Any]:
    """[`mean_interval`] of errors, which are never below zero."""
    found = mean_interval(errors)
    if found["interval"] is not None:
        found["interval"] = [max(end, 0.0) for end in found["interval"]]
    return found


def _key(name: str) -> str:
    return name.replace(" ", "_")


def evaluate_dataset(
    checkpoint: str | Path,
    table: EpisodeTable,
    *,
    reference: EpisodeTable | None = None,
    seed: int = 0,
    source: str | None = None,
    belief: str = AS_TRAINED,
) -> ErrorTable:
    """
    Measure a policy's action error on recorded episodes.

    Every `n_action_steps` frames the policy receives the recorded observation, state and instruction and predicts a
    chunk. The whole chunk is compared with the recorded actions, up to the end of the episode.

    Args:
        checkpoint: folder of a saved policy.
        table: held-out episodes.
        reference: the episodes whose mean action is a baseline, those of the training; default: `table`.
        seed: random seed of the policy's noise.
        source: source of a mixture whose robot recorded the episodes; default: the source with the dataset's name.
            Episodes are resampled to that robot's frame rate.
        belief: as for [`evaluate_in`].

    Raises:
        InputError: `checkpoint` is not a checkpoint or does not match the dataset, or images cannot be read; its
            `skip` contains all episodes with such images.
    """
    require_belief(belief)
    policy, processor, robot = load_for_robot(str(checkpoint), source, (table.source, Path(table.source).name))
    if belief != AS_TRAINED:
        (policy if robot is None else policy.policy).carries_belief = belief == CARRIED
    config = policy.config
    reference = table if reference is None else reference
    if robot is not None:
        table, reference = (robot.resample(each, config.action_feature) for each in (table, reference))
    require_fits(config, table, str(checkpoint))
    vectors = [name for name in config.observation_features if name not in config.cameras]
    table.require_finite([*vectors, config.state_feature, config.action_feature])
    pull_videos(table, config.cameras)
    kind = action_kind(table, config.state_feature, config.action_feature)
    mean_action = reference.feature(config.action_feature).mean(axis=0, dtype=np.float64)
    episodes = []
    with progress_bar() as progress:
        # By chunk: a long episode takes minutes.
        chunks = int(np.ceil(table.lengths / config.n_action_steps).sum())
        bar = progress.add_task(f"evaluating {Path(checkpoint).name}, chunks:", total=chunks)
        done = partial(progress.advance, bar)
        for episode in range(len(table.lengths)):
            try:
                episodes.append(
                    _episode_errors(policy, processor, table, episode, seed, mean_action, kind.is_position, done)
                )
            except InputError as error:
                if error.skip and config.cameras:
                    _require_images(table, config, range(episode, len(table.lengths)))
                raise
    names = (HOLD, MEAN, ZERO) if kind.is_position else (MEAN, ZERO)
    found = {
        name: Errors(*(np.stack([episode[name][part] for episode in episodes]) for part in (0, 1)))
        for name in ("policy", "sample", *names)
    }
    feature = table.features.get(config.action_feature)
    return ErrorTable(
        episodes=tuple(table.episode_index.tolist()),
        dimensions=tuple(component_names(feature) or (str(number) for number in range(len(mean_action)))),
        estimate=found["policy"],
        sample=found["sample"],
        baselines={name: found[name] for name in names},
        undefined={} if kind.is_position else {HOLD: kind.reason},
        action_feature=config.action_feature,
        steps=tuple(_steps(length, config.n_action_steps, config.chunk_size) for length in table.lengths.tolist()),
    )


def _steps(length: int, every: int, chunk: int) -> int:
    """The actions that chunks from every `every`-th frame predict, up to the end of an episode."""
    return sum(min(chunk, length - frame) for frame in range(0, length, every))


def _require_images(table: EpisodeTable, config: Any, episodes: Iterable[int]) -> None:
    """
    Reads the images of all episodes at these positions, to name every unusable one at once.

    Raises:
        InputError: some cannot be read; the first is quoted.
    """
    found: list[InputError] = []
    for episode in episodes:
        try:
            # Alone: a camera without the videos of several episodes is refused as a whole.
            _images(table.select([int(table.episode_index[episode])]), config, 0)
        except InputError as error:
            found.append(error)
    skip = {episode for error in found for episode in error.skip}
    if len(skip) > 1:
        every = skip >= set(table.episode_index.tolist())
        raise InputError(
            f"{len(skip)} of {table.num_episodes} episodes of {table.source!r} have images that cannot be read "
            f"({episode_ranges(skip)}), the first: {found[0]}",
            skip=() if every else sorted(skip),
        )


def _images(table: EpisodeTable, config: Any, episode: int) -> np.ndarray:
    """The images of the episode at a position, `(frames, cameras, height, width, 3)` uint8."""
    rows = torch.arange(int(table.starts[episode]), int(table.starts[episode] + table.lengths[episode]))
    return CameraImages(table, config.observation_features, config.image_resolution)[rows].numpy()


def _episode_errors(
    policy: Any,
    processor: VLAProcessor,
    table: EpisodeTable,
    episode: int,
    seed: int,
    mean_action: np.ndarray,
    is_position: bool,
    done: Callable[[], None],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """
    The mean absolute and mean squared error of each predictor in one episode, each `(da,)`; `done` is called after
    each chunk.
    """
    config, generator = policy.config, torch.Generator().manual_seed(seed + episode)
    rows = slice(int(table.starts[episode]), int(table.starts[episode] + table.lengths[episode]))
    if not config.cameras:
        observation = np.concatenate([table.feature(name)[rows] for name in config.observation_features], axis=1)
    else:
        observation = _images(table, config, episode)
    state, action = table.feature(config.state_feature)[rows], table.feature(config.action_feature)[rows]
    task = table.tasks[int(table.task_index[rows.start])]
    policy.reset()
    # By predictor, the differences to the recorded actions of each chunk, `(samples, steps, da)`.
    differences: dict[str, list[np.ndarray]] = {"policy": [], "sample": [], MEAN: [], ZERO: []}
    if is_position:
        differences[HOLD] = []
    for frame in range(0, len(action), config.n_action_steps):
        # One row per sample, so that each carries its own belief tokens, as in a rollout.
        now = (np.repeat(array[frame : frame + 1], SAMPLES, axis=0) for array in (observation, state))
        chunks = policy.predict_action_chunk(processor([task] * SAMPLES, *now), generator).numpy()
        recorded = action[frame : frame + config.chunk_size].astype(np.float64)
        chunks = chunks[:, : len(recorded)]
        differences["policy"].append(chunks.mean(axis=0, keepdims=True) - recorded)
        differences["sample"].append(chunks - recorded)
        differences[MEAN].append((mean_action - recorded)[None])
        differences[ZERO].append(-recorded[None])
        if is_position:
            differences[HOLD].append((state[frame] - recorded)[None])
        done()
    return {
        name: (
            np.concatenate([np.abs(part).mean(axis=0) for part in parts]).mean(axis=0),
            np.concatenate([np.square(part).mean(axis=0) for part in parts]).mean(axis=0),
        )
        for name, parts in differences.items()
    }
