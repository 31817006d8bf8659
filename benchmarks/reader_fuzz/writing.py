"""Write a drawn dataset, and state its right content without reading it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.reader_fuzz.clips import painted, plan_file, write_video
from benchmarks.reader_fuzz.metadata import data_path, video_path, write_metadata
from benchmarks.reader_fuzz.spec import ODDITIES, DatasetSpec

STATE, ACTION = "observation.state", "action"
INDEX = ("frame_index", "episode_index", "index", "task_index")
# Files with the number of a neighbouring file would go unnoticed if all files numbered their frames from 0.
NUMBERS_PER_FILE = 331


@dataclass
class Truth:
    """
    The right content of a dataset.

    Attributes:
        ids: episode ids, ascending.
        vectors: by feature and episode id, `(length, width)` float32.
        tasks: by episode id, the instruction of each row.
        index: by episode id, the global index of each row; None where any unique one is right.
        numbers: by camera and episode id, the number that the frame of each row shows; None where there is none.
        expected: `"read"`, `"may"` or `"refuse"` by camera and episode id.
        pauses: by episode id, the rows before which the recording paused.
        warns: whether a `DataWarning` is required.
    """

    ids: list[int]
    vectors: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    tasks: dict[int, list[str]] = field(default_factory=dict)
    index: dict[int, np.ndarray | None] = field(default_factory=dict)
    numbers: dict[str, dict[int, list[int | None]]] = field(default_factory=dict)
    expected: dict[str, dict[int, str]] = field(default_factory=dict)
    pauses: dict[int, list[int]] = field(default_factory=dict)
    warns: bool = False


def write_dataset(spec: DatasetSpec, folder: Path) -> Truth:
    """Write a dataset to an empty folder."""
    return _Writer(spec, folder).write()


class _Writer:
    def __init__(self, spec: DatasetSpec, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self.random, self.numpy = Random(spec.content), np.random.default_rng(spec.content)
        self.odd = frozenset(spec.oddities)
        self.truth = Truth(sorted(spec.ids))
        self.ids = [spec.ids[position] for position in spec.order]
        self.lengths = {episode: spec.lengths[position] for position, episode in enumerate(spec.ids)}
        self.numbers = [3 * i + 2 if "tasks_sparse" in self.odd else i for i in range(len(spec.tasks))]
        self.features: dict[str, dict[str, Any]] = {}
        self.columns: dict[int, dict[str, Any]] = {episode: {} for episode in self.ids}
        # Chunk and file number of each episode, and what the metadata of v3.0 say of its videos.
        self.places: dict[int, tuple[int, int]] = {}
        self.video_columns: dict[int, dict[str, Any]] = {episode: {} for episode in self.ids}

    def write(self) -> Truth:
        self._draw_vectors()
        self._draw_index()
        self._draw_unused()
        self._place(self.spec.cuts, self.places)
        if len(set(self.places.values())) < 2:
            self.odd -= {"stale_file_index"}
        if sum(self.lengths.values()) < 2:
            self.odd -= {"index_repeats"}
        if not self.spec.state_dtype.startswith("float"):
            self.odd -= {"state_in_parts"}
        if not any(self.truth.pauses.values()):
            self.odd -= {name for name in self.odd if name.endswith("_pause")}
        self.truth.warns = any(ODDITIES[name].warns for name in self.odd)
        for number, _ in enumerate(self.spec.cameras):
            self._write_camera(number)
        self._spoil()
        self._rename()
        self._add_depth()
        self._write_tables()
        write_metadata(self.spec, self.odd, self.folder / "meta", self.features, self._episodes(), self.numbers)
        return self.truth

    def _draw_vectors(self) -> None:
        spec = self.spec
        for name, width, dtype in (
            (STATE, spec.state_width, spec.state_dtype),
            (ACTION, spec.state_width, spec.action_dtype),
        ):
            shape: list[int] = [width]
            nested = name == STATE and bool({"state_nested", "state_nested_flat"} & self.odd)
            if nested:
                width, shape = 2 * width, [2, width]
            self.features[name] = {"dtype": dtype, "shape": shape, "names": self._names(shape)}
            if "names_missing" in self.odd:
                del self.features[name]["names"]
            self.truth.vectors[name] = {}
            for episode in self.ids:
                drawn = self.numpy.normal(scale=50, size=(self.lengths[episode], width))
                values = (drawn > 0 if dtype == "bool" else np.abs(drawn)).astype(dtype)
                self.truth.vectors[name][episode] = values.astype(np.float32)
                stored = values.reshape(-1, *shape) if "state_nested" in self.odd and nested else values
                self.columns[episode][name] = self._stored(stored)

    def _names(self, shape: list[int]) -> Any:
        names = [f"joint {i}" for i in range(shape[-1])]
        if "names_dict" in self.odd:
            return {"motors": names}
        return [names] if "names_nested" in self.odd else names

    def _stored(self, values: np.ndarray) -> pa.Array:
        """Rows of numbers as the column type of the dataset: lists, or single numbers of width 1."""
        flat = pa.array(values.ravel())
        rows, width = len(values), values.shape[-1]
        if values.ndim == 2 and width == 1 and self.spec.content % 2:
            return flat
        if values.ndim == 3:
            flat, rows = pa.FixedSizeListArray.from_arrays(flat, width), values.shape[0]
            width = values.shape[1]
        if self.spec.storage == "fixed_list":
            return pa.FixedSizeListArray.from_arrays(flat, width)
        kind = pa.int64() if self.spec.storage == "large_list" else pa.int32()
        offsets = pa.array(np.arange(rows + 1) * width, kind)
        build = pa.LargeListArray if self.spec.storage == "large_list" else pa.ListArray
        return build.from_arrays(offsets, flat)

    def _draw_index(self) -> None:
        running = 0
        for episode in self.ids:
            length = self.lengths[episode]
            frames = np.arange(length)
            chosen = np.full(length, self.random.randrange(len(self.spec.tasks)))
            if self.spec.tasks_change and "no_task_index" not in self.odd:
                chosen[length // 2 :] = self.random.randrange(len(self.spec.tasks))
            self.truth.tasks[episode] = [self.spec.tasks[i] for i in chosen]
            index = np.arange(running, running + length) * (2 if "index_sparse" in self.odd else 1)
            if "index_sparse" in self.odd:
                index += 1000
            derived = bool({"no_index", "index_repeats"} & self.odd)
            self.truth.index[episode] = None if derived else index
            if "index_repeats" in self.odd:
                index = np.zeros(length)
            running += length
            columns = {
                "frame_index": frames,
                "episode_index": np.full(length, episode),
                "index": index,
                "task_index": np.array(self.numbers)[chosen],
            }
            for name, values in columns.items():
                self.columns[episode][name] = self._integers(values)
            self.columns[episode]["timestamp"] = self._times(frames, episode)
        for name in INDEX:
            self.features[name] = {"dtype": "int64", "shape": [1], "names": None}
        self.features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in (*INDEX, "timestamp"):
            if f"no_{name}" in self.odd:
                for columns in self.columns.values():
                    del columns[name]

    def _integers(self, values: np.ndarray) -> pa.Array:
        if "index_int32" in self.odd:
            return pa.array(values.astype(np.int32))
        if "index_float" in self.odd:
            return pa.array(values.astype(np.float64))
        numbers = pa.array(values.astype(np.int64))
        if "index_lists" in self.odd:
            return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), numbers)
        return numbers

    def _times(self, frames: np.ndarray, episode: int) -> pa.Array:
        seconds, fps = frames / self.spec.fps, self.spec.fps
        self.truth.pauses[episode] = []
        clock = next((each for each in sorted(self.odd) if each.startswith("times_")), "")
        # In an episode of a few frames, a gap or a tick cannot be distinguished from another rate.
        long = len(frames) >= 7
        if clock.endswith("pause") and long:
            at = self.random.randrange(1, len(frames))
            seconds = seconds + self.random.uniform(3.0, 60.0) * (frames >= at)
            if "no_timestamp" not in self.odd:
                self.truth.pauses[episode] = [at]
        for name, unit in (("tenths", 0.1), ("seconds", 1.0)):
            if name in clock and long:
                ticks = np.floor(seconds / unit + self.random.random()) * unit
                # A clock that stands still says nothing, and is refused.
                seconds = ticks if ticks[-1] > ticks[0] else seconds
        if "times_jitter" in self.odd:
            seconds = seconds + self.numpy.uniform(-0.2, 0.2, len(frames)) / fps * (frames > 0)
        if "times_gap" in self.odd:
            # Dropped frames are not a pause.
            seconds = seconds + 0.2 * (frames > len(frames) / 2) * long
        if "times_coarse" in self.odd:
            seconds = np.round(seconds, 2 if fps <= 30 else 3)
        return pa.array(seconds.astype(np.float64 if "times_float64" in self.odd else np.float32))

    def _draw_unused(self) -> None:
        """A feature that nobody asks for, sound or spoiled."""
        name = "observation.Kraft (N) 力" if self.spec.content % 5 == 3 else "observation.tactile"
        kind = next((each for each in sorted(self.odd) if each.startswith("unused_")), None)
        if kind is None and self.random.random() < 0.7:
            return
        feature = {"dtype": "float32", "shape": [2], "names": None}
        if kind == "unused_text":
            feature = {"dtype": "string", "shape": [1], "names": None}
        if kind != "unused_listed_nowhere":
            self.features[name] = feature
        for episode in self.ids:
            values = self.numpy.normal(size=(self.lengths[episode], 3 if kind == "unused_width" else 2))
            cells: list[Any] = values.astype(np.float32).tolist()
            if kind == "unused_nan":
                cells[0][0] = float("nan")
            if kind in ("unused_nulls", "unused_null_type"):
                cells = [None for _ in cells] if kind == "unused_null_type" else [None, *cells[1:]]
            if kind == "unused_text":
                self.columns[episode][name] = pa.array(["text"] * len(cells))
            elif kind == "unused_null_type":
                self.columns[episode][name] = pa.nulls(len(cells))
            elif kind != "unused_missing":
                self.columns[episode][name] = pa.array(cells, pa.list_(pa.float32()))
        if kind is None:
            self.truth.vectors[name] = {
                episode: np.array(columns[name].to_pylist(), np.float32) for episode, columns in self.columns.items()
            }

    def _place(self, cuts: tuple[int, ...], places: dict[int, tuple[int, int]]) -> list[list[int]]:
        """Divide the episodes over files; returns those of each file."""
        files: list[list[int]] = []
        remaining = list(self.ids)
        while remaining:
            size = cuts[min(len(files), len(cuts) - 1)]
            files.append(remaining[:size])
            remaining = remaining[size:]
        if not self.spec.v3 or "foreign_template" in self.odd:
            files = [[episode] for episode in self.ids]
        for number, episodes in enumerate(files):
            for episode in episodes:
                places[episode] = divmod(number, self.spec.files_per_chunk) if self.spec.v3 else (0, episode)
        return files

    def _write_camera(self, number: int) -> None:
        camera = self.spec.cameras[number]
        name = f"observation.images.{'Kamera ü ' if self.spec.content % 5 == 3 else 'camera'}{number}"
        self.features[name] = {"dtype": camera.stored, "shape": [32, 32, 3], "names": ["height", "width", "channels"]}
        numbers = self.truth.numbers[name] = {}
        expected = self.truth.expected[name] = {}
        if camera.stored == "image":
            for position, episode in enumerate(self.ids):
                shades = [position * NUMBERS_PER_FILE + i for i in range(self.lengths[episode])]
                numbers[episode], expected[episode] = list(shades), "read"
                cells = [{"bytes": _png(painted(shade)), "path": None} for shade in shades]
                kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                self.columns[episode][name] = pa.array(cells, kind)
            return
        places: dict[int, tuple[int, int]] = {}
        every_file = camera.timing in ("exact", "ntsc", "slow", "fast", "irregular", "uneven", "offset", "tail")
        for position, episodes in enumerate(self._place(camera.cuts, places)):
            timing = camera.timing if every_file or position == 0 else "exact"
            plan = plan_file([self.lengths[episode] for episode in episodes], timing, self.spec.fps, self.random)
            first = (number * 1300 + position * NUMBERS_PER_FILE) % 3700
            chunk, file = places[episodes[0]]
            path = self.folder / video_path(self.spec, camera.container).format(
                video_key=name, chunk_index=chunk, file_index=file, episode_chunk=0, episode_index=episodes[0]
            )
            write_video(path, plan.times, first, camera, self.spec.fps)
            if timing == "video_missing":
                path.unlink()
            if timing == "video_cut":
                path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
            for episode, start, rows, expectation in zip(
                episodes, plan.starts, plan.frames, plan.expected, strict=True
            ):
                numbers[episode] = [None if row is None else first + row for row in rows]
                expected[episode] = expectation
                prefix = f"videos/{name}"
                self.video_columns[episode] |= {
                    f"{prefix}/chunk_index": chunk,
                    f"{prefix}/file_index": file,
                    f"{prefix}/from_timestamp": start,
                    f"{prefix}/to_timestamp": start + self.lengths[episode] / self.spec.fps,
                }

    def _spoil(self) -> None:
        """Spoil the rows of the last episode, or the order of rows."""
        episode = self.ids[-1]
        columns, length = self.columns[episode], self.lengths[episode]
        if self.odd & {"state_nan", "state_null", "state_width"}:
            cells: list[Any] = self.truth.vectors[STATE][episode].tolist()
            if "state_nan" in self.odd:
                cells[-1][0] = float("nan")
            else:
                cells[-1] = None if "state_null" in self.odd else cells[-1] + [0.0]
            self.features[STATE]["shape"] = [len(self.truth.vectors[STATE][episode][0])]
            for each, others in self.columns.items():
                others[STATE] = pa.array(
                    cells if each == episode else self.truth.vectors[STATE][each].tolist(), pa.list_(pa.float32())
                )
        if "task_unknown" in self.odd:
            columns["task_index"] = self._integers(np.full(length, 77))
        if "rows_reversed" in self.odd:
            for name, values in columns.items():
                columns[name] = values[::-1]

    def _rename(self) -> None:
        """Name state and action as other tools do: `state` and `actions`, or a feature for each part."""
        if "state_named_otherwise" in self.odd:
            for name, other in ((STATE, "state"), (ACTION, "actions")):
                self.features[other] = self.features.pop(name)
                for columns in self.columns.values():
                    columns[other] = columns.pop(name)
        elif "state_in_parts" in self.odd:
            for name, prefix in ((STATE, "observation.states."), (ACTION, "actions.")):
                width = self.features.pop(name)["shape"][0]
                first = max(1, width // 2)
                parts = {"left": slice(0, first), "right": slice(first, width)} if width > 1 else {"all": slice(0, 1)}
                for part, numbers in parts.items():
                    size = len(range(width)[numbers])
                    self.features[prefix + part] = {"dtype": "float32", "shape": [size], "names": None}
                    for episode, columns in self.columns.items():
                        columns.pop(name, None)
                        columns[prefix + part] = self._stored(self.truth.vectors[name][episode][:, numbers])

    def _add_depth(self) -> None:
        """A depth camera without files: it cannot be read as colours, so nobody looks for its files."""
        if "depth_camera" in self.odd:
            video = {"video.is_depth_map": True, "video.pix_fmt": "gray12le"}
            depth = {"dtype": "video", "shape": [32, 32, 1], "names": ["height", "width", "channels"], "info": video}
            self.features["observation.images.depth"] = depth

    def _write_tables(self) -> None:
        files: dict[tuple[int, int], list[int]] = {}
        for episode in self.ids:
            files.setdefault(self.places[episode], []).append(episode)
        for position, ((chunk, file), episodes) in enumerate(files.items()):
            path = self.folder / data_path(self.spec).format(
                chunk_index=chunk, file_index=file, episode_chunk=0, episode_index=episodes[0]
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pa.concat_tables([pa.table(self.columns[episode]) for episode in episodes])
            if "rows_interleaved" in self.odd:
                table = table.take(pa.array(self.numpy.permutation(len(table))))
            compression = self.spec.compression
            pq.write_table(table, path, row_group_size=self.spec.row_group, compression=compression)
            if position:
                continue
            if "table_missing" in self.odd:
                path.unlink()
            elif "table_cut" in self.odd:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            elif "table_is_pointer" in self.odd:
                path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")

    def _episodes(self) -> list[dict[str, Any]]:
        rows, running = [], 0
        for episode in self.ids:
            length = self.lengths[episode]
            chunk, file = self.places[episode]
            if "stale_file_index" in self.odd and episode == self.ids[-1]:
                files = sorted(set(self.places.values()))
                at = files.index((chunk, file))
                chunk, file = files[at - 1 if at else min(1, len(files) - 1)]
            row = {"episode_index": episode, "tasks": list(dict.fromkeys(self.truth.tasks[episode])), "length": length}
            if self.spec.v3:
                row |= {"dataset_from_index": running, "dataset_to_index": running + length}
                row |= {"data/chunk_index": chunk, "data/file_index": file, **self.video_columns[episode]}
            rows.append(row)
            running += length
        if "episode_twice" in self.odd:
            rows.append(rows[0])
        if "length_wrong" in self.odd:
            rows[-1] = {**rows[-1], "length": rows[-1]["length"] + 1}
        return rows


def _png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
