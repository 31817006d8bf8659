"""Read a drawn dataset and compare it with its right content."""

from __future__ import annotations

import random
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reader_fuzz.clips import shown
from benchmarks.reader_fuzz.spec import ODDITIES, TOGETHER_OPEN, DatasetSpec, simpler
from benchmarks.reader_fuzz.writing import ACTION, STATE, Truth, write_dataset
from hf_ptr.data import ChunkDataset, EpisodeTable, read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.video import FrameReader
from hf_ptr.errors import DataWarning, InputError


@dataclass
class Outcome:
    """
    What came of reading a dataset.

    Attributes:
        differences: what a sound reader would not do, each as kind and details.
        refusals: the messages of justified refusals.
        warnings: the messages of all `DataWarning`s.
    """

    differences: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


Change = Callable[[Truth], None]


def check(spec: DatasetSpec, change: Change | None = None) -> Outcome:
    """
    Write a dataset, read it, and compare.

    Args:
        spec: the dataset.
        change: spoils the right content, to prove that a difference is found.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / spec.folder
        truth = write_dataset(spec, folder)
        if change is not None:
            change(truth)
        return _Checker(spec, folder, truth).run()


def minimised(spec: DatasetSpec, kind: str, attempts: int = 200) -> DatasetSpec:
    """The simplest dataset that still gives a difference of this kind, found by leaving out one property at a time."""
    shrinking = True
    while shrinking:
        shrinking = False
        for variant in simpler(spec):
            attempts -= 1
            if attempts < 0:
                return spec
            if any(found == kind for found, _ in check(variant).differences):
                spec, shrinking = variant, True
                break
    return spec


def message_kind(message: str) -> str:
    """A message without what differs from dataset to dataset: paths, names in quotes, numbers."""
    text = re.sub(r"\S*/\S*", "PATH", message)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", text)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "N", text)[:160]


class _Checker:
    def __init__(self, spec: DatasetSpec, folder: Path, truth: Truth) -> None:
        self.spec, self.folder, self.truth = spec, folder, truth
        self.outcome = Outcome()
        self.random = random.Random(spec.content)
        expected = {ODDITIES[name].expected for name in spec.oddities}
        self.expected = next((each for each in ("refuse", "may") if each in expected), "read")
        if self.expected == "read" and any(pair <= set(spec.oddities) for pair in TOGETHER_OPEN):
            self.expected = "may"

    def run(self) -> Outcome:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._run(caught)
        return self.outcome

    def _run(self, caught: list[warnings.WarningMessage]) -> None:
        table = self._guarded("tables", lambda: self._read(None))
        refused = table is None
        if table is not None:
            self._compare_all(table, self.truth.ids, caught)
            if len(self.truth.ids) > 1:
                few = self.random.sample(self.truth.ids, self.random.randint(1, len(self.truth.ids) - 1))
                part = self._guarded("part", lambda: self._read(few), may=self.expected != "read")
                if part is not None:
                    self._compare_all(part, few, caught)
        self.outcome.warnings = [str(each.message) for each in caught if issubclass(each.category, DataWarning)]
        if self.expected == "refuse" and not self.outcome.refusals and not self.outcome.differences:
            self._differ("silent", f"nothing was refused: {sorted(self.spec.oddities)}")
        if self.truth.warns and not refused and self.expected == "read" and not self.outcome.warnings:
            self._differ("no warning", f"derived without a DataWarning: {sorted(self.spec.oddities)}")
        for message in (*self.outcome.warnings, *self.outcome.refusals):
            if "\n" in message.strip() or not message.strip():
                self._differ("message", f"not one line: {message!r}")
        self._check_validation()

    def _read(self, episodes: Sequence[int] | None) -> EpisodeTable:
        table = read_dataset(self.folder, episodes)
        # Commands check what they use.
        table.require_finite([STATE, ACTION])
        return table

    def _guarded(self, where: str, read: Callable[[], Any], may: bool | None = None) -> Any:
        """The result; None where it was refused, or failed, which is recorded."""
        try:
            return read()
        except InputError as error:
            allowed = self.expected != "read" if may is None else may
            self.outcome.refusals.append(str(error))
            if not allowed:
                self._differ(f"{where} refused", str(error))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            self._differ(
                f"{where} failed", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
            )
        return None

    def _differ(self, kind: str, details: str) -> None:
        self.outcome.differences.append((kind, details.replace(str(self.folder.parent), "")[:400]))

    def _compare_all(self, table: EpisodeTable, ids: list[int], caught: list[warnings.WarningMessage]) -> None:
        self._compare(table, ids)
        if set(table.videos) != set(self.truth.numbers):
            self._differ("cameras", f"{sorted(table.videos)}, not {sorted(self.truth.numbers)}")
            return
        for camera in self.truth.numbers:
            self._compare_camera(table, camera, ids, caught)

    def _compare(self, table: EpisodeTable, ids: list[int]) -> None:
        """Everything but the images."""
        if table.episode_index.tolist() != ids:
            self._differ("episodes", f"{table.episode_index.tolist()}, not {ids}")
            return
        lengths = [len(self.truth.tasks[episode]) for episode in ids]
        if table.lengths.tolist() != lengths:
            self._differ("lengths", f"{table.lengths.tolist()}, not {lengths}")
            return
        if table.fps != self.spec.fps:
            self._differ("fps", f"{table.fps}, not {self.spec.fps}")
        if len(np.unique(table.frame_id)) != table.num_frames:
            self._differ("index", "frame_id repeats a value")
        for position, episode in enumerate(ids):
            rows = slice(int(table.starts[position]), int(table.starts[position] + table.lengths[position]))
            told = [table.tasks[i] for i in table.task_index[rows]]
            if told != self.truth.tasks[episode]:
                self._differ("tasks", f"episode {episode}: {told[:3]}, not {self.truth.tasks[episode][:3]}")
            index = self.truth.index[episode]
            if index is None:
                self.truth.index[episode] = table.frame_id[rows]
            elif not np.array_equal(table.frame_id[rows], index):
                self._differ("index", f"episode {episode}: {table.frame_id[rows][:5]}, not {index[:5]}")
            for name, episodes in self.truth.vectors.items():
                values = self._guarded(f"feature {name}", lambda name=name: table.feature(name))
                if values is not None and not np.array_equal(values[rows], episodes[episode], equal_nan=True):
                    self._differ(
                        f"values of {name}", f"episode {episode}: {values[rows][:2]}, not {episodes[episode][:2]}"
                    )

        self._compare_targets(table, ids)

    def _compare_targets(self, table: EpisodeTable, ids: list[int]) -> None:
        """A chunk has a target within the episode and before the next pause."""
        offset = self.random.randint(1, 5)
        chunks = self._guarded(
            "chunks", lambda: ChunkDataset(table, chunk_size=1, target_offset=offset, observation_features=[STATE])
        )
        if chunks is None:
            return
        has_target = chunks.without_observations(torch.arange(table.num_frames))["has_target"].tolist()
        for position, episode in enumerate(ids):
            start, length, pauses = int(table.starts[position]), len(self.truth.tasks[episode]), self.truth.pauses
            right = [
                row + offset < length and not any(row < pause <= row + offset for pause in pauses[episode])
                for row in range(length)
            ]
            if has_target[start : start + length] != right:
                wrong = [row for row in range(length) if has_target[start + row] != right[row]]
                self._differ("targets", f"episode {episode}, target_offset {offset}: rows {wrong[:8]}")

    def _compare_camera(
        self, table: EpisodeTable, camera: str, ids: list[int], caught: list[warnings.WarningMessage]
    ) -> None:
        expected = self.truth.expected[camera]
        every = set(expected.values())
        open_ = self.expected != "read" or every != {"read"}
        clips = self._guarded("camera", lambda: table.videos[camera], may=open_)
        if clips is None:
            return
        whole = FrameReader(camera, clips, table.video_fps)
        # Each image is sought on its own: nothing is kept from the one before.
        cold = FrameReader(camera, clips, table.video_fps, cache_bytes=1)
        for episode in ids:
            frames = list(range(len(self.truth.numbers[camera][episode])))
            may = self.expected != "read" or expected[episode] != "read"
            before = len(self.outcome.refusals)
            images = self._guarded("camera", lambda e=episode, f=frames: whole.read([e] * len(f), f), may=may)
            if images is not None:
                self._compare_images(camera, episode, frames, images, caught)
                if expected[episode] == "refuse":
                    self._differ("camera silent", f"{camera}: episode {episode} cannot be whole, but was read")
            elif len(self.outcome.refusals) == before:
                return
            for frame in self.random.sample(frames, min(len(frames), 6)):
                image = self._guarded("camera", lambda e=episode, f=frame: cold.read([e], [f]), may=may)
                if image is not None:
                    self._compare_images(f"{camera}, cold", episode, [frame], image, caught)

    def _compare_images(
        self, camera: str, episode: int, frames: list[int], images: np.ndarray, caught: list[warnings.WarningMessage]
    ) -> None:
        name = camera.split(",")[0]
        right = [self.truth.numbers[name][episode][frame] for frame in frames]
        found = [shown(image) for image in images]
        if found == right:
            return
        warned = any(issubclass(each.category, DataWarning) and "video" in str(each.message) for each in caught)
        if self.truth.expected[name][episode] == "read" or not warned:
            wrong = [at for at, (a, b) in enumerate(zip(found, right, strict=True)) if a != b][:8]
            self._differ(
                "wrong frame" if self.truth.expected[name][episode] == "read" else "wrong frame without a word",
                f"{camera}, episode {episode}, rows {[frames[at] for at in wrong]}: "
                f"frames {[found[at] for at in wrong]}, not {[right[at] for at in wrong]}",
            )

    def _check_validation(self) -> None:
        """`hf-ptr validate` agrees with reading."""
        every_frame = self.random.random() < 0.5
        found = self._guarded("validation", lambda: validate_dataset(self.folder, every_frame=every_frame))
        if found is None:
            return
        cameras = {each for expected in self.truth.expected.values() for each in expected.values()}
        if self.expected == "refuse" or (every_frame and "refuse" in cameras):
            if found.usable:
                self._differ("validate silent", f"no error: {sorted(self.spec.oddities)}, {self.outcome.refusals[:1]}")
        elif self.expected == "read" and cameras <= {"read"} and not found.usable:
            self._differ("validate refuses", str(found.errors[0]))
