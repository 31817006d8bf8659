"""Reading LeRobotDatasets v3.0 and v2.1, and the one-line error for every malformed folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import REAL_V21, assert_same_table, coded_table, snapshot, vector, write_lines, write_v21
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spoiling import cut_rows, damage, edit_feature, edit_info, edit_rows, link, remove, set_row, write

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError

LENGTHS = [8, 3, 11]
DATA_V3 = "data/chunk-000/file-000.parquet"
DATA_V21 = "data/chunk-000/episode_000001.parquet"
EPISODES_V3 = "meta/episodes/chunk-000/file-000.parquet"

# Real robot data if they are available next to the checkout, and always a synthetic folder of the same layout.
V21_SOURCES = ["built", *(["g1_bottle"] if (REAL_V21 / "meta/info.json").is_file() else [])]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same episodes as v3.0 and as v2.1."""
    root = tmp_path_factory.mktemp("datasets")
    table = coded_table(LENGTHS)
    return {"v3.0": write_table(table, root / "v30"), "v2.1": write_v21(table, root / "v21")}


@pytest.fixture(params=V21_SOURCES)
def v21_folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return REAL_V21 if request.param == "g1_bottle" else folders["v2.1"]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_both_versions_give_the_same_table(folders: dict[str, Path], version: str) -> None:
    table = read_dataset(folders[version])
    assert_same_table(table, coded_table(LENGTHS))
    assert table.source == folders[version].name
    assert table.features["action"]["dtype"] == "float32"


def test_both_versions_give_the_same_batches(folders: dict[str, Path]) -> None:
    batches = []
    for folder in folders.values():
        dataset = ChunkDataset(read_dataset(folder), chunk_size=4, target_offset=3)
        batches.append(dataset.batch(range(len(dataset))))
    for key, value in batches[0].items():
        assert value.equal(batches[1][key]), key


def test_v21_values_equal_those_of_its_files(v21_folder: Path, tmp_path: Path) -> None:
    table = read_dataset(v21_folder)
    info = json.loads((v21_folder / "meta/info.json").read_text())
    assert table.num_episodes == info["total_episodes"] and table.num_frames == info["total_frames"]
    assert table.fps == info["fps"] and table.robot_type == info["robot_type"]
    for position in (0, table.num_episodes - 1):
        stored = pq.ParquetFile(v21_folder / f"data/chunk-000/episode_{position:06d}.parquet").read()
        rows = slice(table.starts[position], table.starts[position] + table.lengths[position])
        for name in ("observation.state", "action"):
            np.testing.assert_array_equal(table.columns[name][rows], np.array(stored[name].to_pylist(), np.float32))
        assert table.frame_id[rows].tolist() == stored["index"].to_pylist()
    # Writing as v3.0 and reading again changes nothing.
    assert_same_table(read_dataset(write_table(table, tmp_path / "out")), table)
    chosen = [table.num_episodes - 1, 0]
    assert_same_table(read_dataset(v21_folder, chosen), table.select(chosen))


def test_only_the_files_of_the_wanted_episodes_are_needed(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["v2.1"], tmp_path / "copy")
    (copy / DATA_V21).unlink()
    assert read_dataset(copy, [2, 0]).lengths.tolist() == [11, 8]


def test_task_numbers_need_not_start_at_zero(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["v2.1"], tmp_path / "copy")
    write_lines(copy / "meta/tasks.jsonl", [{"task_index": n, "task": t} for n, t in ((7, "c"), (1, "b"), (0, "a"))])
    table = read_dataset(copy, [0, 1])
    assert table.tasks == ("a", "b", "c") and sorted(set(table.task_index.tolist())) == [0, 1]


def test_scalars_and_arrays_become_columns_and_text_is_left_out(tmp_path: Path) -> None:
    table = coded_table([4, 5])
    table.columns["next.reward"] = np.arange(9, dtype=np.float32)[:, None]
    table.features.update(
        {
            "next.reward": vector(1),
            "note": {"dtype": "string", "shape": [1]},
        }
    )
    write_v21(table, tmp_path / "v21")
    # Lists of length one here; pandas and older tools write scalars.
    read = read_dataset(tmp_path / "v21")
    assert list(read.columns) == ["observation.state", "action", "next.reward"]
    np.testing.assert_array_equal(read.columns["next.reward"], np.arange(9)[:, None])
    assert_same_table(read_dataset(write_table(read, tmp_path / "v30")), read)


