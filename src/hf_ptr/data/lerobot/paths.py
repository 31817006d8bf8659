"""Paths from untrusted metadata, restricted to the dataset's folder."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_ptr.errors import InputError

# LeRobot's paths from before info.json contained the templates.
DEFAULT_DATA_PATHS = {
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
DEFAULT_VIDEO_PATHS = {
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
PADDED_INTEGER = re.compile(r"(0?\d{1,2})?d?")


def filled(info: Mapping[str, Any], key: str, values: Mapping[str, int | str], root: Path) -> str:
    """
    Fill in a path template of info.json.

    Raises:
        InputError: the template is not a string with these fields, or the path is outside the dataset's folder.
    """
    template = info[key]
    try:
        fields = list(string.Formatter().parse(template)) if isinstance(template, str) else None
    except ValueError:
        fields = None
    # A width such as {episode_index:999999999d} would exhaust memory; attribute access would expose Python objects.
    if fields is None or any(
        field is not None and (field not in values or conversion or not _plain(spec or "", values[field]))
        for _, field, spec, conversion in fields
    ):
        raise InputError(f"{root}/meta/info.json: {key} {template!r} is not a template of {', '.join(values)}")
    path = template.format(**values)
    if _leads_out(path):
        raise InputError(f"{root}/meta/info.json: {key} {template!r} leaves the dataset's folder")
    return within(root, path)


def within(root: Path, name: str) -> str:
    """
    Check a path relative to a dataset's folder and return it unchanged.

    Raises:
        InputError: the path leaves the folder, directly or through a link.
    """
    if _leads_out(name):
        raise InputError(f"{root}: {name!r} leaves the dataset's folder")
    parent, _, last = name.rpartition("/")
    home = _real(str(root / parent))
    target = os.path.realpath(os.path.join(home, last)) if os.path.islink(os.path.join(home, last)) else home
    if not any(target == allowed or target.startswith(allowed + os.sep) for allowed in _allowed(str(root))):
        raise InputError(
            f"{root}: {name} is a link out of the dataset's folder; copy the files into the folder, or mount "
            "their folder at this path"
        )
    return name


def clear_link_cache() -> None:
    """Clear the cache of resolved links; called when a dataset is opened."""
    _real.cache_clear()


def _leads_out(path: str) -> bool:
    parts = PurePosixPath(path)
    foreign = "\\" in path or "\0" in path or "://" in path or bool(PureWindowsPath(path).drive)
    return parts.is_absolute() or ".." in parts.parts or foreign


def _plain(spec: str, value: int | str) -> bool:
    return spec == "" if isinstance(value, str) else PADDED_INTEGER.fullmatch(spec) is not None


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _allowed(root: str) -> list[str]:
    """The folder itself and, for a snapshot in the Hub's cache, the blob store that its files link to."""
    home = Path(_real(root))
    return [str(home), *([str(home.parents[1] / "blobs")] if home.parent.name == "snapshots" else [])]
