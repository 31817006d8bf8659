"""Datasets as converters, forks, disks and caches leave them: read rightly with a warning, or refused in one line."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import hf_ptr, the_line
from data_helpers import assert_same_table, coded_table, with_camera, write_v21
from spoiling import Spoil, edit_info, edit_rows, link

from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import DataWarning, InputError

LENGTHS = [8, 3, 11]
CAMERA = "observation.images.top"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same episodes as v2.1 and v3.0, with a video."""
    root = tmp_path_factory.mktemp("awkward")
    v21 = write_v21(with_camera(coded_table(LENGTHS), CAMERA), root / "v21")
    return {"v2.1": v21, "v3.0": convert_lerobot(v21, root / "v30")}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    def copy(version: str, *spoils: Spoil) -> Path:
        root = Path(shutil.copytree(folders[version], tmp_path / "set"))
        for spoil in spoils:
            spoil(root)
        return root

    return copy


def silently(root: Path, *arguments: Any, **named: Any) -> Any:
    """The table, read without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_dataset(root, *arguments, **named)


def noted(root: Path, *arguments: Any, **named: Any) -> tuple[Any, list[str]]:
    """The table, and the warnings without the folder."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        table = read_dataset(root, *arguments, **named)
    return table, [str(each.message).replace(f"{root}: ", "").replace(f"{root}/", "") for each in seen]


# --- versions ---


