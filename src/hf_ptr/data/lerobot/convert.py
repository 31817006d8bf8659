"""Conversion of a LeRobotDataset v2.1 to v3.0, with values kept bit by bit and videos copied packet by packet."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hf_ptr.data.lerobot.metadata import read_metadata
from hf_ptr.data.lerobot.rewriting import Part, write_parts
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import Progress, no_progress, validate_dataset
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import StagedFolder


def convert_lerobot(
    folder: str | Path,
    out: str | Path,
    *,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
    progress: Progress = no_progress,
) -> Path:
    """
    Convert a LeRobotDataset v2.1 or v2.0 to v3.0.

    Rows keep every value and type, except that time stamps count from the first frame of each episode; episodes,
    frames and tasks keep their numbers. Video frames get the times of their rows, at which LeRobot looks for them.
    If episodes are left out, the others
    and their frames are numbered from 0, because LeRobot requires numbers without gaps. Index
    columns that are missing, or not single integers, are written as LeRobot needs them. Videos are concatenated
    without re-encoding. Stored image statistics are kept; if they are missing, they are computed from a few decoded
    images.

    Args:
        folder: folder of the dataset.
        out: the new folder; must be missing or empty. It is written atomically.
        episodes: ids of the episodes to convert; all by default.
        skip: ids of episodes to leave out, even if they are damaged.
        progress: called with a description and a list, returns an iterable over the list, e.g. with a progress bar.

    Returns:
        `out`.

    Raises:
        InputError: the dataset is not v2.x or is not usable (see `hf-ptr validate`), only some episodes have a column,
            or `out` cannot be written.
    """
    root, staged = Path(folder), StagedFolder(out)

    def report(message: str, episode: int | None) -> None:
        if episode not in skip:
            raise InputError(message, skip=() if episode is None else (episode,))

    metadata = read_metadata(root, report)
    if metadata.info["codebase_version"] != "v2.1":
        raise InputError(f"{root} is already {metadata.info['codebase_version']}; no conversion is needed")
    require_usable(validate_dataset(root, episodes=episodes, skip=skip, decode=False), skip)
    parts = [
        Part(episode, 0, length)
        for episode, length in zip(metadata.episode_index.tolist(), metadata.lengths.tolist(), strict=True)
        if episode not in skip and (episodes is None or episode in episodes)
    ]
    if not parts:
        raise InputError(f"no episode of {root} is left to convert; leave out fewer")
    renumber = len(parts) < len(metadata.files)
    write_parts(root, metadata, parts, staged, renumber=renumber, encode=False, progress=progress)
    return staged.out
