"""Atomic writes: a file is complete or unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_ptr.utils.atomic_files import StagedFolder, atomic_write, write_json, write_text


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text("before", path)
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_json_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json({"ü": [1, 2.5]}, path)
    assert path.read_text(encoding="utf-8").startswith('{\n    "ü"')
    with pytest.raises(ValueError, match=r"NaN|nan"):
        write_json({"x": float("nan")}, path)
    assert "ü" in path.read_text(encoding="utf-8")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    out, left = tmp_path / "copy", tmp_path / ".copy.partial-0123abcd"
    (left / "videos").mkdir(parents=True)
    others = [tmp_path / name for name in (".copy.partial-notes", ".other.partial-0123abcd", "copy.partial-0123abcd")]
    for other in others:
        other.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / ".copy.partial-89abcdef").symlink_to(outside)
    running = StagedFolder(out)
    begun = running.path()
    assert not left.exists()
    StagedFolder(out).path()
    # The other folder of the same name is still being written.
    assert begun.is_dir() and outside.is_dir() and all(other.is_dir() for other in others)
    running.publish()
    assert out.is_dir() and not begun.exists()
