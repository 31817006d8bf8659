"""The time axis of a report: the recorded time stamps, which the checks measure with, too."""

from __future__ import annotations

import numpy as np

from hf_ptr.data.episodes import EpisodeTable

# Seconds by which the recorded time may differ from frame / fps before the report says so.
LEAST_DRIFT = 0.5


def recorded_seconds(table: EpisodeTable, episode: int) -> np.ndarray:
    """Time of each frame of an episode since its first, `(T,)` seconds; frame / fps where the stamps do not rise."""
    position = int(np.flatnonzero(table.episode_index == episode)[0])
    rows = slice(int(table.starts[position]), int(table.starts[position] + table.lengths[position]))
    seconds = table.seconds[rows]
    return np.arange(len(seconds)) / table.fps if (np.diff(seconds) <= 0).any() else seconds


def duration(table: EpisodeTable, episode: int) -> float:
    """Seconds of an episode, from its first frame to the end of its last."""
    seconds = recorded_seconds(table, episode)
    return float(seconds[-1]) + 1 / table.fps


def clock_sentence(table: EpisodeTable) -> str:
    """What the times of the report are, where a video player shows other ones; "" where both are the same."""
    drift = {
        episode: abs(duration(table, episode) - length / table.fps)
        for episode, length in zip(table.episode_index.tolist(), table.lengths.tolist(), strict=True)
    }
    worst = max(drift, key=lambda episode: drift[episode])
    if drift[worst] <= LEAST_DRIFT:
        return ""
    return (
        f"Times are the recorded time stamps. At {table.fps:g} frames per second, a video player shows frame n after "
        f"n / {table.fps:g} s: up to {drift[worst]:.1f} s away from the recorded time (episode {worst})."
    )
