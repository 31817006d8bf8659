"""Faults of camera images, planted on the pixels while a video is decoded.

A faulty camera is a mapping of clips in which those of the carriers decode the original frames and change them.
Nothing is shared with the faults that the checks plant in reduced images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import Clip, FrameReader

# Noise of the pixels of a camera that sees nothing new, grey levels.
NOISE = 1.5
# Decoded frames that a faulty clip keeps, bytes.
CACHE = 32 * 1024**2

# Reads the image of a frame of an episode (its id), `(height, width, 3)` uint8.
Read = Callable[[int, int], np.ndarray]
# Returns the image of a frame.
Render = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Footage:
    """
    What a fault may use.

    Attributes:
        read: reads an image of this camera.
        episode: id of the carrier.
        frames: its number of frames.
        donor, donor_frames: another episode, and its number of frames.
        other: reads an image of another camera; that of this one if there is no other.
        rng: of the carrier, the same for all carriers of a block.
    """

    read: Read
    episode: int
    frames: int
    donor: int
    donor_frames: int
    other: Read
    rng: np.random.Generator

    def image(self, frame: int) -> np.ndarray:
        """The original image."""
        return self.read(self.episode, min(max(frame, 0), self.frames - 1))


@dataclass(frozen=True)
class CameraFault:
    """
    A kind of fault of images.

    Attributes:
        plant: from the footage to what is seen instead and the faulty frames `(T,)` bool; None for all frames.
        block: whether consecutive episodes carry the same fault.
    """

    plant: Callable[[Footage], tuple[Render, np.ndarray | None]]
    block: bool = False


def _noisy(image: np.ndarray, frame: int, size: float = NOISE) -> np.ndarray:
    noise = np.random.default_rng(frame).normal(0, size, image.shape[:2])[..., None]
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _stretch(footage: Footage, share: float) -> np.ndarray:
    """The frames of a stretch at a random place, `(T,)` bool."""
    mask = np.zeros(footage.frames, dtype=bool)
    size = max(4, round(share * footage.frames))
    first = int(footage.rng.integers(4, max(5, footage.frames - size - 4)))
    mask[first : first + size] = True
    return mask


def frozen(share: float):
    def plant(footage: Footage):
        mask = _stretch(footage, share)
        first = int(mask.argmax())
        return lambda frame: _noisy(footage.image(first), frame) if mask[frame] else footage.image(frame), mask

    return plant


def shade(level: int, share: float = 1.0):
    def plant(footage: Footage):
        mask = np.ones(footage.frames, dtype=bool) if share == 1 else _stretch(footage, share)

        def render(frame: int) -> np.ndarray:
            image = footage.image(frame)
            return _noisy(np.full_like(image, level), frame) if mask[frame] else image

        return render, None if share == 1 else mask

    return plant


def blurred(width: float, share: float = 1.0):
    """A blur with a standard deviation of `width` of the image's width."""

    def plant(footage: Footage):
        mask = np.ones(footage.frames, dtype=bool) if share == 1 else _stretch(footage, share)

        def render(frame: int) -> np.ndarray:
            image = footage.image(frame)
            if not mask[frame]:
                return image
            soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(width * image.shape[1]))
            # The noise of the sensor is as sharp as before.
            return _noisy(np.asarray(soft), frame, 1.0)

        return render, None if share == 1 else mask

    return plant


def another(footage: Footage):
    return lambda frame: footage.read(footage.donor, min(frame, footage.donor_frames - 1)), None


def other_camera(footage: Footage):
    return lambda frame: footage.other(footage.episode, frame), None


def late(frames: int):
    def plant(footage: Footage):
        return lambda frame: footage.image(frame - frames), None

    return plant


def moved(share: float):
    """The view turned by a share of the width, in a direction that the whole block shares."""

    def plant(footage: Footage):
        angle = footage.rng.uniform(0, 2 * np.pi)

        def render(frame: int) -> np.ndarray:
            image = footage.image(frame)
            size = share * image.shape[1]
            down, across = round(size * np.sin(angle)), round(size * np.cos(angle))
            rows = np.clip(np.arange(image.shape[0]) - down, 0, image.shape[0] - 1)
            columns = np.clip(np.arange(image.shape[1]) - across, 0, image.shape[1] - 1)
            return image[rows][:, columns]

        return render, None

    return plant


def flicker(size: float):
    """An exposure that changes from image to image."""

    def plant(footage: Footage):
        light = footage.rng.uniform(1 - size, 1 + size, footage.frames)
        return lambda frame: np.clip(footage.image(frame) * light[frame], 0, 255).astype(np.uint8), None

    return plant


