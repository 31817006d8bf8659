"""Datasets on the Hub as tables: pulled before they are read, or their videos one by one as they are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import hf_hub_download

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.videos import CameraClips
from hf_ptr.data.video.decoding import Clip, OpenedFile
from hf_ptr.hub.repos import HubRepo, dataset_folder, explain_hub_errors, origin, with_origin


def load_dataset(
    place: str,
    episodes: Sequence[int] | None = None,
    *,
    cameras: Sequence[str] = (),
    skip: Sequence[int] = (),
    streaming: bool = False,
) -> EpisodeTable:
    """
    The table of a LeRobotDataset, as [`read_dataset`] gives it, from a folder or from the Hub.

    Args:
        place: a folder, `user/name` or `user/name@revision`.
        episodes, skip: as of [`read_dataset`].
        cameras: that will be looked through.
        streaming: whether a video is pulled when the first of its pictures is needed, and not all before.

    Raises:
        InputError: as [`read_dataset`], and when the place cannot be read or reached.
    """
    folder = dataset_folder(place, () if streaming else cameras)
    table = with_origin(read_dataset(folder, episodes, skip=skip), folder)
    return with_streamed_videos(table, folder) if streaming else table


def with_streamed_videos(table: EpisodeTable, folder: Path) -> EpisodeTable:
    """
    The table with videos that are pulled one by one, each when the first of its pictures is needed.

    What was pulled stays in the cache. A table whose folder is not of the Hub's cache has its videos already.

    Args:
        table: as it was read.
        folder: from where.
    """
    there = origin(folder)
    if there is None:
        return table
    clips = partial(_streamed, table.videos, there, folder)
    return dataclasses.replace(table, videos=CameraClips(list(table.videos), clips))


def _streamed(
    videos: Mapping[str, Mapping[int, Clip]], there: HubRepo, folder: Path, camera: str
) -> Mapping[int, Clip]:
    return {episode: StreamedClip(clip, there, folder) for episode, clip in videos[camera].items()}


@dataclass(frozen=True)
class StreamedClip:
    """
    A clip in a file that may still be on the Hub.

    Attributes:
        clip: as if the file were here.
        there: repository and commit.
        folder: the dataset's, in the cache.
    """

    clip: Clip
    there: HubRepo
    folder: Path

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return self.clip.path

    @property
    def frames(self) -> int:
        """As of the clip."""
        return self.clip.frames

    def position(self, frame: int, fps: float) -> float:
        """As of the clip."""
        return self.clip.position(frame, fps)

    def open(self, fps: float, size: tuple[int, int] | None) -> OpenedFile:
        """
        The file, pulled if it is not here yet.

        Raises:
            InputError: it is not there, may not be read, or cannot be reached.
        """
        if not self.path.exists():
            with explain_hub_errors(self.there, "dataset"):
                hf_hub_download(
                    self.there.repo_id,
                    self.path.relative_to(self.folder).as_posix(),
                    repo_type="dataset",
                    revision=self.there.revision,
                )
        return self.clip.open(fps, size)
