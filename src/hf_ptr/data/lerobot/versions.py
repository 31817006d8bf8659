"""The layout of a dataset's folder, from the version in its metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_ptr.errors import InputError

_VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.\d+)*", re.IGNORECASE)
# Versions by major and minor number, and the layout that each has. v2.0 differs from v2.1 in its statistics alone.
_LAYOUTS = {(3, 0): "v3.0", (2, 1): "v2.1", (2, 0): "v2.1"}
_NEWEST = {3: "v3.0", 2: "v2.1"}
# A dataset in the cache of huggingface_hub.
_CACHED = re.compile(r"(^|/)datasets--[^/]+?--(?P<name>[^/]+)/snapshots/[0-9a-f]{40}(?P<folder>/.+)?$")


def layout_of(root: Path, info: Mapping[str, Any], note: Callable[[str], None]) -> str:
    """
    The layout in which to read a dataset: `"v3.0"` or `"v2.1"`.

    Args:
        root: the dataset's folder.
        info: content of `meta/info.json`.
        note: called with a warning where the layout is assumed.

    Raises:
        InputError: the version is older than v2.0 or of a newer LeRobot, or nothing tells the layout.
    """
    path, stored = root / "meta" / "info.json", info.get("codebase_version")
    text = "" if isinstance(stored, bool) else str(stored).strip()
    version = _VERSION.fullmatch(text)
    if version is None:
        found = _by_files(root)
        if found is None:
            raise InputError(
                f"{path}: codebase_version is {stored!r}, and {root} has neither meta/episodes nor "
                "meta/episodes.jsonl; set codebase_version to v3.0 or v2.1"
            )
        note(f"{path}: codebase_version is {stored!r}; read as {found}, by the files of the dataset")
        return found
    major, minor = int(version[1]), int(version[2] or 0)
    if major > max(_NEWEST):
        raise InputError(f"{path}: codebase_version {stored!r} was written by a newer LeRobot; update hf-ptr")
    if major not in _NEWEST:
        raise InputError(
            f"{path}: codebase_version {stored!r} is older than v2.0; convert the dataset with the script "
            "convert_dataset_v1_to_v2.py of LeRobot 0.1"
        )
    known = _LAYOUTS.get((major, minor))
    if known is None:
        known = _NEWEST[major]
        note(f"{path}: codebase_version {stored!r} is newer than {known}; read as {known}")
    return known


def has_v21_files(root: Path) -> bool:
    """Whether a folder has the files of a dataset before v3.0, which LeRobot 0.6 does not read."""
    return (root / "meta" / "episodes.jsonl").is_file()


def conversion_command(folder: str, ending: str = "_v30", *options: str) -> list[str]:
    """
    The words of the command that writes a copy of a dataset in format v3.0 at [`copy_of`].

    Args:
        folder: the folder, as the user named it, or a folder in the cache.
        ending: of the name of the copy.
        options: further words.
    """
    return ["hf-ptr", "convert", "lerobot", str(Path(folder)), str(copy_of(folder, ending)), *options]


def copy_of(folder: str, ending: str) -> Path:
    """
    The folder for a copy of a dataset: next to it, with its name and an ending.

    The copy of a dataset in the cache of the Hub gets the name of its repository, or of its folder there, in the
    working directory.
    """
    source = Path(folder)
    # "." and ".." hold no name; "." added to a folder names a hidden one in it.
    beside = source.with_name(source.name + ending) if source.name not in ("", "..") else None
    cached = _CACHED.search(source.as_posix())
    if cached is not None:
        return Path((source.name if cached["folder"] else cached["name"]) + ending)
    return beside or source / ".." / (source.resolve().name + ending)


def _by_files(root: Path) -> str | None:
    if (root / "meta" / "episodes").is_dir():
        return "v3.0"
    return "v2.1" if has_v21_files(root) else None
