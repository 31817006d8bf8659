"""The image statistics that a dataset stores for each episode, v3.0 or v2.x, and those of a few decoded images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.columns import open_columns
from hf_ptr.data.lerobot.paths import within
from hf_ptr.data.statistics import QUANTILES, ImageStatistics
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError

# Images per episode, evenly spaced, for image statistics, which change little from frame to frame.
IMAGES_FOR_STATISTICS = 16
NEEDED = ("min", "max", "mean", "std", "count")

# By feature, then by LeRobot's name of the statistic.
Statistics = dict[str, Mapping[str, Any]]


def stored_statistics(root: Path, layout: str, cameras: Sequence[str]) -> dict[int, Statistics]:
    """
    The complete statistics of cameras by episode id. Damaged ones are ignored.

    Args:
        root: the dataset's folder.
        layout: `"v3.0"` or `"v2.1"`.
        cameras: the cameras.
    """
    found: dict[int, Statistics] = {}
    for episode, camera, values in (_in_tables if layout == "v3.0" else _in_lines)(root, cameras):
        try:
            arrays = {key: np.asarray(value, dtype=np.float64) for key, value in values.items()}
        except (TypeError, ValueError):
            continue
        if _is_complete(arrays):
            found.setdefault(episode, {})[camera] = arrays
    return found


def _in_tables(root: Path, cameras: Sequence[str]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for path in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet")):
        try:
            with open_columns(path) as file:
                episodes = file.integers("episode_index").tolist()
                for camera in cameras:
                    names = {key: f"stats/{camera}/{key}" for key in (*NEEDED, *QUANTILES)}
                    cells = {key: file.texts(name) for key, name in names.items() if name in file.names}
                    for row, episode in enumerate(episodes):
                        yield episode, camera, {key: values[row] for key, values in cells.items()}
        except InputError:
            continue


def _in_lines(root: Path, cameras: Sequence[str]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    path = root / within(root, "meta/episodes_stats.jsonl")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            episode, features = int(record["episode_index"]), record["stats"]
            parts = [(camera, dict(features[camera])) for camera in cameras if camera in features]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        for camera, values in parts:
            yield episode, camera, values


def _is_complete(values: Mapping[str, np.ndarray]) -> bool:
    """Whether these are all statistics of three colour channels, which can be pooled."""
    if not set(NEEDED) <= set(values) or values["count"].size != 1:
        return False
    arrays = [value for name, value in values.items() if name != "count"]
    shaped = all(array.shape == (3, 1, 1) and bool(np.isfinite(array).all()) for array in arrays)
    return shaped and float(values["count"].ravel()[0]) > 0


def image_statistics(reader: FrameReader, episode: int, rows: range) -> Mapping[str, Any]:
    """The statistics of a few decoded images of an episode, evenly spaced over some of its rows."""
    counted = ImageStatistics()
    places = np.unique(np.linspace(rows[0], rows[-1], IMAGES_FOR_STATISTICS).astype(int)).tolist()
    for image in reader.read([episode] * len(places), places):
        counted.add(image)
    return counted.statistics()
