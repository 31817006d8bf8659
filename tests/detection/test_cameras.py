"""Images are read once, and reduced to what the camera checks need."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_images import HEIGHT, WIDTH, arm_images, with_cameras
from made_motions import ACTION, STATE, picking, table_of
from PIL import Image, ImageFilter

from hf_ptr.detection.cameras import BANDS, SIZE, blur_loss, read_tracks
from hf_ptr.detection.planting import in_part
from hf_ptr.detection.signals import Signals
from hf_ptr.errors import DataWarning, InputError

CAMERA = "observation.images.top"


def a_table(episodes: int = 2):
    rng = np.random.default_rng(0)
    return table_of([picking(rng) for _ in range(episodes)])


def numbered(episode: int, frame: int) -> np.ndarray:
    """An even image whose grey is the number of its frame."""
    return np.full((HEIGHT, WIDTH, 3), frame % 256, dtype=np.uint8)


def test_a_track_has_a_thumbnail_the_detail_and_the_change_of_every_frame():
    table = a_table()
    render = arm_images(table, noise=0.0)
    track = read_tracks(with_cameras(table, {CAMERA: render}))[1][CAMERA]
    assert len(track) == table.lengths[1]
    assert track.detail.shape == (len(track), BANDS)
    image = render(1, 7)[..., 1].astype(float)
    # Cells of 1.5 rows and two columns: every other row is in one cell, the rows between are halved.
    cells = image.reshape(HEIGHT, SIZE, 2).mean(axis=2)
    rows = cells.reshape(-1, 3, SIZE)
    expected = np.stack([(2 * rows[:, 0] + rows[:, 1]) / 3, (rows[:, 1] + 2 * rows[:, 2]) / 3], axis=1)
    np.testing.assert_allclose(track.thumbnails[7], expected.reshape(SIZE, SIZE), atol=0.51)
    difference = np.abs(image - render(1, 6)[..., 1].astype(float)).mean()
    assert track.change[7] == pytest.approx(difference, rel=1e-3)
    assert track.change[0] == 0


def test_the_detail_falls_as_much_as_a_blur_of_the_planted_size_leaves():
    table = a_table()
    # Power that falls with the square of the frequency, as in ordinary images.
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(0, 4, 2048))
    steps -= np.linspace(steps[0], steps[-1], len(steps))
    sharp = np.clip(128 + steps * 100 / np.abs(steps).max(), 0, 255).astype(np.uint8)[None].repeat(HEIGHT, axis=0)

    def render(radius):
        image = Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(radius))
        return lambda episode, frame: np.asarray(image)[..., None].repeat(3, axis=2)

    tracks = read_tracks(with_cameras(table, {"sharp": render(0), "blurred": render(1.5)}))[0]
    left = tracks["blurred"].detail[0] / tracks["sharp"].detail[0]
    np.testing.assert_allclose(np.log2(left[1:5]), np.log2(blur_loss(1.5))[1:5], atol=0.6)
    assert left[0] < 0.1


def test_the_image_of_a_row_is_that_of_its_video_frame():
    table = a_table()
    moved = dataclasses.replace(table, video_frame=np.maximum(table.frame_index - 5, 0))
    track = read_tracks(with_cameras(moved, {CAMERA: numbered}))[0][CAMERA]
    np.testing.assert_array_equal(track.thumbnails[:8, 3, 3], [0, 0, 0, 0, 0, 0, 1, 2])


def test_damaged_images_are_a_warning_and_no_track_of_this_episode():
    table = with_cameras(a_table(3), {CAMERA: numbered, "wrist": numbered}, broken={1: 20})
    with pytest.warns(DataWarning, match=r"camera 'wrist' .* in 1 of 3 episodes \(1\): .*damaged at frame 20"):
        tracks = read_tracks(table)
    assert [sorted(each) for each in tracks] == [[CAMERA, "wrist"], [], [CAMERA, "wrist"]]


def test_an_unknown_camera_is_refused():
    with pytest.raises(InputError, match=r"no camera 'tops' \(it has: top\)\. Did you mean 'top'"):
        read_tracks(with_cameras(a_table(), {"top": numbered}), ["tops"])


def test_a_fault_in_a_part_leaves_the_images_of_the_rest():
    table = with_cameras(a_table(), {CAMERA: numbered})
    signals = Signals.of_table(table, STATE, ACTION).with_tracks(read_tracks(table))
    episode = signals.episodes[0]
    track = episode.cameras[CAMERA]
    black = dataclasses.replace(track, thumbnails=np.zeros_like(track.thumbnails))
    part, where = in_part(
        episode, episode.with_signals(cameras={CAMERA: black}), signals.fps, np.random.default_rng(0)
    )
    dark = part.cameras[CAMERA].thumbnails.max(axis=(1, 2)) == 0
    dark[0] = False
    np.testing.assert_array_equal(np.flatnonzero(dark), np.arange(where.start, where.stop))
    # The step into the dark is a change of the image.
    assert part.cameras[CAMERA].change[where.start] == pytest.approx(where.start - 1, abs=1)
