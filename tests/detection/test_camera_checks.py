"""The camera checks find the faults of pixels that they are for, and leave sound images alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from made_images import HEIGHT, WIDTH, Render, arm_images, with_cameras
from made_motions import ACTION, FPS, STATE, table_of
from PIL import Image, ImageFilter

from hf_ptr.detection.cameras import read_tracks
from hf_ptr.detection.checks.camera_blank import CameraBlank
from hf_ptr.detection.checks.camera_missing import CameraMissing
from hf_ptr.detection.detect import detect
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.unseen import unseen

CHECKS = [check for check in all_checks() if check.name.startswith("camera/")]
TOP, WRIST = "observation.images.top", "observation.images.wrist"
EPISODES, FAULTY = 12, (3, 8)


@functools.cache
def a_table():
    return table_of([wandering(np.random.default_rng([1, number])) for number in range(EPISODES)])


def wandering(rng) -> tuple[np.ndarray, np.ndarray]:
    """State and command of two joints that move on another way in every episode."""
    length = int(rng.integers(110, 140))
    times = np.arange(length + 2) / 120
    phase, size = rng.uniform(0, 1, (2, 5, 2))
    path = sum(size[k] / (k + 1) * np.sin(2 * np.pi * (k + 1) * (times[:, None] + phase[k])) for k in range(5))
    noise = rng.normal(0, 0.003, (2, length, 2))
    return path[:-2] + noise[0], path[2:] + noise[1]


def close_images(table) -> Render:
    """A second camera with another view: other walls, and the limbs mirrored."""
    render = arm_images(table, seed=5)
    return lambda episode, frame: render(episode, frame)[:, ::-1]


def findings(renders, broken=None) -> dict[int, dict[str, str]]:
    """By episode, the causes by check."""
    table = with_cameras(a_table(), renders, broken)
    signals = Signals.of_table(table, STATE, ACTION).with_tracks(read_tracks(table))
    detector = Detector(signals, CHECKS)
    found: dict[int, dict[str, str]] = {}
    for view, measured in zip(detector.views, detector.measured, strict=True):
        for hit in detector.hits(view, measured):
            found.setdefault(view.episode.position, {})[hit.check.name] = hit.check.cause(hit.found)
    return found


def length_of(episode: int) -> int:
    return int(a_table().lengths[episode])


def faulty(change) -> Render:
    """The images of the camera, with those of the faulty episodes changed."""
    render = arm_images(a_table())
    return lambda episode, frame: change(render, episode, frame) if episode in FAULTY else render(episode, frame)


def frozen(render, episode, frame):
    first = length_of(episode) // 3
    stop = first + round(0.4 * length_of(episode))
    image = render(episode, first if first <= frame < stop else frame).astype(int)
    # The same image after another encoding.
    return np.clip(image + np.random.default_rng(frame).integers(-1, 2, image.shape), 0, 255).astype(np.uint8)


def black(render, episode, frame):
    return np.random.default_rng(frame).integers(0, 4, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def blurred(render, episode, frame):
    return np.asarray(Image.fromarray(render(episode, frame)).filter(ImageFilter.GaussianBlur(2)))


def late(render, episode, frame):
    return render(episode, max(frame - 6, 0))


def moved(render, episode, frame):
    return np.roll(render(episode, frame), (5, -5), axis=(0, 1))


def other(render, episode, frame):
    return render(episode + 1, round(frame * (length_of(episode + 1) - 1) / (length_of(episode) - 1)))


@pytest.mark.parametrize(
    ("change", "check", "cause"),
    [
        (frozen, "camera/frozen", "stand still while the robot moves"),
        (black, "camera/blank", f"black for {length_of(FAULTY[0]) / FPS:.1f} s"),
        (blurred, "camera/blurred", "of the fine detail is gone"),
        (late, "camera/late", "frames late"),
        (moved, "camera/moved", "is shifted by"),
        (other, "camera/other", f"that of episode {FAULTY[0] + 1} better"),
    ],
)
def test_each_fault_of_the_images_is_found_by_its_check_in_its_episodes_only(change, check, cause):
    found = findings({TOP: faulty(change)})
    assert sorted(found) == sorted(FAULTY)
    assert cause in found[FAULTY[0]][check]
    assert f"camera {TOP}" in found[FAULTY[0]][check]
    assert check in found[FAULTY[1]]


def test_exchanged_cameras_are_found_in_both():
    table = a_table()
    top, wrist = arm_images(table), close_images(table)
    found = findings(
        {
            TOP: lambda episode, frame: (wrist if episode in FAULTY else top)(episode, frame),
            WRIST: lambda episode, frame: (top if episode in FAULTY else wrist)(episode, frame),
        }
    )
    assert sorted(found) == sorted(FAULTY)
    assert all("camera/exchanged" in causes for causes in found.values())


def test_a_lag_that_all_episodes_share_is_not_a_fault_and_hides_none():
    render = arm_images(a_table())
    found = findings({TOP: lambda episode, frame: render(episode, max(frame - (7 if episode in FAULTY else 4), 0))})
    assert sorted(found) == sorted(FAULTY)
    for causes in found.values():
        frames = float(causes["camera/late"].split(f"camera {TOP} ")[1].split(" frames late")[0])
        assert frames == pytest.approx(3, abs=0.7)


def test_missing_images_are_found():
    with pytest.warns(match="cannot be checked"):
        found = findings({TOP: arm_images(a_table())}, broken={5: 0})
    assert found == {5: {"camera/missing": f"images of camera {TOP} are missing or damaged"}}


def test_a_camera_that_most_episodes_lack_is_named():
    table = table_of([wandering(np.random.default_rng([1, number])) for number in range(8)])
    table = with_cameras(table, {f"{TOP}\x1b]0;a\x07": arm_images(table)}, dict.fromkeys((0, 2, 5, 6), 0))
    with pytest.warns(match="cannot be checked .* in 4 of 8 episodes"):
        tracks = read_tracks(table)
    detector = Detector(Signals.of_table(table, STATE, ACTION).with_tracks(tracks), CHECKS)
    hits = [detector.hits(view, measured) for view, measured in zip(detector.views, detector.measured, strict=True)]
    # The terminal would carry out the escape sequence of the name.
    shown = f"{TOP}\ufffd]0;a\ufffd"
    assert [number for number, found in enumerate(hits) if found] == [0, 2, 5, 6]
    (hit,) = hits[0]
    assert hit.check.cause(hit.found) == f"images of camera {shown} are missing or damaged"
    assert {reason for reason in detector.unavailable.values() if reason} == {
        f"camera {shown} has images in 4 episodes only; 5 are needed"
    }


def images_without(cameras):
    """A table whose cameras have no images in any episode, as far as named."""
    table = table_of([wandering(np.random.default_rng([1, number])) for number in range(6)])
    table = with_cameras(table, {TOP: arm_images(table), WRIST: close_images(table)})
    for camera in cameras:
        table.videos[camera].clear()
    return table


def test_one_camera_without_images_is_listed_and_no_finding():
    table = images_without([WRIST])
    with pytest.warns(match="cannot be checked"):
        signals = Signals.of_table(table, STATE, ACTION).with_tracks(read_tracks(table), (TOP, WRIST))
    detector = Detector(signals, [CameraMissing, CameraBlank])
    assert not any(detector.hits(view, found) for view, found in zip(detector.views, detector.measured, strict=True))
    assert not any(detector.unavailable.values())
    (listed,) = [one for one in unseen(detector) if one.dimensions == (WRIST,)]
    assert listed.reason == "fewer than 5 episodes have images here"


def test_cameras_without_any_images_make_their_checks_unavailable():
    with pytest.warns(match="cannot be checked"):
        found = detect(images_without([TOP, WRIST]), cameras=None, checks=CHECKS, power=False)
    assert not found.findings
    assert found.unavailable["camera/frozen"] == (
        f"camera {TOP} has images in no episode; camera {WRIST} has images in no episode; 5 are needed"
    )
    assert found.unavailable["camera/missing"] == "the cameras have no images"


@pytest.mark.parametrize("flicker", [0.0, 0.2])
def test_sound_images_have_no_finding_in_any_light(flicker):
    render = arm_images(a_table())

    def shown(episode, frame):
        rng = np.random.default_rng([episode, frame])
        slow = 1 - 0.2 * flicker * frame / length_of(episode)
        light = slow * (1 + flicker * rng.uniform(-1, 1)) if episode in FAULTY else 1.0
        return np.clip(render(episode, frame) * light, 0, 255).astype(np.uint8)

    assert findings({TOP: shown}) == {}


def test_without_images_the_checks_say_so():
    detector = Detector(Signals.of_table(a_table(), STATE, ACTION), CHECKS)
    assert set(detector.unavailable.values()) == {"no camera was read"}


def test_every_planted_fault_of_the_images_is_found():
    table = a_table()
    table = with_cameras(table, {TOP: arm_images(table), WRIST: close_images(table)})
    signals = Signals.of_table(table, STATE, ACTION).with_tracks(read_tracks(table))
    detector = Detector(signals, CHECKS)
    rng = np.random.default_rng(0)
    labels = []
    for check in detector.checks:
        for plant in check.plants():
            positions = np.arange(0, EPISODES, 6)
            copies = [plant.make(signals.episodes[position], detector.context, rng) for position in positions]
            views = [detector.context.view(copy) for copy in copies]
            measured = [detector.measure_changed(view) for view in views]
            planted = detector.contaminated(positions, measured)
            for view, measurement in zip(views, measured, strict=True):
                assert check in [hit.check for hit in planted.hits(view, measurement)], plant.label
            labels.append(plant.label)
    assert len(labels) == 9
