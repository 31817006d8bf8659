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
# The dataset of a stranger could otherwise make a command read, and show or upload, any file of this machine.
FOLLOW_LINKS = "HF_PTR_FOLLOW_LINKS"
# A repository's folder in the cache of huggingface_hub.
REPOSITORY = re.compile(r"(datasets|models|spaces)--")
PADDED_INTEGER = re.compile(r"(0?\d{1,2})?d?")


def path_fields(info: Mapping[str, Any], episode: int) -> dict[str, int]:
    """
    The numbers that a path template may name, for an episode in separate files.

    Forks of LeRobot write templates with the names of the other version: `chunk_index` for `episode_chunk`, and
    `file_index` for `episode_index`.

    Args:
        info: content of `meta/info.json`.
        episode: id of the episode.
    """
    chunk = episode // info["chunks_size"]
    return {"chunk_index": chunk, "file_index": episode, "episode_chunk": chunk, "episode_index": episode}


def filled(info: Mapping[str, Any], key: str, values: Mapping[str, int | str], root: Path) -> str:
    """
    Fill in a path template of info.json, and check that the path stays in the dataset's folder.

    Raises:
        InputError: as [`formatted`], or the path leaves the folder through a link.
    """
    return within(root, formatted(info, key, values, root))


def formatted(info: Mapping[str, Any], key: str, values: Mapping[str, int | str], root: Path) -> str:
    """
    Fill in a path template of info.json without following links.

    Raises:
        InputError: the template is not a string with these fields, or its text leaves the dataset's folder.
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
    return path


def within(root: Path, name: str) -> str:
    """
    Check a path relative to a dataset's folder and return it unchanged.

    A link out of the folder is followed only if the environment variable `HF_PTR_FOLLOW_LINKS` is 1.

    Raises:
        InputError: the path leaves the folder, directly or through a link.
    """
    if _leads_out(name):
        raise InputError(f"{root}: {name!r} leaves the dataset's folder")
    if os.environ.get(FOLLOW_LINKS) == "1":
        return name
    parent, _, last = name.rpartition("/")
    home = _real(str(root / parent))
    target = os.path.realpath(os.path.join(home, last)) if os.path.islink(os.path.join(home, last)) else home
    if not any(target == allowed or target.startswith(allowed + os.sep) for allowed in _allowed(str(root))):
        raise InputError(
            f"{root}: {name} is a link out of the dataset's folder, to {target}; if you trust the dataset, set "
            f"the environment variable {FOLLOW_LINKS}=1"
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
    """The folder itself and, in a snapshot of the Hub's cache, the blob store that its files link to."""
    home = Path(_real(root))
    # A repository may hold several datasets, each in a separate folder.
    snapshots = next((folder for folder in home.parents if folder.name == "snapshots"), None)
    if snapshots is not None and not REPOSITORY.match(snapshots.parent.name):
        snapshots = None
    return [str(home), *([] if snapshots is None else [str(snapshots.parent / "blobs")])]