def test_variable_lists_and_other_number_types_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["v3.0"], tmp_path / "copy")
    stored = pq.read_table(copy / DATA_V3)
    doubles = pa.array(stored["action"].to_pylist(), pa.list_(pa.float64()))
    small = stored["task_index"].cast(pa.int8())
    stored = stored.set_column(stored.column_names.index("action"), "action", doubles)
    stored = stored.set_column(stored.column_names.index("task_index"), "task_index", small)
    pq.write_table(stored, copy / DATA_V3, row_group_size=5)
    assert_same_table(read_dataset(copy), coded_table(LENGTHS))


# --- malformed folders: version, damage, expected message ---


def no_episodes(root: Path) -> None:
    edit_info(total_episodes=0, total_frames=0)(root)
    cut_rows(EPISODES_V3, 0)(root)


# The vectors of the table, and one that a malformed folder lists without having it.
USED = ("observation.state", "action", "effort")
NAN, INF = float("nan"), float("inf")
MALFORMED: list[tuple[str, Callable[[Path], None], str]] = [
    ("v3.0", remove("meta/info.json"), r"is not a LeRobotDataset: meta/info\.json is missing"),
    ("v3.0", write("meta/info.json", '{"fps": 30,'), r"info\.json is not valid JSON: .*line 1"),
    ("v3.0", write("meta/info.json", b"\xff\xfe"), r"info\.json is not valid JSON"),
    ("v3.0", write("meta/info.json", b"\xff{}"), r"info\.json cannot be read as text"),
    ("v3.0", write("meta/info.json", "[" * 100_000), r"info\.json is not valid JSON"),
    ("v3.0", write("meta/info.json", "[1, 2]"), r"info\.json is not a JSON object"),
    ("v3.0", edit_info(codebase_version="v2.0"), r"not a LeRobotDataset v2\.1: meta/episodes\.jsonl is missing"),
    ("v3.0", edit_info(codebase_version="v1.6"), r"'v1\.6' is older than v2\.0; convert the dataset with"),
    ("v3.0", edit_info(codebase_version="v4.0"), r"'v4\.0' was written by a newer LeRobot; update hf-ptr"),
    ("v3.0", edit_info(fps=0), "fps is 0; it must be a positive number"),
    ("v3.0", edit_info(fps=NAN), "fps is nan; it must be a positive number"),
    ("v3.0", edit_info(fps="30"), "fps is '30'; it must be a positive number"),
    ("v3.0", edit_info(robot_type=3), "robot_type is 3"),
    ("v3.0", edit_info(features={}), "'features' is missing or empty"),
    ("v3.0", edit_info(features=[1]), "'features' is missing or empty"),
    ("v3.0", edit_feature("action", shape="four"), "'action' .* cannot be used: meta/info.json gives no shape"),
    ("v3.0", edit_feature("action", shape=[-4]), r"cannot be used: its shape \[-4\] is not made of positive integers"),
    ("v3.0", edit_feature("action", dtype=None), "'action' .* cannot be used: meta/info.json gives no dtype"),
    ("v3.0", edit_feature("action", shape=[5]), r"'action' has 4 values in row 0, expected 5"),
    (
        "v3.0",
        edit_feature("action", shape=[2**30]),
        "it has 1073741824 numbers per frame, more than 4096",
    ),
    ("v3.0", edit_feature("effort", dtype="float32", shape=[2]), "lacks the column 'effort'"),
    ("v3.0", edit_info(data_path="../elsewhere/{file_index}.parquet"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="/tmp/{file_index}.parquet"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="data/../../{file_index}"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="..\\..\\{file_index}"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="C:{file_index}"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="https://host/{file_index}.parquet"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="file:///etc/{file_index}"), "leaves the dataset's folder"),
    ("v3.0", edit_info(data_path="data/\0{file_index}"), "leaves the dataset's folder"),
    (
        "v3.0",
        link("data/chunk-000"),
        r"file-000\.parquet is a link out .* set .* HF_PTR_FOLLOW_LINKS=1",
    ),
    ("v3.0", link(DATA_V3), r"file-000\.parquet is a link out of the dataset's folder"),
    ("v3.0", link(EPISODES_V3), r"file-000\.parquet is a link out of the dataset's folder"),
    ("v3.0", link("meta/info.json"), r"meta/info\.json is a link out of the dataset's folder"),
    ("v3.0", link("meta/tasks.parquet"), r"meta/tasks\.parquet is a link out of the dataset's folder"),
    ("v3.0", link("meta"), r"meta/info\.json is a link out of the dataset's folder"),
    ("v2.1", link("meta/episodes.jsonl"), r"meta/episodes\.jsonl is a link out of the dataset's folder"),
    ("v2.1", link(DATA_V21), r"episode_000001\.parquet is a link out of the dataset's folder"),
    ("v3.0", edit_info(data_path="data/{episode}.parquet"), "is not a template of chunk_index, file_index"),
    ("v3.0", edit_info(data_path="data/{file_index:999999999d}"), "is not a template"),
    ("v3.0", edit_info(data_path="data/{file_index.__class__}"), "is not a template"),
    ("v3.0", edit_info(data_path="data/{file_index"), "is not a template"),
    ("v3.0", edit_info(data_path=7), "is not a template"),
    ("v3.0", edit_info(data_path="data/none-{file_index:03d}.parquet"), r"data/none-000\.parquet is missing"),
    ("v3.0", remove("meta/tasks.parquet"), r"is not a LeRobotDataset v3\.0: meta/tasks\.parquet is missing"),
    ("v3.0", remove("meta/episodes"), r"meta/episodes/chunk-000/file-000\.parquet is missing"),
    ("v3.0", remove(DATA_V3), r"data/chunk-000/file-000\.parquet is missing; the metadata list episodes in it"),
    ("v3.0", damage(DATA_V3, 900), r"file-000\.parquet is damaged"),
    ("v3.0", damage(DATA_V3, 0), r"file-000\.parquet is damaged"),
    ("v3.0", write("meta/tasks.parquet", "PAR1 no"), r"tasks\.parquet is damaged"),
    ("v3.0", damage(EPISODES_V3, 400), r"file-000\.parquet is damaged"),
    ("v3.0", no_episodes, "has no episodes; record some first"),
    ("v3.0", edit_rows(EPISODES_V3, "length", lambda _: None), "lacks the column 'length'"),
    ("v3.0", edit_rows(EPISODES_V3, "length", lambda _: [9, 3, 10]), "episode 0 has 8 rows, its metadata list 9"),
    ("v3.0", edit_rows(EPISODES_V3, "length", lambda _: [0, 0, 0]), "has no episodes; record some first"),
    (
        "v3.0",
        edit_rows(EPISODES_V3, "length", lambda v: pa.array([str(n) for n in v])),
        "'length' has type string, expected integers",
    ),
    ("v3.0", edit_rows(EPISODES_V3, "length", set_row(1, None)), "'length' has a missing value in row 1"),
    ("v3.0", edit_rows(EPISODES_V3, "episode_index", lambda _: [0, 1, 1]), "the metadata list episode 1 twice"),
    ("v3.0", edit_rows(EPISODES_V3, "data/file_index", lambda _: [0, 0, 1]), r"file-001\.parquet is missing"),
    (
        "v3.0",
        edit_rows("meta/tasks.parquet", "task", lambda _: None),
        "has no text; it must have one column",
    ),
    ("v3.0", edit_rows("meta/tasks.parquet", "task_index", lambda _: [0, 1, 1]), "one task_index to several tasks"),
    (
        "v3.0",
        edit_rows("meta/tasks.parquet", "task", set_row(0, None)),
        "the metadata contain no task, or a task that is not a text",
    ),
    ("v3.0", edit_rows(DATA_V3, "action", lambda _: None), "lacks the column 'action'"),
    ("v3.0", edit_rows(DATA_V3, "action", set_row(9, [0, 0, NAN, 0])), "'action' .* is NaN .* episode 1, frame 1"),
    ("v3.0", edit_rows(DATA_V3, "observation.state", set_row(21, [INF, 0, 0])), "state' .* episode 2, frame 10"),
    ("v3.0", edit_rows(DATA_V3, "action", set_row(4, None)), "'action' has a missing value in row 4"),
    ("v3.0", edit_rows(DATA_V3, "action", set_row(4, [0, 0, None, 0])), "'action' has a missing value in row 4"),
    (
        "v3.0",
        edit_rows(DATA_V3, "action", lambda v: pa.array([str(a) for a in v])),
        "'action' has type string, expected lists of 4 numbers",
    ),
    (
        "v3.0",
        edit_rows(DATA_V3, "action", lambda v: pa.array([["a"] * 4 for _ in v])),
        "has type string, expected numbers",
    ),
    ("v3.0", edit_rows(DATA_V3, "action", lambda v: pa.array([*v[:5], [0.0], *v[6:]])), "has 1 values in row 5"),
    ("v3.0", edit_rows(DATA_V3, "task_index", set_row(3, 9)), "use task_index 9, which is not in the metadata"),
    ("v3.0", edit_rows(DATA_V3, "task_index", set_row(3, -1)), "use task_index -1"),
    (
        "v3.0",
        edit_rows(DATA_V3, "frame_index", set_row(3, 4)),
        "episode 0 is out of order: frame_index is wrong in its row 3",
    ),
    (
        "v3.0",
        edit_rows(DATA_V3, "index", lambda v: pa.array([n + 0.5 for n in v])),
        "is 0.5 in row 0, expected",
    ),
    (
        "v3.0",
        edit_rows(DATA_V3, "index", lambda v: pa.array([str(n) for n in v])),
        "string, expected integers",
    ),
    ("v3.0", edit_rows(DATA_V3, "timestamp", lambda v: v[::-1]), "episode 0, frame 1: timestamps are out of order"),
    ("v3.0", edit_info(fps=25), "episode 0: fps mismatch: timestamps give 20 frames per second, info.json 25"),
    ("v3.0", edit_rows(DATA_V3, "episode_index", set_row(12, 0)), "rows of episode 0 are not adjacent"),
    ("v3.0", cut_rows(DATA_V3, 21), "the metadata list 22 frames, the data files have 21"),
    ("v2.1", remove("meta/episodes.jsonl"), r"is not a LeRobotDataset v2\.1: meta/episodes\.jsonl is missing"),
    ("v2.1", remove("meta/tasks.jsonl"), r"is not a LeRobotDataset v2\.1: meta/tasks\.jsonl is missing"),
    (
        "v2.1",
        write("meta/tasks.jsonl", '{"task_index": 0, "task": "a"}\n{oh'),
        r"tasks\.jsonl, line 2 is not valid JSON",
    ),
    ("v2.1", write("meta/tasks.jsonl", '{"task_index": 0}'), r"tasks\.jsonl, line 1: 'task' is missing"),
    ("v2.1", write("meta/tasks.jsonl", "\n"), "the metadata contain no task"),
    ("v2.1", write("meta/episodes.jsonl", "3"), r"line 1: 'episode_index' is missing or not of type int"),
    (
        "v2.1",
        write("meta/episodes.jsonl", '{"episode_index": -1, "length": 3}'),
        "'episode_index' is -1, out of range",
    ),
    ("v2.1", write("meta/episodes.jsonl", ""), "has no episodes"),
    ("v2.1", edit_info(chunks_size=0), "chunks_size is 0"),
    ("v2.1", edit_info(data_path="../{episode_index}"), "leaves the dataset's folder"),
    ("v2.1", remove(DATA_V21), r"data/chunk-000/episode_000001\.parquet is missing"),
    ("v2.1", damage(DATA_V21, 500), r"episode_000001\.parquet is damaged"),
    ("v2.1", cut_rows(DATA_V21, 2), "the metadata list 22 frames, the data files have 21"),
    ("v2.1", edit_rows(DATA_V21, "action", set_row(2, [0, INF, 0, 0])), "'action' .* episode 1, frame 2"),
]


