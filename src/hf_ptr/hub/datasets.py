"""Datasets and score files from a path or a repo id."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.usable import read_usable
from hf_ptr.data.lerobot.videos import CameraClips
from hf_ptr.data.score_file import SCORES_FILE
from hf_ptr.data.video.decoding import Clip, OpenedFile
from hf_ptr.errors import InputError
from hf_ptr.hub.repos import HubRepo, dataset_files, dataset_folder, explain_hub_errors, origin, parse_hub_repo


def load_dataset(
    source: str | os.PathLike,
    episodes: Sequence[int] | None = None,
    *,
    cameras: Sequence[str] | None = None,
    skip: Collection[int] = (),
    features: Sequence[str] | None = None,
    streaming: bool = False,
    spill_dir: Path | None = None,
) -> EpisodeTable:
    """
    Loads a LeRobotDataset, v3.0 or v2.1, from a folder or from the Hub.

    Numeric features of shape `[d]` become float32 columns `(F, d)` of F frames. Videos are decoded when they are read.

    Args:
        source: path, `user/name` or `user/name@revision`; with several datasets in a repository,
            `user/name/FOLDER`.
        episodes: ids of the episodes to load, in this order; None loads all.
        cameras: cameras whose videos are downloaded; None downloads all, `()` none.
        skip: ids of episodes to leave out.
        features: the vectors to read, and which have to be readable; None reads all that can be read, see
            `hf_ptr.data.read_dataset`.
        streaming: download each video when its first frame is read, instead of all before.
        spill_dir: folder for memory-mapped features; by default they are held in memory.

    Returns:
        The table of the dataset. For a dataset on the Hub, `source` and `revision` are its repo id and commit.

    Raises:
        InputError: the dataset does not exist, may not be read, cannot be reached, or is damaged (see
            `hf_ptr.data.read_dataset`); its `skip` contains the episodes to leave out.

    Example:
        ```python
        from hf_ptr import ChunkDataset, load_dataset

        table = load_dataset("lerobot/pusht@v3.0", cameras=["observation.image"])
        chunks = ChunkDataset(table, chunk_size=16, target_offset=16)
        ```
    """
    folder = dataset_folder(source, () if streaming else cameras)
    table = with_origin(read_usable(folder, episodes, skip=skip, features=features, spill_dir=spill_dir), folder)
    return with_streamed_videos(table, folder) if streaming else table


def with_origin(table: EpisodeTable, folder: str | os.PathLike) -> EpisodeTable:
    """The table with the repo id and commit that its folder was downloaded from; unchanged for other folders."""
    repo = origin(folder)
    return table if repo is None else dataclasses.replace(table, source=repo.name, revision=repo.revision)


def pull_videos(table: EpisodeTable, cameras: Sequence[str]) -> None:
    """
    Downloads the videos of these cameras if the table was loaded from the Hub. Other features are ignored.

    Raises:
        InputError: see [`load_dataset`].
    """
    wanted = [name for name in cameras if name in table.videos]
    if table.revision is not None and wanted:
        dataset_folder(f"{table.source}@{table.revision}", wanted)


def score_file_path(source: str | os.PathLike) -> Path:
    """
    The local path of a score file. A score file in a dataset repository on the Hub is downloaded.

    Raises:
        InputError: see [`load_dataset`]; also when the repository holds no score file.
    """
    repo = parse_hub_repo(source)
    if repo is None:
        return Path(source)
    path = dataset_files(repo, ["*.parquet"]) / SCORES_FILE
    if not path.is_file():
        raise InputError(
            f"{repo} holds no {SCORES_FILE}; push one with hf-ptr push scores FILE --repo-id {repo.repo_id}"
        )
    return path


def with_streamed_videos(table: EpisodeTable, folder: Path) -> EpisodeTable:
    """
    The table with videos that are downloaded one by one, each when its first frame is read.

    Downloaded files stay in the cache. A table from a folder outside the Hub's cache is returned unchanged.

    Args:
        table: the table of the dataset.
        folder: the folder it was read from.
    """
    repo = origin(folder)
    if repo is None:
        return table
    clips = partial(_streamed, table.videos, repo, folder)
    return dataclasses.replace(table, videos=CameraClips(list(table.videos), clips))


def _streamed(
    videos: Mapping[str, Mapping[int, Clip]], repo: HubRepo, folder: Path, camera: str
) -> Mapping[int, Clip]:
    return {episode: StreamedClip(clip, repo, folder) for episode, clip in videos[camera].items()}


@dataclass(frozen=True)
class StreamedClip:
    """
    A clip whose file is downloaded when it is opened.

    Attributes:
        clip: the clip in the local file, which may not exist yet.
        repo: repository and commit.
        folder: folder of the dataset in the cache.
    """

    clip: Clip
    repo: HubRepo
    folder: Path

    @property
    def path(self) -> Path:
        """The local path of the file, downloaded or not."""
        return self.clip.path

    @property
    def frames(self) -> int:
        """See [`Clip`]."""
        return self.clip.frames

    def position(self, frame: int, fps: float) -> int:
        """See [`Clip`]."""
        return self.clip.position(frame, fps)

    def open(self, size: tuple[int, int] | None) -> OpenedFile:
        """
        Opens the file, and downloads it first if necessary.

        Raises:
            InputError: the file does not exist, may not be read, or cannot be reached.
        """
        if not self.path.exists():
            with explain_hub_errors(self.repo, "dataset"):
                hf_hub_download(
                    self.repo.repo_id,
                    (PurePosixPath(self.repo.folder) / self.path.relative_to(self.folder).as_posix()).as_posix(),
                    repo_type="dataset",
                    revision=self.repo.revision,
                )
        return self.clip.open(size)
