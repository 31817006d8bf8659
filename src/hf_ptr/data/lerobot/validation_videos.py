"""Validation of cameras: files, number and rate of frames, the frame of every row, and images that can be decoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hf_ptr.data.lerobot.clock import FPS_TOLERANCE, MIN_DRIFT
from hf_ptr.data.lerobot.lerobot_times import TOLERANCE, refused_rows
from hf_ptr.data.lerobot.metadata import Metadata
from hf_ptr.data.video.decoding import FrameReader, VideoClip
from hf_ptr.data.video.placement import Placement, VideoFile
from hf_ptr.errors import InputError

# Decoded images are discarded, so they are scaled to a minimal size.
THUMBNAIL = (16, 16)
# Beginning of the kind of problems with rows that LeRobot refuses because of their times.
LEROBOT_TIMES = "lerobot_times"


class Report(Protocol):
    """Records a problem, or a warning, of an episode and a frame in it."""

    def __call__(
        self,
        message: str,
        episode: int | None = None,
        frame: int | None = None,
        *,
        severity: str = "error",
        kind: str = "",
        amount: float | None = None,
    ) -> None: ...


class CameraCheck:
    """
    Checks of one camera.

    Args:
        root: the dataset's folder.
        metadata: its metadata.
        camera: the feature.
        report: records a problem.
        relative: returns the message of an error with paths relative to the folder.
    """

    def __init__(
        self, root: Path, metadata: Metadata, camera: str, report: Report, relative: Callable[[Exception], str]
    ) -> None:
        self.root, self.metadata, self.camera, self.report = root, metadata, camera, report
        self.relative = relative
        self.fps = float(metadata.info["fps"])
        self._files: dict[Path, Placement | str] = {}

    def check(
        self,
        episodes: Mapping[int, int],
        readable: Collection[int],
        stamps: Mapping[int, np.ndarray],
        decode: bool,
        every_frame: bool,
        progress: Callable[[str, Sequence[Any]], Iterable[Any]],
    ) -> None:
        """
        Check that videos exist, match the dataset in rate, size and length, and that images can be decoded.

        Args:
            episodes: number of rows by episode id.
            readable: the episodes whose table can be read.
            stamps: time stamps of the rows by episode id, without episodes whose clock is not usable.
            decode: whether to decode the first and last image of each episode.
            every_frame: whether to decode all images.
            progress: called with a description and a list, returns an iterable over the list.
        """
        try:
            clips = self.metadata.videos[self.camera]
        except (InputError, OSError) as error:
            self.report(f"camera {self.camera!r}: {self.relative(error)}")
            return
        in_table = self.metadata.info["features"][self.camera]["dtype"] == "image"
        reader = FrameReader(self.camera, clips, self.fps, THUMBNAIL, cache_bytes=0)
        for episode, length in progress(f"checking {self.camera}", list(episodes.items())):
            if in_table:
                # A missing table was reported already.
                if (decode or every_frame) and episode in readable:
                    self._check_images(reader, episode, range(length), every_frame)
                continue
            clip = clips.get(episode)
            if not isinstance(clip, VideoClip):
                self.report(f"the episode has no video of {self.camera!r}", episode)
                continue
            if clip.path not in self._files:
                self._files[clip.path] = self._placement(clip.file, episode)
            placed = self._files[clip.path]
            if isinstance(placed, str):
                self.report(placed, episode)
                continue
            found = placed.episodes[episode]
            if found.problem is not None:
                self.report(self._relative(found.problem), episode, found.frame)
                continue
            if episode in stamps:
                self._check_times(clip, stamps[episode])
            if decode or every_frame:
                self._check_images(reader, episode, range(length), every_frame)

    def _check_times(self, clip: VideoClip, stamps: np.ndarray) -> None:
        """Warn of rows that LeRobot refuses."""
        refused = refused_rows(clip.file.index, clip.start, stamps)
        if refused is None:
            return
        which = "LeRobot" if refused.any_decoder else "LeRobot with torchcodec"
        why = (
            f"their times are up to {refused.seconds:.3g} s away from those of the frames that it finds, and it "
            f"allows {TOLERANCE:g} s"
            if math.isfinite(refused.seconds)
            else "they have no time"
        )
        self.report(
            f"{which} refuses rows of {self.camera!r}: {why}",
            clip.episode,
            refused.row,
            severity="warning",
            kind=f"{LEROBOT_TIMES} {self.camera}",
            amount=refused.seconds,
        )

    def _placement(self, file: VideoFile, episode: int) -> Placement | str:
        """The frames of the episodes in a video file, or the problem that makes it unusable; warnings are recorded."""
        name = file.path.relative_to(self.root)
        if not file.path.is_file():
            return f"{name} is missing"
        try:
            index, placed = file.index, file.placement(self.fps)
        except InputError as error:
            return self.relative(error)
        # A pause in a video lowers its mean rate, and rounded time stamps change the rate of most frames.
        rates = (index.rate, index.mean_rate, index.usual_rate)
        # The rate of a few irregular frames says little.
        drift = abs(self.fps / index.mean_rate - 1) * (len(index) - 1)
        if drift > MIN_DRIFT and all(abs(rate / self.fps - 1) > FPS_TOLERANCE for rate in rates):
            return f"fps mismatch: {name} has {index.mean_rate:.4g} frames per second, info.json {self.fps:g}"
        shape = self.metadata.info["features"][self.camera]["shape"]
        if not {index.height, index.width} <= set(shape):
            self.report(f"{name} is {index.height} x {index.width}, info.json has {list(shape)}", severity="warning")
        # The notes are listed here, so reading must not warn of them once more.
        file.noted.update(placed.notes)
        # Where every episode has an error, notes about the file would only repeat it.
        if any(each.problem is None for each in placed.episodes.values()):
            for note in placed.notes:
                self.report(self._relative(note), episode if len(placed.episodes) == 1 else None, severity="warning")
        return placed

    def _relative(self, message: str) -> str:
        return self.relative(InputError(message))

    def _check_images(self, reader: FrameReader, episode: int, rows: range, every_frame: bool) -> None:
        for row in rows if every_frame else sorted({rows[0], rows[-1]}):
            try:
                reader.read([episode], [row])
            except (InputError, OSError) as error:
                # The reader adds camera and episode to the cause.
                self.report(
                    self.relative(cause if isinstance(cause := error.__cause__, Exception) else error), episode, row
                )
                return
