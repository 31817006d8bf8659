"""
Plant faults in the images of datasets with video, and record what our detector finds of them.

    python -m benchmarks.atlas.cameras --set g1_bottle=PATH --set cr5_usb=PATH --seeds 2     # rerun to resume

One cell a line in `benchmarks/results/atlas.jsonl`, as those of `python -m benchmarks.atlas`. In a dataset with one
camera, a mirrored cut of it stands for the second one that `camera exchanged` needs.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import measurement
from benchmarks.atlas.camera_faults import (
    CAMERA_CONTROLS,
    CAMERA_FAULTS,
    CameraFault,
    FaultyClip,
    other_camera,
    reader_of,
    with_camera_fault,
)
from benchmarks.atlas.cells import Cell, Recorded
from benchmarks.atlas.metrics import Judgement, figures
from benchmarks.atlas.options import add_options, named, parsed
from benchmarks.atlas.ours import OURS
from benchmarks.atlas.planted import RARE, SHARE, STATE, UNTOUCHED, WHOLE, Planted
from benchmarks.atlas.tools import version_of
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.detection.cameras import Track, read_tracks
from hf_ptr.detection.detect import Detection, detect_in
from hf_ptr.detection.signals import Signals
from hf_ptr.errors import InputError
from hf_ptr.utils.progress import progress_bar

KINDS: Mapping[str, CameraFault] = {**CAMERA_CONTROLS, **CAMERA_FAULTS}
SECOND = "second view"


@dataclass(frozen=True)
class Cameras:
    """A dataset with its camera that gets the faults, its signals, and the images as they are, by episode."""

    name: str
    table: EpisodeTable
    camera: str
    signals: Signals
    tracks: list[dict[str, Track]]


def with_second_view(table: EpisodeTable) -> EpisodeTable:
    """A table with one camera and a mirrored cut of its lower right quarter as the second one."""
    (camera,) = table.videos
    clips = {}
    for episode, frames in zip(table.episode_index.tolist(), table.lengths.tolist(), strict=True):
        read = reader_of(camera, table.videos[camera], table.video_fps)

        def render(frame: int, episode: int = episode, read=read) -> np.ndarray:
            image = read(episode, frame)
            height, width = image.shape[:2]
            cut = Image.fromarray(image[height // 2 :, width // 2 :][:, ::-1])
            return np.asarray(cut.resize((width, height), Image.Resampling.BILINEAR))

        clips[episode] = FaultyClip(Path(f"{SECOND}-{episode}"), frames, render)
    return replace(table, videos={camera: table.videos[camera], SECOND: clips})


def read_cameras(name: str, path: str, state: str, most: int) -> Cameras:
    """
    A dataset with the images of its first camera, and of a second one.

    Raises:
        InputError: the dataset cannot be read, or has no camera or too few episodes.
    """
    table = read_dataset(path)
    if not table.videos:
        raise InputError(f"dataset {path!r} has no camera; name one with images")
    if table.num_episodes < 8:
        raise InputError(
            f"dataset {path!r} has {table.num_episodes} episodes; faults are planted in sets of 8 or more"
        )
    kept = np.unique(np.linspace(0, table.num_episodes - 1, min(most, table.num_episodes)).round().astype(int))
    table = table.select(table.episode_index[kept].tolist())
    camera = next(iter(table.videos))
    if len(table.videos) == 1:
        table = with_second_view(table)
    signals = Signals.of_table(table, state, "action")
    return Cameras(name, table, camera, signals, read_tracks(table, list(table.videos)[:2]))


def cells_of(kinds: Sequence[str], seeds: Sequence[int], episodes: int) -> list[Cell]:
    """The sets of a dataset: untouched, each control, and each fault in a fifth of the episodes and in two."""
    usual = max(RARE, round(SHARE * episodes))
    cells = [Cell(UNTOUCHED, WHOLE, seeds[0], 0)] if UNTOUCHED in kinds else []
    for seed in seeds:
        cells += [Cell(kind, WHOLE, seed, usual) for kind in kinds if kind in KINDS]
        cells += [Cell(kind, WHOLE, seed, RARE) for kind in kinds if kind in CAMERA_FAULTS and usual > RARE]
    return cells


def planted(cameras: Cameras, cell: Cell) -> tuple[Planted, Signals]:
    """The set of a cell, and its signals; only the images of the carriers are decoded."""
    table, count = cameras.table, cameras.table.num_episodes
    chosen, frames = np.zeros(count, dtype=bool), {}
    kind = KINDS.get(cell.fault)
    # The second view is there for exchanged cameras only.
    names = list(table.videos)[: 2 if kind is not None and kind.plant is other_camera else 1]
    tracks = [{name: each[name] for name in names if name in each} for each in cameras.tracks]
    if kind is not None:
        seed = zlib.crc32(f"{cell.fault}/{cell.seed}/{cell.carriers}".encode())
        rng = np.random.default_rng(seed)
        first = int(rng.integers(count - cell.carriers + 1))
        block = range(first, first + cell.carriers)
        carriers = sorted(block if kind.block else rng.permutation(count)[: cell.carriers].tolist())
        chosen[carriers] = True
        faulty, frames = with_camera_fault(table, cameras.camera, kind, carriers, seed)
        ids = table.episode_index[carriers].tolist()
        for position, track in zip(carriers, read_tracks(faulty.select(ids), names), strict=True):
            tracks[position] = track
    truth = Planted(table, cell.fault, WHOLE, table, chosen, frames, np.zeros(count, dtype=bool))
    return truth, cameras.signals.with_tracks(tracks)


def judgement_of(found: Detection, table: EpisodeTable) -> Judgement:
    """The episodes with a fault, and its frames."""
    positions = {episode: position for position, episode in enumerate(table.episode_index.tolist())}
    places: dict[int, np.ndarray] = {}
    for finding in found.findings:
        if finding.severity == "fault":
            position = positions[finding.episode_index]
            place = places.setdefault(position, np.zeros(int(table.lengths[position]), dtype=bool))
            place[finding.first_frame : finding.last_frame + 1] = True
    flagged = np.isin(np.arange(table.num_episodes), list(places))
    return Judgement(flagged, found.episode_evidence, places, dict(enumerate(found.frame_evidence)))


def run_cell(cameras: Cameras, cell: Cell, recorded: Recorded) -> None:
    """Judge a set that was not judged by the present code, and record it."""
    source = Path(__file__).with_name("camera_faults.py").read_bytes() + Path(__file__).read_bytes()
    version = f"{zlib.crc32(source):08x} {version_of(OURS)}"
    if recorded.version(cameras.name, cell, OURS) == version:
        return
    truth, signals = planted(cameras, cell)
    start = time.perf_counter()
    found = detect_in(signals, power=False)
    seconds = time.perf_counter() - start
    judgement = judgement_of(found, cameras.table)
    values = figures(truth, judgement, harmless=cell.fault in CAMERA_CONTROLS)
    recorded.add(
        {
            "dataset": cameras.name,
            "fault": cell.fault,
            "part": WHOLE,
            "seed": cell.seed,
            "tool": OURS,
            "episodes": cameras.table.num_episodes,
            "carriers": cell.carriers,
            **{name: None if value is None else round(value, 4) for name, value in values.items()},
            "power_promised": None,
            "seconds": round(seconds, 3),
            "version": version,
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = measurement.command_parser("atlas.cameras", (__doc__ or "").strip(), small=False)
    add_options(parser)
    options = parsed(parser, arguments)
    if not options.set:
        raise InputError("no dataset given; name one with --set NAME=PATH")
    kinds = named("--faults", options.faults, (UNTOUCHED, *KINDS))
    recorded = Recorded(options.out or measurement.RESULTS / "atlas.jsonl")
    for name, path in options.set.items():
        cameras = read_cameras(name, path, options.state.get(name, STATE), options.episodes)
        cells = cells_of(
            kinds, range(options.first_seed, options.first_seed + options.seeds), cameras.table.num_episodes
        )
        with progress_bar() as bar:
            task = bar.add_task(name, total=len(cells))
            for cell in cells:
                run_cell(cameras, cell, recorded)
                bar.advance(task)
    recorded.compact()
    print(f"{len(recorded.lines)} cells in {recorded.file}")


if __name__ == "__main__":
    measurement.run("benchmarks.atlas.cameras", main)
