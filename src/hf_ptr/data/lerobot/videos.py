"""Location of each camera's frames, read when a camera is first accessed, and the choice of the video decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.features import classify_features
from hf_ptr.data.lerobot.columns import episode_runs, open_columns
from hf_ptr.data.lerobot.metadata_files import read_json
from hf_ptr.data.lerobot.paths import filled, formatted, path_fields, within
from hf_ptr.data.lerobot.stored_images import StoredImageClips
from hf_ptr.data.video.decoding import Clip, VideoClip
from hf_ptr.data.video.placement import VideoFile
from hf_ptr.data.video.torchcodec import TorchcodecClip, load_torchcodec
from hf_ptr.errors import InputError, nearest

# One year: no video is longer, so a larger start is damage.
MAX_SECONDS = 3.2e7

Clips = Mapping[int, Clip]
# Returns the `timestamp` column of an episode, or None.
Times = Callable[[int], np.ndarray | None]

# Written with a dataset whose videos were cut between two key frames.
UNSHOWN_FILE = "meta/hf_ptr_unshown_frames.json"

VIDEO_DECODERS = ("pyav", "torchcodec")


class CameraClips(Mapping[str, Clips]):
    """
    The clips of every camera by episode id, read on first access.

    Damaged metadata of a camera raise `InputError` when that camera is accessed, not earlier, because a policy on
    vectors needs no videos.

    Args:
        cameras: names of the cameras.
        read: returns the clips of the camera with the given name.
    """

    def __init__(self, cameras: Sequence[str], read: Callable[[str], Clips]) -> None:
        self._cameras = tuple(cameras)
        self._read = read
        self._found: dict[str, Clips] = {}

    def __getitem__(self, camera: str) -> Clips:
        if camera not in self._cameras:
            raise KeyError(camera)
        if camera not in self._found:
            self._found[camera] = self._read(camera)
        return self._found[camera]

    def __contains__(self, camera: object) -> bool:
        return camera in self._cameras

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)


def camera_clips(
    root: Path,
    info: Mapping[str, Any],
    files: Sequence[Path],
    episodes: Sequence[int],
    lengths: Sequence[int],
    tables: Sequence[str],
) -> CameraClips:
    """
    The cameras of a dataset: features stored as videos, and features stored as images in the tables.

    Args:
        root: the dataset's folder.
        info: content of `meta/info.json`.
        files: the tables of `meta/episodes` (v3.0 only).
        episodes, lengths, tables: ids, frame counts and data files of the episodes.

    Raises:
        InputError: the template of the video paths leaves the folder. This is checked even if no camera is used, since
            such a template is not an accident.
    """
    cameras = cameras_of(info, "video")
    v3 = info["codebase_version"] == "v3.0"
    if info["video_path"] is not None:
        for camera in cameras:
            formatted(info, "video_path", {"video_key": camera, **path_fields(info, 0)}, root)
    stored = dict(zip(episodes, zip(lengths, tables, strict=True), strict=True))
    times = partial(_time_stamps, root, dict(zip(episodes, tables, strict=True)))
    of_videos: Callable[[str], Clips]
    of_videos = (
        partial(_clips_v3, root, info, files, times)
        if v3
        else partial(_clips_v21, root, info, episodes, lengths, times)
    )
    image_cameras = cameras_of(info, "image")
    return CameraClips([*cameras, *image_cameras], partial(_clips, frozenset(image_cameras), of_videos, root, stored))


def cameras_of(info: Mapping[str, Any], kind: str) -> list[str]:
    """The cameras in `meta/info.json` of dtype `"video"`, or of dtype `"image"`."""
    return [
        name
        for name, found in classify_features(info).items()
        if found.kind == "camera" and info["features"][name]["dtype"] == kind
    ]


def _clips(
    image_cameras: frozenset[str],
    of_videos: Callable[[str], Clips],
    root: Path,
    stored: Mapping[int, tuple[int, str]],
    camera: str,
) -> Clips:
    return StoredImageClips(root, camera, stored) if camera in image_cameras else of_videos(camera)


def _clips_v3(root: Path, info: Mapping[str, Any], files: Sequence[Path], times: Times, camera: str) -> Clips:
    episodes_in: dict[Path, dict[int, tuple[float, int]]] = {}
    for path in files:
        with open_columns(path) as file:
            names = ("episode_index", "length", f"videos/{camera}/chunk_index", f"videos/{camera}/file_index")
            numbers = [file.integers(name).tolist() for name in names]
            begins = file.numbers(f"videos/{camera}/from_timestamp", 1)[:, 0].astype(np.float64).tolist()
        for episode, length, chunk, number, start in zip(*numbers, begins, strict=True):
            if not 0 <= start < MAX_SECONDS:
                raise InputError(
                    f"{root}: the video {camera!r} of episode {episode} starts at {start} seconds, out of range"
                )
            places = {"chunk_index": chunk, "file_index": number}
            values: dict[str, int | str] = {"video_key": camera, **path_fields(info, episode), **places}
            video = root / filled(info, "video_path", values, root)
            if length > 0:
                episodes_in.setdefault(video, {})[episode] = (start, length)
    stated = unshown_frames(root)
    unshown = {root / name: count for name, count in stated.items() if root / name in episodes_in}
    return _clips_of_files(episodes_in, times, unshown)


def unshown_frames(root: Path) -> dict[str, int]:
    """
    The number of frames that belong to no row on purpose, by the video's path in a dataset's folder, as far as
    `meta/hf_ptr_unshown_frames.json` states it.
    """
    try:
        found = read_json(root / within(root, UNSHOWN_FILE))
    except InputError:
        return {}
    counts = found.items() if isinstance(found, dict) else ()
    return {name: count for name, count in counts if isinstance(count, int) and not isinstance(count, bool)}


def _clips_v21(
    root: Path,
    info: Mapping[str, Any],
    episodes: Sequence[int],
    lengths: Sequence[int],
    times: Times,
    camera: str,
) -> Clips:
    episodes_in: dict[Path, dict[int, tuple[float, int]]] = {}
    for episode, length in zip(episodes, lengths, strict=True):
        values: dict[str, int | str] = {"video_key": camera, **path_fields(info, episode)}
        episodes_in.setdefault(root / filled(info, "video_path", values, root), {})[episode] = (0.0, length)
    return _clips_of_files(episodes_in, times)


def _clips_of_files(
    episodes_in: Mapping[Path, Mapping[int, tuple[float, int]]],
    times: Times,
    unshown: Mapping[Path, int] = MappingProxyType({}),
) -> Clips:
    """The clips of a camera by episode id, from the start and length of all episodes in each of its files."""
    noted: set[str] = set()
    clips: dict[int, VideoClip] = {}
    for path, episodes in episodes_in.items():
        file = VideoFile(path, episodes, times, noted, unshown.get(path, 0))
        clips |= {e: VideoClip(path, start, length, e, file) for e, (start, length) in episodes.items()}
    return dict(sorted(clips.items()))


def _time_stamps(root: Path, tables: Mapping[int, str], episode: int) -> np.ndarray | None:
    """The `timestamp` column of an episode, `(length,)` seconds; None if there is none that can be read."""
    try:
        with open_columns(root / tables[episode]) as file:
            runs = episode_runs(file.integers("episode_index"))
            return file.numbers("timestamp", 1)[runs[episode][0], 0].astype(np.float64)
    except (InputError, KeyError, OSError):
        return None


def with_video_decoder(table: EpisodeTable, decoder: str) -> EpisodeTable:
    """
    The table with its videos decoded by the given decoder.

    The decoder is never chosen by what is installed: scaled images differ between decoders by rounding, so a run would
    depend on the environment.

    Args:
        table: the episodes.
        decoder: `"pyav"` or `"torchcodec"`.

    Raises:
        InputError: an unknown decoder (the nearest name is suggested), or torchcodec cannot be loaded.
    """
    if decoder not in VIDEO_DECODERS:
        raise InputError(
            f"unknown video_decoder {decoder!r}.{nearest(decoder, VIDEO_DECODERS)} Known: {', '.join(VIDEO_DECODERS)}"
        )
    if decoder == "pyav":
        return table
    load_torchcodec()
    return dataclasses.replace(table, videos=CameraClips(list(table.videos), partial(_with_torchcodec, table.videos)))


def _with_torchcodec(videos: Mapping[str, Mapping[int, Clip]], camera: str) -> Mapping[int, Clip]:
    clips = videos[camera]
    if isinstance(clips, StoredImageClips):
        return clips
    return {
        episode: TorchcodecClip(clip.path, clip.start, clip.frames, clip.episode, clip.file)
        for episode, clip in clips.items()
        if isinstance(clip, VideoClip)
    }
