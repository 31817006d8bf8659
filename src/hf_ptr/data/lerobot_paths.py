"""The path templates of `meta/info.json`, which may hold anything, filled in without leaving the dataset's folder."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_ptr.errors import InputError

# What LeRobot wrote before info.json carried the templates.
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
    """Fill in a path template of info.json, refusing whatever is not a path inside the dataset.

    The check is on the text and not on the resolved path: in the Hub's cache, files inside a dataset's folder are
    links to a store beside it.
    """
    template = info[key]
    try:
        fields = list(string.Formatter().parse(template)) if isinstance(template, str) else None
    except ValueError:
        fields = None
    # A width such as {episode_index:999999999d} would exhaust the memory, an attribute would reach into Python.
    if fields is None or any(
        field is not None and (field not in values or conversion or not _plain(spec or "", values[field]))
        for _, field, spec, conversion in fields
    ):
        raise InputError(f"{root}/meta/info.json: {key} {template!r} is not a template of {', '.join(values)}")
    path = template.format(**values)
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or PureWindowsPath(path).drive or "\0" in path:
        raise InputError(f"{root}/meta/info.json: {key} {template!r} leaves the dataset's folder")
    return path


def _plain(spec: str, value: int | str) -> bool:
    return spec == "" if isinstance(value, str) else PADDED_INTEGER.fullmatch(spec) is not None
