"""The atlas's faults of images are on the pixels that a reader gets, in the carriers only."""

from __future__ import annotations

import numpy as np
import pytest
from made_images import arm_images, with_cameras
from made_motions import picking, table_of

from benchmarks.atlas import cameras
from benchmarks.atlas.camera_faults import CAMERA_CONTROLS, CAMERA_FAULTS, with_camera_fault
from benchmarks.atlas.cells import Cell, Recorded
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.detection.cameras import read_tracks
from hf_ptr.detection.signals import Signals

TOP, WRIST = "observation.images.top", "observation.images.wrist"
CARRIER, FRAME = 1, 30


def a_table():
    table = table_of([picking(np.random.default_rng(number)) for number in range(8)])
    return with_cameras(table, {TOP: arm_images(table), WRIST: arm_images(table, seed=4)})


def images(table, camera, episode=CARRIER):
    length = int(table.lengths[episode])
    return FrameReader(camera, table.videos[camera], table.fps).read([episode] * length, range(length)).astype(int)


def planted(name):
    table = a_table()
    faulty, frames = with_camera_fault(table, TOP, {**CAMERA_FAULTS, **CAMERA_CONTROLS}[name], [CARRIER], 3)
    np.testing.assert_array_equal(images(faulty, TOP, 0), images(table, TOP, 0))
    return images(table, TOP), images(faulty, TOP), frames.get(CARRIER), table, faulty


def test_a_frozen_camera_shows_one_image_with_noise_in_its_frames_only():
    sound, faulty, frames, _, _ = planted("camera frozen 0.4")
    assert frames.mean() == pytest.approx(0.4, abs=0.02)
    np.testing.assert_array_equal(faulty[~frames], sound[~frames])
    step = np.abs(np.diff(faulty[frames], axis=0))
    assert 0 < step.mean() < 3


def test_late_images_are_earlier_ones_and_early_images_later_ones():
    sound, faulty, _, _, _ = planted("camera late 6")
    np.testing.assert_array_equal(faulty[FRAME], sound[FRAME - 6])
    sound, faulty, _, _, _ = planted("camera early 6")
    np.testing.assert_array_equal(faulty[FRAME], sound[FRAME + 6])
    np.testing.assert_array_equal(faulty[-1], sound[-1])


def test_exchanged_cameras_show_each_other():
    _, faulty, _, table, changed = planted("camera exchanged")
    np.testing.assert_array_equal(faulty, images(table, WRIST))
    np.testing.assert_array_equal(images(changed, WRIST), images(table, TOP))


def test_the_images_of_another_episode_are_those_of_a_donor():
    _, faulty, _, table, _ = planted("camera of another episode")
    donors = [number for number in range(8) if np.array_equal(images(table, TOP, number)[FRAME], faulty[FRAME])]
    assert len(donors) == 1
    assert donors != [CARRIER]


def test_a_blur_takes_fine_detail_and_a_moved_view_keeps_it():
    for name, low, high in (("camera blurred", 0.0, 0.6), ("camera moved 0.12", 0.8, 1.2)):
        sound, faulty, _, _, _ = planted(name)
        detail = [np.abs(np.diff(each[FRAME, :, 8:-8, 0], axis=1)).mean() for each in (sound, faulty)]
        assert low <= detail[1] / detail[0] <= high
        assert np.abs(faulty[FRAME] - sound[FRAME]).mean() > 4


def test_black_and_white_images_have_no_content():
    _, faulty, _, _, _ = planted("camera black")
    assert faulty.max() < 12
    sound, faulty, frames, _, _ = planted("camera white 0.2")
    assert faulty[frames].min() > 235
    np.testing.assert_array_equal(faulty[~frames], sound[~frames])


def test_controls_change_the_light_only():
    for name in CAMERA_CONTROLS:
        sound, faulty, _, _, _ = planted(name)
        dark = np.clip(sound[FRAME], 0, 150)
        inside = (sound[FRAME] < 150) & (sound[FRAME] > 20)
        assert np.corrcoef(dark[inside], faulty[FRAME][inside])[0, 1] > 0.99


def test_a_cell_is_recorded_with_its_recall_and_not_repeated(tmp_path):
    table = a_table()
    signals = Signals.of_table(table, "observation.state", "action")
    made = cameras.Cameras("made", table, TOP, signals, read_tracks(table))
    recorded = Recorded(tmp_path / "atlas.jsonl")
    cell = Cell("camera black", "whole", 1, 2)
    cameras.run_cell(made, cell, recorded)
    (line,) = recorded.lines.values()
    assert line["recall"] == 1.0
    assert line["false_alarms"] == 0.0
    assert line["carriers"] == 2
    cameras.run_cell(made, cell, recorded)
    assert len((tmp_path / "atlas.jsonl").read_text().splitlines()) == 1
