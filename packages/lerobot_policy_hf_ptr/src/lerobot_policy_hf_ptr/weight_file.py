"""Parquet files with a weight per frame, checked against the dataset that they weigh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("index", "weight")
# Columns of hf-ptr's score files that distinguish datasets.
PLACE = ("episode_index", "frame_index")
HOW = "write it with `hf-ptr score DATASET`"


class WeightFileError(ValueError):
    """A file that cannot weigh the frames of a dataset: one line that says what is wrong, where, and how to fix it."""


@dataclass(frozen=True)
class WeightFile:
    """
    Weights of n frames.

    Attributes:
        path: the file.
        index: global frame indices, `(n,)`, each once.
        weight: finite and at least 0, `(n,)`; not all are 0.
        place: episode and frame within the episode of each row, two arrays `(n,)`; None where the file has not both.
        whole_episodes: hf-ptr wrote the file. It weighs all frames of an episode, or none; other files may weigh any.
    """

    path: Path
    index: np.ndarray
    weight: np.ndarray
    place: tuple[np.ndarray, np.ndarray] | None
    whole_episodes: bool

    def by_frame(self, frames: int, fallback_weight: float) -> tuple[np.ndarray, np.ndarray]:
        """
        Weights of all frames of a dataset.

        Args:
            frames: number F of frames of the dataset.
            fallback_weight: weight of frames without a row.

        Returns:
            Weights `(F,)` as float64, and whether the file has a row for the frame, `(F,)`.
        """
        weights, known = np.full(frames, fallback_weight, np.float64), np.zeros(frames, bool)
        weights[self.index], known[self.index] = self.weight, True
        return weights, known

    def require_fits(self, dataset: str, starts: np.ndarray, lengths: np.ndarray) -> None:
        """
        Refuses the weights of another dataset.

        Args:
            dataset: its name, for the message.
            starts: global index of the first frame of each episode, `(E,)`.
            lengths: frames of each episode, `(E,)`.

        Raises:
            WeightFileError: the file has a frame that the dataset lacks, or that lies elsewhere in the dataset, or a
                part of an episode where it should have all frames.
        """
        frames = int(lengths.sum())
        what = f"{self.path} does not belong to {dataset}, which has {len(lengths)} episodes and {frames} frames"
        if self.index.max() >= frames:
            raise WeightFileError(f"{what}: it weighs frame {self.index.max()}; give the scores of this dataset")
        if self.place is not None:
            episode, frame = self.place
            if episode.min() < 0 or episode.max() >= len(starts):
                raise WeightFileError(f"{what}: it weighs episode {episode.max()}; give the scores of this dataset")
            elsewhere = np.flatnonzero(starts[episode] + frame != self.index)
            if len(elsewhere):
                row = elsewhere[0]
                raise WeightFileError(
                    f"{what}: its frame {frame[row]} of episode {episode[row]} has the index {self.index[row]}, not "
                    f"{starts[episode[row]] + frame[row]}; give the scores of this dataset"
                )
        if self.whole_episodes:
            found = np.bincount(np.searchsorted(starts, self.index, side="right") - 1, minlength=len(starts))
            parts = np.flatnonzero((found > 0) & (found != lengths))
            if len(parts):
                raise WeightFileError(
                    f"{what}: it weighs {found[parts[0]]} frames of episode {parts[0]}, which has {lengths[parts[0]]} "
                    "frames; give the scores of this dataset"
                )


def read_weight_file(path: str | Path) -> WeightFile:
    """
    A weight file, checked.

    Args:
        path: a parquet file with the columns `index` (integers) and `weight`; others are not needed.

    Raises:
        WeightFileError: the file is missing, damaged or empty, lacks a column, has an index twice or below 0, or a
            weight that is negative or not finite, or no weight above 0.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightFileError(f"{path} is not a file; {HOW}")
    try:
        schema = pq.read_schema(path)
        names = schema.names
        wanted = [*COLUMNS, *(PLACE if set(PLACE) <= set(names) else ())]
        missing = [name for name in COLUMNS if name not in names]
        if not missing:
            table = pq.read_table(path, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise WeightFileError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]}); {HOW}") from None
    if missing:
        raise WeightFileError(f"{path} has no column {missing[0]!r}, it has {', '.join(names) or 'none'}; {HOW}")
    if not table.num_rows:
        raise WeightFileError(f"{path} has no rows; {HOW}")
    integers = {name: _integers(path, name, table[name]) for name in wanted if name != "weight"}
    index, weight = integers["index"], _weights(path, integers["index"], table["weight"])
    if index.min() < 0:
        raise WeightFileError(f"{path} has the frame index {index.min()}; an index is at least 0; {HOW}")
    values, counts = np.unique(index, return_counts=True)
    if counts.max() > 1:
        raise WeightFileError(
            f"{path} has frame {values[counts.argmax()]} {counts.max()} times; give the scores of one dataset"
        )
    place = (integers[PLACE[0]], integers[PLACE[1]]) if PLACE[0] in integers else None
    exported = b"hf_ptr" in (schema.metadata or {})
    return WeightFile(path, index, weight, place, whole_episodes=exported or place is not None)


def _integers(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise WeightFileError(f"{path}: column {name!r} must be integers without gaps, not {column.type}; {HOW}")
    return column.to_numpy().astype(np.int64)


def _weights(path: Path, index: np.ndarray, column: pa.ChunkedArray) -> np.ndarray:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise WeightFileError(f"{path}: column 'weight' must be numbers, not {column.type}; {HOW}")
    weight = column.to_numpy().astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        row = wrong[0]
        raise WeightFileError(
            f"{path}: {len(wrong)} weights are negative or not finite, the first is {weight[row]} of frame "
            f"{index[row]}; {HOW}"
        )
    if not weight.any():
        raise WeightFileError(f"{path}: every weight is 0, so there is nothing to train on; {HOW}")
    return weight
