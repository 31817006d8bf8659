"""Resampling of episodes to another frame rate."""

from __future__ import annotations

import dataclasses

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.faults import FIRST_INSERTED_ID
from hf_ptr.errors import InputError

ACTION_KINDS = ("positions", "displacements")


def resampled(
    table: EpisodeTable,
    fps: float,
    *,
    actions: str = "positions",
    action_feature: str = "action",
    summed: np.ndarray | None = None,
) -> EpisodeTable:
    """
    The table resampled to `fps` frames per second.

    Frame `k` of an episode is the recorded frame nearest to the time `k / fps`. Observations are not interpolated, so
    each one was really recorded. A repeated frame gets a new `frame_id` and keeps its `observed_id`.

    Args:
        table: the episodes.
        fps: frames per second.
        actions: `"positions"` are taken at their frame; `"displacements"` are summed over the time until the next
            frame, so that the total displacement is preserved.
        action_feature: the action.
        summed: `(da,)` bool, the dimensions to sum in the case of displacements; the others, such as an effort or a
            gripper command, are taken at their frame. All dimensions by default.

    Raises:
        InputError: `fps` is not positive, or `actions` is unknown.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"fps is {fps}; it must be a positive number of frames per second")
    if actions not in ACTION_KINDS:
        raise InputError(f"actions is {actions!r}; it must be one of {', '.join(ACTION_KINDS)}")
    if fps == table.fps:
        return table
    step = table.fps / fps
    lengths = np.maximum(1, np.round(table.lengths / step).astype(np.int64))
    frame = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    within = np.minimum(np.floor(frame * step + 0.5).astype(np.int64), np.repeat(table.lengths, lengths) - 1)
    rows = np.repeat(table.starts, lengths) + within
    taken = table.take_rows(rows, lengths, table.episode_index)
    if actions == "displacements":
        ends = np.repeat(table.lengths, lengths)
        start = np.repeat(table.starts + np.arange(table.num_episodes), lengths)
        total = _running_sum(table, action_feature)
        before, after = (_between(total, start, np.minimum(at, ends)) for at in (frame * step, (frame + 1) * step))
        added = (after - before).astype(np.float32)
        at_frame = taken.columns[action_feature]
        taken.columns[action_feature] = added if summed is None else np.where(summed, added, at_frame)
    frame_id = taken.frame_id.copy()
    again = np.concatenate(([False], rows[1:] == rows[:-1]))
    # After the ids of frames inserted by a fault.
    frame_id[again] = max(FIRST_INSERTED_ID, int(table.frame_id.max()) + 1) + np.arange(int(again.sum()))
    return dataclasses.replace(taken, fps=fps, frame_id=frame_id, video_fps=table.video_fps)


def _running_sum(table: EpisodeTable, name: str) -> np.ndarray:
    """`(F + E, d)`: for every episode, the sums of its first 0, 1, 2, … rows, up to all rows."""
    values = table.feature(name).astype(np.float64)
    sums = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)))
    ends = np.arange(table.num_frames + table.num_episodes)
    rows = ends - np.repeat(np.arange(table.num_episodes), table.lengths + 1)
    return sums[rows] - np.repeat(sums[table.starts], table.lengths + 1, axis=0)


def _between(values: np.ndarray, start: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`values` at the fractional row `start + at`, linearly interpolated; `start` and `at` are `(n,)`."""
    whole = np.floor(at).astype(np.int64)
    share = (at - whole)[:, None]
    low = values[start + whole]
    high = values[np.minimum(start + whole + 1, len(values) - 1)]
    return np.where(share > 0, low + share * (high - low), low)
