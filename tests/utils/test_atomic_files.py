"""Atomic writes: a file is complete or unchanged."""

from __future__ import annotations

import os
import socket
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


def hidden_prefix(out: Path) -> str:
    """The name of a hidden folder of `out` without its random end."""
    staged = StagedFolder(out)
    name = staged.path().name
    staged.discard()
    return name[:-8]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "copy"
    prefix = hidden_prefix(out)
    left = tmp_path / f"{prefix}0123abcd"
    (left / "videos").mkdir(parents=True)
    names = (f"{prefix}notes", f"{prefix[1:]}0123abcd", prefix.replace("copy", "other") + "0123abcd")
    others = [tmp_path / name for name in names]
    for other in others:
        other.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / f"{prefix}89abcdef").symlink_to(outside)
    running = StagedFolder(out)
    begun = running.path()
    assert not left.exists()
    StagedFolder(out).path()
    # The other folder of the same name is still being written.
    assert begun.is_dir() and outside.is_dir() and all(other.is_dir() for other in others)
    running.publish()
    assert out.is_dir() and not begun.exists()


def test_what_another_host_left_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "copy"
    monkeypatch.setattr(socket, "gethostname", lambda: "one")
    left = tmp_path / f"{hidden_prefix(out)}0123abcd"
    left.mkdir()
    # Locks of a network file system may hold on one host only.
    monkeypatch.setattr(socket, "gethostname", lambda: "two")
    StagedFolder(out).path()
    assert left.is_dir()
    monkeypatch.setattr(socket, "gethostname", lambda: "one")
    StagedFolder(out).path()
    assert not left.exists()


def test_a_folder_that_another_run_removes_at_once_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, removed = os.open, []

    def open_after_removal(path: Path, *arguments: int) -> int:
        if not removed:
            removed.append(path)
            path.rmdir()
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", open_after_removal)
    staged = StagedFolder(tmp_path / "copy")
    assert staged.path().is_dir() and removed and staged.path() != removed[0]
