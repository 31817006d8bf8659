"""Write the metadata of a drawn dataset."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.reader_fuzz.spec import DatasetSpec

V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}."
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}."

Rows = list[dict[str, Any]]
# Number and text.
Tasks = list[tuple[int, str]]


def data_path(spec: DatasetSpec) -> str:
    """The template of the paths of tables; a fork's dataset has that of the other version."""
    return V3_DATA if spec.v3 != ("foreign_template" in spec.oddities) else V2_DATA


def video_path(spec: DatasetSpec, container: str) -> str:
    """The template of the paths of videos."""
    return (V3_VIDEO if spec.v3 != ("foreign_template" in spec.oddities) else V2_VIDEO) + container


def write_metadata(
    spec: DatasetSpec,
    odd: frozenset[str],
    meta: Path,
    features: dict[str, dict[str, Any]],
    episodes: Rows,
    numbers: list[int],
) -> None:
    """
    Write the folder `meta`.

    Args:
        spec: the dataset.
        odd: its oddities, without those that cannot occur in it.
        meta: the folder.
        features: the features of `info.json`.
        episodes: a row for each episode, as in the tables of v3.0.
        numbers: the number of each task.
    """
    meta.mkdir(parents=True, exist_ok=True)
    random = Random(spec.content)
    total, count = sum(spec.lengths), len(spec.ids)
    container = next((camera.container for camera in spec.cameras if camera.stored == "video"), "mp4")
    info: dict[str, Any] = {
        "codebase_version": spec.version,
        "robot_type": random.choice(("arm", None, "Roboter")),
        "total_episodes": count,
        "total_frames": total,
        "total_tasks": len(spec.tasks),
        "chunks_size": 1000,
        "fps": float(spec.fps) if spec.content % 7 == 1 else spec.fps,
        "splits": {"train": f"0:{count}"},
        "data_path": data_path(spec),
        "video_path": video_path(spec, container),
        "features": features,
    }
    spelled = {"v3.0": ("3.0", 3.0, "v3.0.0"), "v2.1": ("2.1", 2.1, "v2.1.0"), "v2.0": ("2.0", 2.0, "v2.0.0")}
    versions = {
        "version_spelled": random.choice(spelled[spec.version]),
        "version_minor": "v3.1",
        "version_missing": None,
        "version_newer": "v7.0",
        "version_older": "v1.6",
    }
    for name in odd & versions.keys():
        info["codebase_version"] = versions[name]
    if "no_templates" in odd and container == "mp4":
        del info["data_path"], info["video_path"]
    if "totals_wrong" in odd:
        info |= {"total_episodes": count + 1} if random.random() < 0.5 else {"total_frames": total - 1}
    if "totals_missing" in odd:
        del info["total_episodes"], info["total_frames"], info["total_tasks"]
    _text(meta / "info.json", json.dumps(info, ensure_ascii=False, indent=4), "bom_info" in odd)
    tasks = list(zip(numbers, spec.tasks, strict=True))
    if "task_number_twice" in odd:
        tasks.append((numbers[0], "another task of the same number"))
    (_write_v3 if spec.v3 else _write_v2)(odd, meta, episodes, tasks)
    if spec.version == "v2.0":
        (meta / "stats.json").write_text("{}")


def _write_v2(odd: frozenset[str], meta: Path, episodes: Rows, tasks: Tasks) -> None:
    records = [{"task_index": number, "task": task} for number, task in tasks]
    for name, lines in (("tasks", records), ("episodes", episodes)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        _text(meta / f"{name}.jsonl", text, "bom_lines" in odd)


def _write_v3(odd: frozenset[str], meta: Path, episodes: Rows, tasks: Tasks) -> None:
    half = len(episodes) // 2 if len(episodes) > 3 else len(episodes)
    for number, part in enumerate(filter(None, (episodes[:half], episodes[half:]))):
        path = meta / "episodes" / "chunk-000" / f"file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(part), path)
    path, (numbers, texts) = meta / "tasks.parquet", map(list, zip(*tasks, strict=True))
    form = next((name for name in sorted(odd) if name.startswith("tasks_") and name != "tasks_sparse"), "")
    if form == "tasks_large_text":
        pq.write_table(pa.table({"task": pa.array(texts, pa.large_string()), "task_index": numbers}), path)
    elif form == "tasks_dictionary":
        pq.write_table(pa.table({"task_index": numbers, "task": pa.array(texts).dictionary_encode()}), path)
    elif form == "tasks_range_index":
        pd.DataFrame({"task_index": numbers, "task": texts}).to_parquet(path)
    else:
        name = {"tasks_plural": "tasks", "tasks_unnamed_index": None}.get(form, "task")
        pd.DataFrame({"task_index": numbers}, index=pd.Index(texts, name=name)).to_parquet(path)


def _text(path: Path, text: str, mark: bool) -> None:
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
