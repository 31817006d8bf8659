"""The in-memory table of episodes that all of `hf_ptr.data` operates on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_ptr.data.edited_copies import CutEnds
from hf_ptr.data.expected_findings import ExpectedFinding
from hf_ptr.data.memmap import row_blocks
from hf_ptr.data.video.decoding import Clip
from hf_ptr.errors import InputError, UnknownEpisodeError, nearest


@dataclass(frozen=True, eq=False)
class EpisodeTable:
    """The numeric columns of a robot dataset, episode after episode.

    With `F` frames and `E` episodes. Rows of an episode are adjacent and in temporal order. Episodes follow each other
    without gaps, so `starts` is the exclusive cumulative sum of `lengths`.

    ```python
    table = read_dataset("demos")
    actions = table.columns["action"][table.starts[0] : table.starts[0] + table.lengths[0]]  # of the first episode
    ```

    Attributes:
        columns: every numeric vector feature by its LeRobot name, each `(F, d)` float32 in raw units. A feature of
            shape `[1]` is `(F, 1)`.
        task_index: `(F,)` int64, index into `tasks`.
        tasks: the instructions in natural language.
        starts: `(E,)` int64, first row of each episode.
        lengths: `(E,)` int64, number of frames of each episode, at least 1.
        episode_index: `(E,)` int64, ids of the episodes in the dataset.
        frame_id: `(F,)` int64, each frame's global index in the dataset, from the files' column `index`. It does not
            change in `select`, so score files refer to frames of the dataset and not of a selection.
        fps: frames per second.
        robot_type: the robot's name in the dataset, or None.
        source: name of the dataset.
        features: the features as in `meta/info.json`, including images and videos.
        videos: location of each episode's images, in a video or in the tables, by camera and episode id.
        video_frame: `(F,)` int64, each row's frame number in its episode's videos; by default `frame_index`. It stays
            with its row, like `frame_id`.
        video_fps: frames per second of the videos; by default `fps`.
        revision: commit of the dataset on the Hub, or None.
        observed_id: `(F,)` int64, the `frame_id` of the recorded frame that each row shows; by default its own. Rows
            that repeat a recorded frame, for example at a higher frame rate, have different `frame_id` but equal
            `observed_id`.
        stretch: `(F,)` int64, number of the stretch of its episode, without a pause of the recording, that each row is
            in; by default 0. A chunk has no target in another stretch.
        seconds: `(F,)` float64, time of each row since the first of its episode, as recorded; by default
            `frame_index / fps`.
        expected: findings that the owner of the dataset accepts.
        cut_ends: of an edited copy, the ends of episodes at which frames of the recording are missing, by episode id.
        left_out: why a feature of the dataset is not in `columns`, by its name; errors about the feature quote it.

    Raises:
        InputError: the arrays are inconsistent.
    """

    columns: dict[str, np.ndarray]
    task_index: np.ndarray
    tasks: tuple[str, ...]
    starts: np.ndarray
    lengths: np.ndarray
    episode_index: np.ndarray
    frame_id: np.ndarray
    fps: float
    robot_type: str | None
    source: str
    features: dict[str, Any]
    videos: Mapping[str, Mapping[int, Clip]] = field(default_factory=dict)
    video_frame: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    video_fps: float = 0.0
    revision: str | None = None
    observed_id: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    stretch: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float64))
    left_out: Mapping[str, str] = field(default_factory=dict)
    expected: tuple[ExpectedFinding, ...] = ()
    cut_ends: Mapping[int, CutEnds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, episodes = len(self.task_index), len(self.lengths)
        if episodes == 0 or frames == 0:
            raise InputError(f"dataset {self.source!r} has no frames; record some episodes first")
        for name, column in self.columns.items():
            if column.ndim != 2 or len(column) != frames:
                raise InputError(
                    f"feature {name!r} of {self.source!r} has shape {column.shape}, expected ({frames}, d)"
                )
        per_frame = len(self.frame_id) == frames
        per_episode = len(self.starts) == len(self.episode_index) == episodes
        expected = np.concatenate(([0], np.cumsum(self.lengths)))
        packed = per_episode and np.array_equal(self.starts, expected[:-1]) and int(expected[-1]) == frames
        if not (per_frame and packed and bool((np.asarray(self.lengths) > 0).all())):
            raise InputError(
                f"episodes of {self.source!r} do not cover its {frames} frames: lengths sum to {expected[-1]}"
            )
        if not len(self.video_frame):
            object.__setattr__(self, "video_frame", self.frame_index)
        if not len(self.observed_id):
            object.__setattr__(self, "observed_id", self.frame_id)
        if not len(self.stretch):
            object.__setattr__(self, "stretch", np.zeros(frames, dtype=np.int64))
        if not len(self.seconds):
            object.__setattr__(self, "seconds", self.frame_index / self.fps)
        if not self.video_fps:
            object.__setattr__(self, "video_fps", self.fps)

    @property
    def num_frames(self) -> int:
        """Number of frames, `F`."""
        return len(self.task_index)

    @property
    def num_episodes(self) -> int:
        """Number of episodes, `E`."""
        return len(self.lengths)

    @property
    def episode_of_row(self) -> np.ndarray:
        """`(F,)` int64: position (not id) of each row's episode."""
        return np.repeat(np.arange(self.num_episodes), self.lengths)

    @property
    def frame_index(self) -> np.ndarray:
        """`(F,)` int64: each row's frame number in its episode, from 0."""
        index = np.arange(self.num_frames)
        index -= np.repeat(self.starts, self.lengths)
        return index

    def feature(self, name: str) -> np.ndarray:
        """The column of a feature, `(F, d)`.

        `"A,B"` is the concatenation of the features A and B, for a state or an action that is stored in parts.

        `"NAME@-K"` is feature NAME from K frames earlier, which lets a policy infer velocities; in the first K frames
        of an episode it is the value of the first frame. This does not work for actions: those of the first frames
        would be the action to predict.

        Raises:
            InputError: the table has no such numeric feature; the reason or the nearest name is given, and for a
                camera how to read its images.
        """
        if name in self.columns:
            return self.columns[name]
        if "," in name:
            return np.concatenate([self.feature(part.strip()) for part in name.split(",")], axis=1)
        now, at, lag = name.partition("@-")
        if at and lag.isdecimal() and not now.startswith("action"):
            first = np.repeat(self.starts, self.lengths)
            return self.feature(now)[np.maximum(np.arange(self.num_frames) - int(lag), first)]
        if name in self.left_out:
            raise InputError(f"feature {name!r} of {self.source!r} cannot be used: {self.left_out[name]}")
        if name in self.videos:
            raise InputError(
                f"feature {name!r} of {self.source!r} is a camera, not a vector; its image at a row is "
                f"ChunkDataset(table, chunk_size=1, observation_features=[{name!r}])[row]['observation']"
            )
        known = (*self.columns, *self.videos)
        raise InputError(
            f"dataset {self.source!r} has no numeric feature {name!r} (it has: {', '.join(known) or 'none'})."
            f"{nearest(name, known)}"
        )

    def require_finite(self, names: Sequence[str]) -> None:
        """Check that features contain neither NaN nor infinity.

        Raises:
            InputError: with the feature, episode id and frame of the first such value.
        """
        for name in names:
            column = self.feature(name)
            # A sum needs no memory and is finite for nearly all valid data. The mask that locates a bad value is built
            # only if the sum is not finite (a bad value, or an overflow).
            with np.errstate(invalid="ignore"):
                total = sum(block.sum(dtype=np.float64) for block in row_blocks(column))
            if np.isfinite(total):
                continue
            bad = np.flatnonzero(~np.isfinite(column).all(axis=1))
            if len(bad):
                positions = np.searchsorted(self.starts, bad, side="right") - 1
                episode, frame = self.episode_index[positions[0]], bad[0] - self.starts[positions[0]]
                raise InputError(
                    f"feature {name!r} of {self.source!r} is NaN or infinite in episode {episode}, frame {frame}; "
                    f"repair the episode or leave it out",
                    skip=np.unique(self.episode_index[positions]).tolist(),
                )

    def select(self, episodes: Sequence[int]) -> EpisodeTable:
        """The table of the given episodes, by id, in the given order.

        Raises:
            InputError: an id is unknown or repeated, or no id is given.
        """
        wanted = np.asarray(list(episodes), dtype=np.int64)
        if len(wanted) == 0:
            raise InputError(f"no episodes were selected from {self.source!r}; select at least one")
        order = np.argsort(self.episode_index, kind="stable")
        found = np.searchsorted(self.episode_index, wanted, sorter=order)
        positions = order[np.minimum(found, self.num_episodes - 1)]
        unknown = wanted[self.episode_index[positions] != wanted]
        if len(unknown):
            raise UnknownEpisodeError(f"dataset {self.source!r}", int(unknown[0]), self.episode_index.tolist())
        if len(np.unique(wanted)) != len(wanted):
            repeated = wanted[np.argmax((wanted[:, None] == wanted[None, :]).sum(axis=1) > 1)]
            raise InputError(f"episode {repeated} of {self.source!r} is selected twice; list each episode once")
        lengths = self.lengths[positions]
        return self.take_rows(_ranges(self.starts[positions], lengths), lengths, self.episode_index[positions])

    def take_rows(self, rows: np.ndarray, lengths: np.ndarray, episode_index: np.ndarray) -> EpisodeTable:
        """The table of the given rows (indices into this table), divided into episodes of the given lengths and ids.

        Columns are copied.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        return dataclasses.replace(
            self,
            columns={name: column[rows] for name, column in self.columns.items()},
            task_index=self.task_index[rows],
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            episode_index=np.array(episode_index, dtype=np.int64),
            frame_id=self.frame_id[rows],
            video_frame=self.video_frame[rows],
            observed_id=self.observed_id[rows],
            stretch=self.stretch[rows],
            seconds=self.seconds[rows],
        )


def data_digest(table: EpisodeTable) -> str:
    """
    A hash of the episodes as they are used for training, including corruption: ids, lengths, instructions, pauses and
    every vector. It does not depend on how the dataset is split into files. Of videos, the camera names and the frame
    that each row shows are hashed, not the images.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([table.tasks, table.fps, sorted(table.videos)]).encode())
    # Without pauses or moved frames, digests are those of earlier versions, which recorded results contain.
    usual = (
        ("video_frame", table.video_frame, table.frame_index),
        ("stretch", table.stretch, np.zeros_like(table.stretch)),
        ("video_fps", np.array([table.video_fps]), np.array([table.fps])),
    )
    per_row = {"task_index": table.task_index, "frame_id": table.frame_id}
    for name, array, default in usual:
        if not np.array_equal(array, default):
            digest.update(name.encode())
            per_row[name] = array
    for array in (table.episode_index, table.lengths, *per_row.values()):
        for block in row_blocks(array):
            digest.update(np.ascontiguousarray(block).data)
    for name in sorted(table.columns):
        digest.update(name.encode())
        for block in row_blocks(table.columns[name]):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`start, start + 1, …, start + length - 1` for every pair, concatenated: `(sum(lengths),)`."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