def dusk(size: float):
    """Light that changes slowly over an episode."""

    def plant(footage: Footage):
        light = 1 + np.linspace(*footage.rng.uniform(-size, size, 2), footage.frames)
        return lambda frame: np.clip(footage.image(frame) * light[frame], 0, 255).astype(np.uint8), None

    return plant


CAMERA_FAULTS: dict[str, CameraFault] = {
    "camera frozen 0.4": CameraFault(frozen(0.4)),
    "camera frozen 0.2": CameraFault(frozen(0.2)),
    "camera black": CameraFault(shade(2)),
    "camera white 0.2": CameraFault(shade(250, 0.2)),
    "camera blurred": CameraFault(blurred(0.01)),
    "camera blurred lightly": CameraFault(blurred(0.004)),
    "camera blurred 0.3": CameraFault(blurred(0.01, 0.3)),
    "camera of another episode": CameraFault(another),
    "camera exchanged": CameraFault(other_camera),
    "camera late 6": CameraFault(late(6)),
    "camera early 6": CameraFault(late(-6)),
    "camera moved 0.12": CameraFault(moved(0.12), block=True),
}
CAMERA_CONTROLS: dict[str, CameraFault] = {
    "camera flicker 0.2": CameraFault(flicker(0.2)),
    "camera dusk 0.3": CameraFault(dusk(0.3)),
}


@dataclass(frozen=True)
class FaultyClip:
    """The images of an episode with a fault; the files of the original are decoded."""

    path: Path
    frames: int
    render: Render

    def position(self, frame: int, fps: float) -> int:
        """The frame itself."""
        return frame

    def open(self, size: tuple[int, int] | None) -> FaultyFile:
        """The images, scaled to `size` (height, width)."""
        return FaultyFile(self, size)


@dataclass(frozen=True)
class FaultyFile:
    """An opened [`FaultyClip`][]."""

    clip: FaultyClip
    size: tuple[int, int] | None

    def frame_at(self, position: int) -> np.ndarray | None:
        """The faulty image of a frame, `(height, width, 3)` uint8; None beyond the end."""
        if not 0 <= position < self.clip.frames:
            return None
        image = self.clip.render(position)
        if self.size is None:
            return image
        return np.asarray(Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BOX))

    def release(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


def with_camera_fault(
    table: EpisodeTable, camera: str, fault: CameraFault, carriers: list[int], seed: int
) -> tuple[EpisodeTable, dict[int, np.ndarray]]:
    """
    A table in which a camera has a fault in some episodes.

    Args:
        table: the episodes, with videos.
        camera: the camera; with another one, [`other_camera`][] takes its images from the first other.
        fault: the fault.
        carriers: positions of the carriers.
        seed: of the amounts and donors.

    Returns:
        the table, and by position of a carrier its faulty frames `(T,)` bool, where they are not all.
    """
    names = [camera, *(name for name in table.videos if name != camera)]
    rng = np.random.default_rng(seed)
    clips: dict[str, dict[int, Clip]] = {name: dict(table.videos[name]) for name in names}
    changed = {camera} if fault.plant is not other_camera else set(names[:2])
    frames: dict[int, np.ndarray] = {}
    for name in changed:
        other = next((one for one in names if one != name), name)
        # Each carrier has readers of its own, so that several can be decoded at once.
        for position in carriers:
            donor = (position + int(rng.integers(1, table.num_episodes))) % table.num_episodes
            episode = int(table.episode_index[position])
            footage = Footage(
                read=reader_of(name, table.videos[name], table.video_fps),
                episode=episode,
                frames=table.videos[name][episode].frames,
                donor=int(table.episode_index[donor]),
                donor_frames=table.videos[name][int(table.episode_index[donor])].frames,
                other=reader_of(other, table.videos[other], table.video_fps),
                rng=np.random.default_rng([seed, 0 if fault.block else position]),
            )
            render, mask = fault.plant(footage)
            clips[name][episode] = FaultyClip(Path(f"{name}-{episode}"), footage.frames, render)
            if mask is not None:
                rows = slice(int(table.starts[position]), int(table.starts[position] + table.lengths[position]))
                frames[position] = mask[table.video_frame[rows]]
    return dataclasses.replace(table, videos=clips), frames


def reader_of(camera: str, clips: Mapping[int, Clip], fps: float) -> Read:
    """Reads single images of a camera."""
    reader = FrameReader(camera, clips, fps, cache_bytes=CACHE)
    return lambda episode, frame: reader.read([episode], [frame])[0]