@pytest.mark.parametrize(("version", "spoil", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_folders_get_one_line(
    folders: dict[str, Path], tmp_path: Path, version: str, spoil: Callable[[Path], None], message: str
) -> None:
    root = shutil.copytree(folders[version], tmp_path / "spoilt")
    spoil(root)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(root, features=USED).require_finite(USED[:2])
    assert "\n" not in str(caught.value) and "spoilt" in str(caught.value)
    assert snapshot(tmp_path) == before


def test_links_within_the_folder_and_of_the_whole_folder_are_followed(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(folders["v3.0"], tmp_path / "real"))
    (root / "data").rename(root / "elsewhere")
    (root / "data").symlink_to(root / "elsewhere")
    (tmp_path / "named").symlink_to(root)
    for path in (root, tmp_path / "named"):
        assert_same_table(read_dataset(path), coded_table(LENGTHS))
    # The layout of the Hub's cache: links to a blob store next to the snapshots; other links are refused.
    snapshot_of = tmp_path / "datasets--user--name" / "snapshots" / ("0" * 40)
    shutil.copytree(folders["v3.0"], snapshot_of)
    blobs = snapshot_of.parents[1] / "blobs"
    blobs.mkdir()
    (snapshot_of / DATA_V3).rename(blobs / "abc")
    (snapshot_of / DATA_V3).symlink_to(blobs / "abc")
    assert_same_table(read_dataset(snapshot_of), coded_table(LENGTHS))
    (blobs / "abc").rename(tmp_path / "abc")
    (snapshot_of / DATA_V3).unlink()
    (snapshot_of / DATA_V3).symlink_to(tmp_path / "abc")
    with pytest.raises(InputError, match="is a link out of the dataset's folder"):
        read_dataset(snapshot_of)


def test_a_path_that_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in (
        ("none", "does not exist; pass the folder"),
        ("file", "is a file, not a folder"),
        ("", "is not a LeRobotDataset: meta/info.json is missing"),
    ):
        with pytest.raises(InputError, match=message):
            read_dataset(tmp_path / path)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([5], "has no episode 5; its episode ids are in 0..2"),
        ([1, 1], "episode 1 .* selected twice"),
        ([], "no episodes"),
    ],
)
def test_wrong_selections(folders: dict[str, Path], episodes: list[int], message: str) -> None:
    for select in (lambda: read_dataset(folders["v3.0"], episodes), lambda: coded_table(LENGTHS).select(episodes)):
        with pytest.raises(InputError, match=message):
            select()


