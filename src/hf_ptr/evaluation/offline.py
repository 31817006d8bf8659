"""Held-out action error of a checkpoint on recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from hf_ptr.data.chunks import CameraImages
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.hub.datasets import pull_videos
from hf_ptr.metrics.statistics import action_mse, mean_interval
from hf_ptr.policies import VLAProcessor, load_for_robot, require_fits

SAMPLES = 16


@dataclass(frozen=True)
class ErrorTable:
    """
    Action errors by held-out episode, averaged over steps and dimensions, in raw action units.

    Attributes:
        episodes: episode ids.
        policy: `(E,)`, mean absolute error of the mean of [`SAMPLES`] sampled chunks, the point estimate of a policy
            that samples.
        squared: `(E,)`, mean squared error of the same estimate.
        sample: `(E,)`, mean absolute error of single sampled chunks.
        hold_position: `(E,)`, mean absolute error of the hold-position baseline, which repeats the current state as
            the action; None if state and action have different widths.
    """

    episodes: tuple[int, ...]
    policy: np.ndarray
    squared: np.ndarray
    sample: np.ndarray
    hold_position: np.ndarray | None

    def to_dict(self) -> dict[str, Any]:
        """Means with 95 % t-intervals over episodes, and the policy's error relative to the hold-position baseline."""
        result: dict[str, Any] = {
            "action_mae": mean_interval(self.policy),
            "action_mse": mean_interval(self.squared),
            "one_sample_mae": mean_interval(self.sample),
            "samples": SAMPLES,
            "episodes": len(self.episodes),
        }
        if self.hold_position is not None:
            result["hold_state_mae"] = mean_interval(self.hold_position)
            result["ratio_to_hold_state"] = mean_interval(self.policy / self.hold_position)
        return result

    def to_rich(self, title: str | None = None) -> Table:
        """Table for the terminal."""
        table = Table(title=title)
        table.add_column("episode")
        columns = [self.policy, self.sample]
        if self.hold_position is not None:
            columns += [self.hold_position, self.policy / self.hold_position]
        for name in ("policy error", "one sample", "hold position", "ratio")[: len(columns)]:
            table.add_column(name, justify="right")
        for row, number in enumerate(self.episodes):
            table.add_row(str(number), *(f"{column[row]:.4f}" for column in columns))
        table.add_section()
        for name in ("mean", "interval"):
            cells = [mean_interval(column) for column in columns]
            text = [f"{cell['mean']:.4f}" if name == "mean" else _interval_text(cell["interval"]) for cell in cells]
            table.add_row("mean" if name == "mean" else "95 % interval", *text)
        return table


def _interval_text(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def evaluate_dataset(
    checkpoint: str | Path, table: EpisodeTable, *, seed: int = 0, source: str | None = None
) -> ErrorTable:
    """
    Measure a policy's action error on recorded episodes.

    Every `n_action_steps` frames the policy receives the recorded observation, state and instruction and predicts a
    chunk. The whole chunk is compared with the recorded actions, up to the end of the episode.

    Args:
        checkpoint: folder of a saved policy.
        table: held-out episodes.
        seed: random seed of the policy's noise.
        source: source of a mixture whose robot recorded the episodes; default: the source with the dataset's name.
            Episodes are resampled to that robot's frame rate.

    Raises:
        InputError: `checkpoint` is not a checkpoint, or does not match the dataset.
    """
    policy, processor, robot = load_for_robot(str(checkpoint), source, (table.source, Path(table.source).name))
    config = policy.config
    if robot is not None:
        table = robot.resample(table, config.action_feature)
    require_fits(config, table, str(checkpoint))
    pull_videos(table, config.cameras)
    comparable = config.state_dim == config.action_dim
    errors = [
        _episode_error(policy, processor, table, episode, torch.Generator().manual_seed(seed + episode))
        for episode in range(len(table.lengths))
    ]
    return ErrorTable(
        episodes=tuple(table.episode_index.tolist()),
        policy=np.array([error.policy for error in errors]),
        squared=np.array([error.squared for error in errors]),
        sample=np.array([error.sample for error in errors]),
        hold_position=np.array([error.hold_position for error in errors]) if comparable else None,
    )


class _EpisodeError(NamedTuple):
    """Errors of one episode; fields as in [`ErrorTable`]."""

    policy: float
    squared: float
    sample: float
    hold_position: float


def _episode_error(
    policy: Any, processor: VLAProcessor, table: EpisodeTable, episode: int, generator: torch.Generator
) -> _EpisodeError:
    config = policy.config
    rows = slice(int(table.starts[episode]), int(table.starts[episode] + table.lengths[episode]))
    if not config.cameras:
        observation = np.concatenate([table.feature(name)[rows] for name in config.observation_features], axis=1)
    else:
        images = CameraImages(table, config.observation_features, config.image_resolution)
        observation = images[torch.arange(rows.start, rows.stop)].numpy()
    state, action = table.feature(config.state_feature)[rows], table.feature(config.action_feature)[rows]
    task = table.tasks[int(table.task_index[rows.start])]
    policy.reset()
    estimates, truth, sample_errors, hold_errors = [], [], [], []
    for frame in range(0, len(action), config.n_action_steps):
        # One row per sample, so that each carries its own belief tokens, as in a rollout.
        now = (np.repeat(array[frame : frame + 1], SAMPLES, axis=0) for array in (observation, state))
        chunks = policy.predict_action_chunk(processor([task] * SAMPLES, *now), generator).numpy()
        recorded = action[frame : frame + config.chunk_size]
        chunks = chunks[:, : len(recorded)]
        estimates.append(chunks.mean(axis=0))
        truth.append(recorded)
        sample_errors.append(np.abs(chunks - recorded).mean(axis=0))
        if state.shape[1] == action.shape[1]:
            hold_errors.append(np.abs(state[frame] - recorded))
    estimate, reference = np.concatenate(estimates), np.concatenate(truth)
    return _EpisodeError(
        policy=float(np.abs(estimate - reference).mean()),
        squared=action_mse(estimate, reference),
        sample=float(np.concatenate(sample_errors).mean()),
        hold_position=float(np.concatenate(hold_errors).mean()) if hold_errors else float("nan"),
    )


def compare(tables: dict[str, ErrorTable]) -> Table:
    """Table of the mean errors of several checkpoints."""
    shown = Table(title="held-out action error")
    shown.add_column("checkpoint")
    for name in ("policy error", "95 % interval", "hold position", "ratio"):
        shown.add_column(name, justify="right")
    for name, errors in tables.items():
        result = errors.to_dict()
        mine, interval = result["action_mae"], result["action_mae"]["interval"]
        hold: Sequence[str] = ("-", "-")
        if errors.hold_position is not None:
            hold = (f"{result['hold_state_mae']['mean']:.4f}", f"{result['ratio_to_hold_state']['mean']:.3f}")
        shown.add_row(name, f"{mine['mean']:.4f}", _interval_text(interval), *hold)
    return shown
