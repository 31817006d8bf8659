"""Held-out action error of a checkpoint on recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from scipy import stats

from hf_ptr.data.chunks import CameraImages
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.hub.repos import pull_videos
from hf_ptr.metrics.figures import action_mse
from hf_ptr.policies import VLAProcessor, load_for_robot, require_fits

SAMPLES = 16


@dataclass(frozen=True)
class ErrorTable:
    """
    Mean absolute action errors by held-out episode, in raw action units, averaged over steps and dimensions.

    Attributes:
        episodes: ids.
        policy: `(E,)`, of the mean of several sampled chunks: the best guess of a policy that samples.
        squared: `(E,)`, the mean squared error of that guess.
        sample: `(E,)`, of one sampled chunk.
        hold: `(E,)`, of repeating the present state as the action, or None where states are no actions.
    """

    episodes: tuple[int, ...]
    policy: np.ndarray
    squared: np.ndarray
    sample: np.ndarray
    hold: np.ndarray | None

    def to_dict(self) -> dict[str, Any]:
        """Means with 95 % t-intervals over episodes, and the ratio of the policy's error to that of holding."""
        result: dict[str, Any] = {
            "action_mae": _summary(self.policy),
            "action_mse": _summary(self.squared),
            "one_sample_mae": _summary(self.sample),
            "samples": SAMPLES,
            "episodes": len(self.episodes),
        }
        if self.hold is not None:
            result["hold_state_mae"] = _summary(self.hold)
            result["ratio_to_hold_state"] = _summary(self.policy / self.hold)
        return result

    def to_rich(self, title: str | None = None) -> Table:
        """For the terminal."""
        table = Table(title=title)
        table.add_column("episode")
        columns = [self.policy, self.sample]
        if self.hold is not None:
            columns += [self.hold, self.policy / self.hold]
        for name in ("policy error", "of one sample", "repeat the state", "ratio")[: len(columns)]:
            table.add_column(name, justify="right")
        for row, number in enumerate(self.episodes):
            table.add_row(str(number), *(f"{column[row]:.4f}" for column in columns))
        table.add_section()
        for name in ("mean", "interval"):
            cells = [_summary(column) for column in columns]
            text = [f"{cell['mean']:.4f}" if name == "mean" else _interval_text(cell["interval"]) for cell in cells]
            table.add_row("mean" if name == "mean" else "95 % interval", *text)
        return table


def _interval_text(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _summary(values: np.ndarray) -> dict[str, Any]:
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "interval": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "interval": [mean - half, mean + half]}


def evaluate_dataset(
    checkpoint: str | Path, table: EpisodeTable, *, seed: int = 0, source: str | None = None
) -> ErrorTable:
    """
    Walks the episodes as the policy would act in them, and compares its chunks with the recorded actions.

    Every `n_action_steps` frames the policy sees the recorded observation and predicts a chunk, whose whole length is
    compared with the recording where the recording goes on. Only `(o, s, l)` is given to the policy.

    Args:
        checkpoint: a saved policy's folder.
        table: the held-out episodes.
        seed: of the policy's noise.
        source: of a mixture's policy, which of its robots the episodes are of; by default the source that is called
            as they are. They are taken at that robot's frame rate.

    Raises:
        InputError: when the checkpoint is none, or does not fit the dataset.
    """
    policy, processor, robot = load_for_robot(str(checkpoint), source, (table.source, Path(table.source).name))
    config = policy.config
    if robot is not None:
        table = robot.at_its_rate(table, config.action_feature)
    require_fits(config, table, str(checkpoint))
    pull_videos(table, config.cameras)
    comparable = config.state_dim == config.action_dim
    errors = [
        _episode_error(policy, processor, table, episode, torch.Generator().manual_seed(seed + episode))
        for episode in range(len(table.lengths))
    ]
    return ErrorTable(
        episodes=tuple(table.episode_index.tolist()),
        policy=np.array([error.guess for error in errors]),
        squared=np.array([error.squared for error in errors]),
        sample=np.array([error.sample for error in errors]),
        hold=np.array([error.hold for error in errors]) if comparable else None,
    )


class _EpisodeError(NamedTuple):
    """Errors of one episode, as [`ErrorTable`] names them; `guess` is its `policy`."""

    guess: float
    squared: float
    sample: float
    hold: float


def _episode_error(
    policy: Any, processor: VLAProcessor, table: EpisodeTable, episode: int, generator: torch.Generator
) -> _EpisodeError:
    config = policy.config
    rows = slice(int(table.starts[episode]), int(table.starts[episode] + table.lengths[episode]))
    if not config.cameras:
        observation = np.concatenate([table.feature(name)[rows] for name in config.observation_features], axis=1)
    else:
        pictures = CameraImages(table, config.observation_features, config.image_resolution)
        observation = pictures[torch.arange(rows.start, rows.stop)].numpy()
    state, action = table.feature(config.state_feature)[rows], table.feature(config.action_feature)[rows]
    task = table.tasks[int(table.task_index[rows.start])]
    policy.reset()
    guesses, truth, one, held = [], [], [], []
    for frame in range(0, len(action), config.n_action_steps):
        # A row a sample: each carries its own belief tokens, as it would when it acts.
        now = (np.repeat(array[frame : frame + 1], SAMPLES, axis=0) for array in (observation, state))
        chunks = policy.predict_action_chunk(**processor([task] * SAMPLES, *now), generator=generator).numpy()
        recorded = action[frame : frame + config.chunk_size]
        chunks = chunks[:, : len(recorded)]
        guesses.append(chunks.mean(axis=0))
        truth.append(recorded)
        one.append(np.abs(chunks - recorded).mean(axis=0))
        if state.shape[1] == action.shape[1]:
            held.append(np.abs(state[frame] - recorded))
    guess, reference = np.concatenate(guesses), np.concatenate(truth)
    return _EpisodeError(
        guess=float(np.abs(guess - reference).mean()),
        squared=action_mse(guess, reference),
        sample=float(np.concatenate(one).mean()),
        hold=float(np.concatenate(held).mean()) if held else float("nan"),
    )


def compare(tables: dict[str, ErrorTable]) -> Table:
    """The mean errors of several checkpoints side by side."""
    shown = Table(title="held-out action error")
    shown.add_column("checkpoint")
    for name in ("policy error", "95 % interval", "repeat the state", "ratio"):
        shown.add_column(name, justify="right")
    for name, errors in tables.items():
        result = errors.to_dict()
        mine, interval = result["action_mae"], result["action_mae"]["interval"]
        hold: Sequence[str] = ("-", "-")
        if errors.hold is not None:
            hold = (f"{result['hold_state_mae']['mean']:.4f}", f"{result['ratio_to_hold_state']['mean']:.3f}")
        shown.add_row(name, f"{mine['mean']:.4f}", _interval_text(interval), *hold)
    return shown
