"""A copy of a LeRobotDataset that LeRobot reads: v3.0, values kept bit by bit, videos copied packet by packet."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hf_ptr.data.expected_findings import EXPECTED_FILE, dump_expected, expected_of_dataset
from hf_ptr.data.lerobot.accepted_parts import accepted_in_parts
from hf_ptr.data.lerobot.metadata import read_metadata, warn
from hf_ptr.data.lerobot.metadata_files import EDITS_FILE
from hf_ptr.data.lerobot.paths import within
from hf_ptr.data.lerobot.rewriting import Part, write_parts
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import Progress, no_progress, validate_dataset
from hf_ptr.errors import InputError, first_line
from hf_ptr.utils.atomic_files import StagedFolder

# Files in `meta` that describe episodes by their numbers.
KEPT_FILES = (EXPECTED_FILE, EDITS_FILE)


def convert_lerobot(
    folder: str | Path,
    out: str | Path,
    *,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
    even_times: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """
    Convert a LeRobotDataset v2.1 or v2.0 to v3.0, or one of v3.0 with rows that LeRobot refuses.

    Rows keep every value and type, except that time stamps count from the first frame of each episode; episodes,
    frames and tasks keep their numbers. Video frames get the times of their rows, at which LeRobot looks for them.
    Accepted findings and the list of earlier edits are kept. If episodes are left out, the others and their frames are
    numbered from 0, also in these two files, because LeRobot requires numbers without gaps. Index columns that are
    missing, or not single integers, are written as LeRobot needs them. Videos are concatenated without re-encoding.
    Stored image statistics are kept; if they are missing, they are computed from a few decoded images.

    Args:
        folder: folder of the dataset.
        out: the new folder; must be missing or empty. It is written atomically.
        episodes: ids of the episodes to convert; all by default.
        skip: ids of episodes to leave out, even if they are damaged.
        even_times: whether time stamps become `frame / fps`, which LeRobot needs with torchcodec where the clock of
            the recording deviates from its frame rate. Videos without one frame for each row are encoded again, with a
            warning.
        progress: called with a description and a list, returns an iterable over the list, e.g. with a progress bar.

    Returns:
        `out`.

    Raises:
        InputError: LeRobot reads the dataset already, the dataset is not usable (see `hf-ptr validate`), only some
            episodes have a column, a file of accepted findings or edits cannot be read, or `out` cannot be written.
    """
    root, staged = Path(folder), StagedFolder(out)

    def report(message: str, episode: int | None) -> None:
        if episode not in skip:
            raise InputError(message, skip=() if episode is None else (episode,))

    metadata = read_metadata(root, report)
    checked = validate_dataset(root, episodes=episodes, skip=skip, decode=False, progress=progress)
    require_usable(checked, skip)
    if metadata.info["codebase_version"] == "v3.0" and not checked.refused_by_lerobot:
        raise InputError(f"{root} is already v3.0, and LeRobot reads its times; no conversion is needed")
    parts = [
        Part(episode, 0, length)
        for episode, length in zip(metadata.episode_index.tolist(), metadata.lengths.tolist(), strict=True)
        if episode not in skip and (episodes is None or episode in episodes)
    ]
    if not parts:
        raise InputError(f"no episode of {root} is left to convert; leave out fewer")
    renumber = len(parts) < len(metadata.files)
    files = {name: text for name in KEPT_FILES if (text := _text(root, name)) is not None}
    counts = write_parts(
        root,
        metadata,
        parts,
        staged,
        renumber=renumber,
        encode=False,
        extra=_renumbered(root, files, parts) if renumber else files,
        even_times=even_times,
        progress=progress,
    )
    if counts.encoded:
        warn(
            f"{root}: {counts.encoded} video frames are encoded again, because their videos do not have one frame for "
            "each row"
        )
    return staged.out


def _text(root: Path, name: str) -> str | None:
    """
    The content of a file in `meta`; None without it.

    Raises:
        InputError: it cannot be read as UTF-8.
    """
    path = root / within(root, f"meta/{name}")
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 ({first_line(error)}); correct or remove it") from error


def _renumbered(root: Path, files: Mapping[str, str], parts: Sequence[Part]) -> dict[str, str]:
    """
    The files of `KEPT_FILES` with the numbers of the new episodes.

    Raises:
        InputError: the accepted findings cannot be read.
    """
    new: dict[str, str] = {}
    accepted = accepted_in_parts(expected_of_dataset(root), parts)
    if accepted:
        new[EXPECTED_FILE] = dump_expected(accepted)
    if EDITS_FILE in files:
        try:
            edits = json.loads(files[EDITS_FILE])
            stored = {each["episode_index"]: each for each in edits["episodes"]}
            edits["episodes"] = [
                {**stored[part.episode], "episode_index": number} for number, part in enumerate(parts)
            ]
            new[EDITS_FILE] = json.dumps(edits, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
        except (KeyError, TypeError, ValueError, RecursionError):
            warn(f"{root}: {EDITS_FILE} is left out, because it does not list the episodes of the dataset")
    return new