@pytest.mark.parametrize(
    ("layout", "version", "warning"),
    [
        ("v3.0", "3.0", None),
        ("v3.0", 3.0, None),
        ("v3.0", "v3.0.0", None),
        ("v3.0", "V3.0", None),
        ("v3.0", "v3.1", "codebase_version 'v3.1' is newer than v3.0; read as v3.0"),
        ("v3.0", None, "codebase_version is None; read as v3.0, by the files of the dataset"),
        ("v3.0", "main", "codebase_version is 'main'; read as v3.0, by the files of the dataset"),
        ("v2.1", "v2.0", None),
        ("v2.1", 2.1, None),
        ("v2.1", None, "codebase_version is None; read as v2.1, by the files of the dataset"),
    ],
)
def test_versions_in_every_form(copied: Callable[..., Path], layout: str, version: Any, warning: str | None) -> None:
    root = copied(layout, edit_info(codebase_version=version))
    table, seen = noted(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert seen == ([] if warning is None else [f"meta/info.json: {warning}"])


def test_v20_is_converted_to_v30(copied: Callable[..., Path], tmp_path: Path) -> None:
    root = copied("v2.1", edit_info(codebase_version="v2.0"))
    out = convert_lerobot(root, tmp_path / "out")
    assert validate_dataset(out).problems == []
    assert_same_table(silently(out), coded_table(LENGTHS))


# --- files of meta/ ---


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xef\xbb\xbf", "utf-8"), (b"", "utf-16"), (b"", "utf-8")])
def test_byte_order_marks_and_line_ends_of_windows(copied: Callable[..., Path], mark: bytes, encoding: str) -> None:
    root = copied("v2.1")
    for path in (root / "meta").glob("*.json*"):
        path.write_bytes(mark + path.read_text().replace("\n", "\r\n").encode(encoding))
    assert_same_table(silently(root), coded_table(LENGTHS))


TASKS = ["do task 0", "do task 1", "do task 2"]
NUMBERS = [0, 1, 2]
TASK_TABLES = {
    "index named task": pd.DataFrame({"task_index": NUMBERS}, index=pd.Index(TASKS, name="task")),
    "index named tasks": pd.DataFrame({"task_index": NUMBERS}, index=pd.Index(TASKS, name="tasks")),
    "index without a name": pd.DataFrame({"task_index": NUMBERS}, index=pd.Index(TASKS)),
    "two columns": pd.DataFrame({"task_index": NUMBERS, "task": TASKS}),
    "integer index left over": pd.DataFrame({"task_index": NUMBERS, "task": TASKS}, index=[0, 0, 0]),
    "other order": pd.DataFrame({"task": TASKS[::-1], "task_index": NUMBERS[::-1]}),
    "numbers as index": pd.DataFrame({"task": TASKS[::-1]}, index=pd.Index(NUMBERS[::-1], name="task_index")),
    "numbers as index without a name": pd.DataFrame({"task": TASKS[::-1]}, index=NUMBERS[::-1]),
    "swapped names": pd.DataFrame({"task": NUMBERS, "task_index": TASKS}),
    "floats": pd.DataFrame({"task": TASKS, "task_index": [0.0, 1.0, 2.0]}),
    "categories": pd.DataFrame({"task": pd.Categorical(TASKS), "task_index": NUMBERS}),
    "another text column": pd.DataFrame({"task": TASKS, "task_index": NUMBERS, "comment": ["a", "b", "c"]}),
}


@pytest.mark.parametrize("form", TASK_TABLES)
def test_tasks_in_every_form_that_pandas_writes(copied: Callable[..., Path], form: str) -> None:
    root = copied("v3.0")
    TASK_TABLES[form].to_parquet(root / "meta/tasks.parquet")
    assert_same_table(silently(root), coded_table(LENGTHS))


def test_tasks_without_numbers_and_under_the_file_of_the_other_version(copied: Callable[..., Path]) -> None:
    root = copied("v3.0")
    pd.DataFrame({"task": TASKS}).to_parquet(root / "meta/tasks.parquet")
    table, seen = noted(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert seen == ["meta/tasks.parquet has no task_index; the tasks are numbered in the order of the file"]
    (root / "meta/tasks.parquet").unlink()
    lines = [json.dumps({"task_index": number, "task": task}) for number, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("\n".join(lines))
    assert_same_table(silently(root), coded_table(LENGTHS))


def test_wrong_totals_and_empty_episodes_are_warnings(copied: Callable[..., Path]) -> None:
    root = copied("v3.0", edit_info(total_episodes=9, total_frames=7))
    rows = pq.read_table(root / EPISODES).to_pylist()
    rows.append({**rows[-1], "episode_index": 3, "length": 0})
    pq.write_table(pa.Table.from_pylist(rows), root / EPISODES)
    table, seen = noted(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert seen == [
        "episode 3 has no frames in the metadata, and is left out",
        "meta/info.json has total_episodes 9, the episodes' metadata 4, which is used",
        "meta/info.json has total_frames 7, the episodes' metadata 22, which is used",
    ]
    found = validate_dataset(root)
    assert found.usable and found.episodes == 3 and found.frames == 22
    assert read_dataset(root, skip=[3]).num_episodes == 3


# --- data files ---


def split(root: Path, at: int) -> None:
    """The rows from `at` onward in a second file; the metadata still list the first episode of it in the first."""
    whole = pq.read_table(root / DATA)
    pq.write_table(whole.slice(0, at), root / DATA)
    pq.write_table(whole.slice(at), root / DATA.replace("file-000", "file-001"))


@pytest.mark.parametrize(("at", "files", "stale"), [(8, [0, 0, 1], 1), (11, [0, 1, 1], 1)])
def test_an_episode_in_the_neighbouring_file(
    copied: Callable[..., Path], at: int, files: list[int], stale: int
) -> None:
    root = copied("v3.0", lambda root: split(root, at), edit_rows(EPISODES, "data/file_index", lambda _: files))
    table, seen = noted(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert len(seen) == 1 and seen[0].startswith(f"episode {stale} lies in data/chunk-000/file-00")
    assert_same_table(read_dataset(root, [stale]), coded_table(LENGTHS).select([stale]))
    found = validate_dataset(root)
    assert found.usable and [str(each) for each in found.problems] == [f"warning: {seen[0]}"]
    # An episode in neither is refused.
    edit_rows(EPISODES, "episode_index", lambda _: [0, 1, 7])(root)
    with pytest.raises(InputError, match="episode 7 has 0 rows"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("version", "data", "video"),
    [
        (
            "v2.1",
            "data/chunk-{chunk_index:03d}/episode_{file_index:06d}.parquet",
            "videos/{video_key}/{file_index}.mp4",
        ),
        (
            "v3.0",
            "data/chunk-{episode_chunk:03d}/{episode_index:04d}.parquet",
            "videos/{video_key}-{episode_index}.mp4",
        ),
    ],
)
def test_templates_with_the_names_of_the_other_version(
    copied: Callable[..., Path], version: str, data: str, video: str
) -> None:
    root = copied(version)
    whole = read_dataset(root)
    for episode, (start, length) in enumerate(zip(whole.starts, whole.lengths, strict=True)):
        names = {"chunk_index": 0, "file_index": episode, "episode_chunk": 0, "episode_index": episode}
        if version == "v3.0":
            pq.write_table(pq.read_table(root / DATA).slice(start, length), root / data.format(**names))
        path = root / video.format(video_key=CAMERA, **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        old = "videos/chunk-000/{}/episode_{:06d}.mp4" if version == "v2.1" else "videos/{}/chunk-000/file-000.mp4"
        shutil.copy(root / old.format(CAMERA, episode), path)
    edit_info(data_path=data, video_path=video)(root)
    table = silently(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert [str(clip.path.relative_to(root)) for clip in table.videos[CAMERA].values()] == [
        video.format(video_key=CAMERA, file_index=n, episode_index=n) for n in range(3)
    ]
    assert_same_table(silently(root, [1]), coded_table(LENGTHS).select([1]))


def test_git_lfs_pointers_are_named(copied: Callable[..., Path]) -> None:
    root = copied("v3.0")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    for name in (DATA, EPISODES, "meta/tasks.parquet", "meta/info.json"):
        content = (root / name).read_bytes()
        (root / name).write_text(pointer)
        with pytest.raises(InputError, match=r"is a Git LFS pointer .*git lfs pull"):
            read_dataset(root)
        assert "git lfs pull" in hf_ptr("validate", root).stdout
        (root / name).write_bytes(content)
    (root / f"videos/{CAMERA}/chunk-000/file-000.mp4").write_text(pointer)
    assert silently(root).num_episodes == 3
    found = validate_dataset(root)
    assert len(found.errors) == 3 and all("git lfs pull" in problem.message for problem in found.errors)


# --- links ---


def test_links_are_followed_by_opt_in_only(copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = copied("v3.0", link("videos"))
    # Vectors need no video.
    table = silently(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert validate_dataset(root, cameras=()).problems == []
    with pytest.raises(InputError, match=r"is a link out of the dataset's folder, to .*HF_PTR_FOLLOW_LINKS=1"):
        table.videos[CAMERA]
    shown = hf_ptr("validate", root)
    assert shown.returncode == 2 and "HF_PTR_FOLLOW_LINKS=1" in shown.stdout
    for value, followed in (("0", False), ("1", True)):
        monkeypatch.setenv("HF_PTR_FOLLOW_LINKS", value)
        assert validate_dataset(root).usable is followed
    # A path that leaves the folder by its text is refused in any case.
    edit_info(data_path="../{file_index}.parquet")(root)
    with pytest.raises(InputError, match="leaves the dataset's folder"):
        read_dataset(root)


def test_a_dataset_in_a_folder_of_a_cached_repository(folders: dict[str, Path], tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--user--many" / "snapshots" / ("a" * 40)
    home, blobs = snapshot / "robot" / "task", snapshot.parents[1] / "blobs"
    shutil.copytree(folders["v3.0"], home)
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in home.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert_same_table(silently(home), coded_table(LENGTHS))
    assert validate_dataset(home).problems == []
    # A folder of that name elsewhere gives no right to its neighbours.
    other = tmp_path / "mine" / "snapshots" / "b"
    other.parent.mkdir(parents=True)
    shutil.copytree(home, other / "task", symlinks=True)
    shutil.copytree(blobs, tmp_path / "mine" / "blobs")
    for path in [path for path in (other / "task").rglob("*") if path.is_symlink()]:
        target = tmp_path / "mine" / "blobs" / path.readlink().name
        path.unlink()
        path.symlink_to(target)
    with pytest.raises(InputError, match="is a link out of the dataset's folder"):
        read_dataset(other / "task")


# --- index columns ---

INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def change(root: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    for path in sorted((root / "data").rglob("*.parquet")):
        pq.write_table(edit(pq.read_table(path)), path)


def as_lists(rows: pa.Table) -> pa.Table:
    for name in INDEX:
        column = pa.FixedSizeListArray.from_arrays(rows[name].combine_chunks(), 1)
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def cast(kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def edit(rows: pa.Table) -> pa.Table:
        for name in INDEX[1:]:
            rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(kind))
        return rows

    return edit


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    "edit", [as_lists, cast(pa.int32()), cast(pa.uint16()), cast(pa.float64()), cast(pa.float32())]
)
def test_index_columns_of_other_types(
    copied: Callable[..., Path], version: str, edit: Callable[[pa.Table], pa.Table]
) -> None:
    root = copied(version)
    change(root, edit)
    assert_same_table(silently(root), coded_table(LENGTHS))
    assert validate_dataset(root).problems == []


DERIVED = {
    "frame_index": "derived from the order of the rows",
    "episode_index": "derived from the metadata",
    "task_index": "derived from the task of each episode in the metadata",
    "index": "frames are numbered by their position in the dataset",
    "timestamp": "derived from the frame rate",
}


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("column", DERIVED)
def test_a_missing_index_column_is_derived(
    copied: Callable[..., Path], tmp_path: Path, version: str, column: str
) -> None:
    root = copied(version)
    change(root, lambda rows: rows.drop_columns([column]))
    table, seen = noted(root)
    assert_same_table(table, coded_table(LENGTHS))
    assert seen == [f"column {column!r} is missing; {DERIVED[column]}"]
    with pytest.warns(DataWarning, match=column):
        part = read_dataset(root, [2, 0])
    assert_same_table(part, coded_table(LENGTHS).select([2, 0]))
    found = validate_dataset(root)
    assert [str(each) for each in found.problems] == [f"warning: {seen[0]}"]
    if version == "v2.1":
        with pytest.warns(DataWarning, match=column):
            out = convert_lerobot(root, tmp_path / "out")
        assert_same_table(silently(out), coded_table(LENGTHS))
        assert validate_dataset(out).problems == []


def test_all_index_columns_missing_at_once(copied: Callable[..., Path]) -> None:
    for version in ("v2.1", "v3.0"):
        root = copied(version)
        change(root, lambda rows: rows.drop_columns(list(INDEX)))
        table, seen = noted(root)
        assert_same_table(table, coded_table(LENGTHS))
        assert len(seen) == 5
        shutil.rmtree(root)


def test_a_missing_task_of_an_episode_with_two_is_refused(copied: Callable[..., Path]) -> None:
    root = copied("v2.1")
    change(root, lambda rows: rows.drop_columns(["task_index"]))
    path = root / "meta/episodes.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["tasks"] = TASKS[:2]
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(InputError, match=r"lacks the column 'task_index', .* do not give episode 1 one known task"):
        read_dataset(root)
    assert read_dataset(root, [0, 2]).task_index.tolist() == [0] * 8 + [2] * 11


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_repeated_numbers_of_frames_are_derived_the_same_for_every_selection(
    copied: Callable[..., Path], version: str
) -> None:
    root = copied(version)
    change(root, lambda rows: rows.set_column(rows.schema.get_field_index("index"), "index", rows["frame_index"]))
    table, seen = noted(root)
    assert table.frame_id.tolist() == list(range(22))
    assert seen == ["column 'index' repeats a value; frames are numbered by their position in the dataset"]
    # Within episode 2 alone nothing repeats, yet its frames keep the numbers that a score file of all has.
    alone, seen = noted(root, [2])
    assert alone.frame_id.tolist() == list(range(11, 22)) and len(seen) == 1
    assert noted(root, skip=[0])[0].frame_id.tolist() == list(range(8, 22))


def test_unique_numbers_with_gaps_are_kept(copied: Callable[..., Path]) -> None:
    root = copied("v3.0", edit_rows(DATA, "index", lambda v: [5 * n + 100 for n in v]))
    assert silently(root).frame_id.tolist() == [5 * n + 100 for n in range(22)]
    assert silently(root, [1]).frame_id.tolist() == [140, 145, 150]


# --- conversion ---


def test_a_column_of_some_episodes_is_never_dropped(copied: Callable[..., Path], tmp_path: Path) -> None:
    root = copied("v2.1")
    path = root / "data/chunk-000/episode_000001.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.append_column("success", pa.array([True] * 3)), path)
    line = the_line(hf_ptr("convert", "lerobot", root, tmp_path / "out"))
    assert "episode_000001.parquet has the column 'success', which the previous episodes lack" in line
    assert not (tmp_path / "out").exists()
    assert hf_ptr("convert", "lerobot", root, tmp_path / "out", "--skip-episodes", "1").returncode == 0
    assert read_dataset(tmp_path / "out").lengths.tolist() == [8, 11]
    only = hf_ptr("convert", "lerobot", root, tmp_path / "only", "--episodes", "1")
    assert only.returncode == 0, only.stderr
    assert "success" in pq.read_table(tmp_path / "only" / DATA).column_names
    pq.write_table(rows, path)
    first = root / "data/chunk-000/episode_000000.parquet"
    pq.write_table(pq.read_table(first).append_column("success", pa.array([True] * 8)), first)
    line = the_line(hf_ptr("convert", "lerobot", root, tmp_path / "again"))
    assert "episode_000001.parquet lacks the column 'success', which the previous episodes have" in line


def test_lists_of_one_become_the_numbers_that_lerobot_reads(copied: Callable[..., Path], tmp_path: Path) -> None:
    root = copied("v2.1")
    change(root, as_lists)
    out = convert_lerobot(root, tmp_path / "out")
    stored = pq.read_table(out / DATA)
    assert [str(stored.schema.field(name).type) for name in INDEX] == ["float", *["int64"] * 4]
    assert_same_table(silently(out), coded_table(LENGTHS))


def test_a_written_table_keeps_flattened_arrays(tmp_path: Path) -> None:
    table = coded_table([4, 5])
    table.columns["pose"] = np.arange(54, dtype=np.float32).reshape(9, 6)
    table.features["pose"] = {"dtype": "float32", "shape": [6], "names": None}
    del table.features["observation.images.front"]
    root = write_v21(table, tmp_path / "v21")
    nested = [[row[:3], row[3:]] for row in table.columns["pose"].tolist()]
    for episode, rows in enumerate((nested[:4], nested[4:])):
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        stored = pq.read_table(path)
        pq.write_table(stored.set_column(stored.column_names.index("pose"), "pose", pa.array(rows)), path)
    edit_info(features={**json.loads((root / "meta/info.json").read_text())["features"], "pose": {
        "dtype": "float32", "shape": [2, 3], "names": None,
    }})(root)  # fmt: skip
    read = silently(root)
    np.testing.assert_array_equal(read.columns["pose"], table.columns["pose"])
    for out in (write_table(read, tmp_path / "written"), convert_lerobot(root, tmp_path / "converted")):
        np.testing.assert_array_equal(silently(out).columns["pose"], table.columns["pose"])