def test_an_inconsistent_table_is_refused() -> None:
    good = coded_table([4, 5])
    parts = {field: getattr(good, field) for field in good.__dataclass_fields__}
    for change, message in (
        ({"lengths": np.array([4, 4])}, "do not cover its 9 frames"),
        ({"starts": np.array([0, 5])}, "do not cover its 9 frames"),
        ({"frame_id": np.arange(8)}, "do not cover its 9 frames"),
        (
            {"columns": {"action": np.zeros((8, 2))}},
            r"'action' of 'coded' has shape \(8, 2\), expected \(9, d\)",
        ),
        ({"columns": {}, "task_index": np.zeros(0, np.int64)}, "has no frames"),
    ):
        with pytest.raises(InputError, match=message):
            EpisodeTable(**{**parts, **change})


FUZZED = ["meta/info.json", "meta/tasks.parquet", EPISODES_V3, DATA_V3]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(FUZZED),
    place=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=12),
    cut=st.booleans(),
)
# Regression: a damaged page header gave a column of three rows instead of eleven.
@example(name=DATA_V3, place=0.010962515891996372, junk=b"\x01", cut=False)
def test_damaged_bytes_never_give_a_traceback(
    folders: dict[str, Path], tmp_path: Path, name: str, place: float, junk: bytes, cut: bool
) -> None:
    root = tmp_path / "fuzzed"
    if not root.exists():
        shutil.copytree(folders["v3.0"], root)
    original = (folders["v3.0"] / name).read_bytes()
    start = int(place * len(original))
    (root / name).write_bytes(original[:start] + junk + (b"" if cut else original[start + len(junk) :]))
    try:
        table = read_dataset(root)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert table.num_frames == sum(LENGTHS)
    (root / name).write_bytes(original)
