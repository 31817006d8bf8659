"""Atomic writes: a file is complete or unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_ptr.utils.atomic_files import atomic_write, write_json, write_text


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
