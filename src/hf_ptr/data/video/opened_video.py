"""An open video file from which single frames are decoded by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from hf_ptr.data.video.frame_index import DECODE_ERRORS, FrameIndex
from hf_ptr.errors import InputError, first_line

# A frame at most this many frames ahead is reached by decoding forward, also past key frames.
NEAR = 8


class OpenVideo:
    """
    An open video file with the state of its decoder.

    A frame that the decoder reports as damaged is an error. The decoder of H.264 notices most damage. Those of HEVC,
    AV1 and VP9 notice damaged headers, but little of the damage in the pixels of a frame, for which these formats have
    no checksum.

    Args:
        path: the video.
        index: its frames.
        size: `(height, width)` to which frames are scaled; None keeps their size.
    """

    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int] | None) -> None:
        self.path, self.index, self.size = path, index, size
        # Labels guessed by a decoder need not ascend. A dictionary would take ten times the memory of the index.
        ascending = bool((np.diff(index.labels) >= 0).all())
        self._order = None if ascending else np.argsort(index.labels, kind="stable")
        self._container: Any = None
        # Whether every seek so far has landed at or before the wanted frame.
        self._lands = True
        self._begin()

    def _begin(self) -> None:
        """Open the file at its beginning."""
        if self._container is not None:
            self._container.close()
        try:
            self._container = av.open(str(self.path))
            self._stream = self._container.streams.video[0]
        except (*DECODE_ERRORS, IndexError) as error:
            raise InputError(f"{self.path} cannot be read as a video: {first_line(error)}") from error
        # Frames are decoded one at a time and on demand; decoder threads would read ahead unnecessarily.
        self._stream.thread_type = "NONE"
        self._frames: Iterator[av.VideoFrame] = self._container.decode(self._stream)
        # The position of the last decoded frame; -1 before the first, None if it is not known.
        self._at: int | None = -1
        # Whether a frame since the last key frame was damaged: those that follow refer to it.
        self._damaged = False

    def frame_at(self, position: int) -> np.ndarray | None:
        """
        The frame at a position of the index; None if there is no such position.

        Raises:
            InputError: the frame cannot be decoded.
        """
        if not 0 <= position < len(self.index):
            return None
        key = int(np.searchsorted(self.index.keys, position, side="right")) - 1
        if self._at is not None and self._at < position:
            # Without a key frame in between, a seek would only decode the frames before the position once more.
            passed = key < 0 or self.index.keys[key] <= self._at + 1
            if passed or position - self._at <= NEAR:
                frame = self._forward(position, strict=False)
                if frame is not None:
                    return self._converted(frame)
        # Frames that refer to a part before the key frame (open GOP) are dropped after a seek to it. Then the search
        # starts at an earlier key frame, at last at the beginning.
        step = 1
        while key >= 0:
            if self._jump(key) if self._lands else self._seek(key, position):
                frame = self._forward(position, strict=False)
                if frame is not None:
                    return self._converted(frame)
            if self._lands:
                # Once a jump has missed, the landing of every seek is checked, from the same key frame on.
                self._lands = False
                continue
            key -= step
            step *= 2
        self._begin()
        frame = self._forward(position, strict=True)
        if frame is None:
            raise InputError(f"{self.path} is damaged: frame {position} of {len(self.index)} cannot be decoded")
        return self._converted(frame)

    def _forward(self, position: int, strict: bool) -> av.VideoFrame | None:
        """
        Decode up to a position; None if the decoder passes it or the file ends.

        Args:
            position: the position of the wanted frame.
            strict: raise the errors of the decoder; otherwise they give None, since they may come from a seek.

        A frame that the decoder has repaired, or that refers to such a frame, gives None, too: its image is not the
        recorded one.
        """
        try:
            for frame in self._frames:
                self._at = self._position(frame)
                self._damaged = frame.is_corrupt or (self._damaged and not frame.key_frame)
                if self._at is None or self._at < position:
                    continue
                if self._at == position and not self._damaged:
                    return frame
                return None
        except DECODE_ERRORS as error:
            self._at = None
            if strict:
                raise InputError(
                    f"{self.path} is damaged at {self.index.seconds[position]:.3f} seconds: {first_line(error)}"
                ) from error
            return None
        self._at = None
        return None

    def _position(self, frame: av.VideoFrame) -> int | None:
        """The position of a decoded frame; the one after the last frame if both have the same label."""
        if frame.pts is None:
            return None
        labels, last = self.index.labels, self._at
        if last is not None and 0 <= last < len(labels) - 1 and labels[last] == frame.pts == labels[last + 1]:
            return last + 1
        return self._place(frame.pts)

    def _place(self, label: int | None) -> int | None:
        """The first position with a label; None if there is none."""
        labels, order = self.index.labels, self._order
        if label is None:
            return None
        found = int(np.searchsorted(labels, label, sorter=order))
        if found == len(labels):
            return None
        place = found if order is None else int(order[found])
        return place if labels[place] == label else None

    def _jump(self, key: int) -> bool:
        """Move to a key frame without a check of the landing; False if that fails."""
        try:
            self._container.seek(int(self.index.seek_times[key, 0]), stream=self._stream, backward=True)
        except DECODE_ERRORS:
            return False
        self._frames, self._at, self._damaged = self._container.decode(self._stream), None, False
        return True

    def _seek(self, key: int, position: int) -> bool:
        """Move to a key frame; False if that fails or the decoder would start behind the wanted frame."""
        for time in dict.fromkeys(self.index.seek_times[key].tolist()):
            try:
                self._container.seek(time, stream=self._stream, backward=True)
                packets = self._container.demux(self._stream)
                first = next(packets)
            except (*DECODE_ERRORS, StopIteration):
                continue
            place = self._place(first.pts if first.pts is not None else first.dts)
            # MP4 files are searched by decoding time, so a key frame that is shown later may be found.
            if place is not None and place <= position:
                self._frames, self._at, self._damaged = self._decode(first, packets), None, False
                return True
        return False

    @staticmethod
    def _decode(first: av.Packet, packets: Iterator[av.Packet]) -> Iterator[av.VideoFrame]:
        yield from first.decode()
        for packet in packets:
            yield from packet.decode()

    def _converted(self, frame: av.VideoFrame) -> np.ndarray:
        height, width = self.size or (frame.height, frame.width)
        return frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")

    def release(self) -> None:
        """Does nothing: the decoder holds one frame and keeps its position for the next read."""

    def close(self) -> None:
        """Close the file."""
        self._container.close()
