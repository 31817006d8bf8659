"""Recordings of scripted experts: contents, reproducibility, errors and interrupts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_ptr.cli import record
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.envs import recording
from hf_ptr.envs.metaworld.environment import ENVIRONMENT_STATE, MAX_STEPS, STATE, MetaWorldEnv
from hf_ptr.envs.metaworld.operators import Operator
from hf_ptr.envs.metaworld.tasks import INSTRUCTIONS, recording_seed
from hf_ptr.envs.recording import FRAMES_AFTER_SUCCESS, record_metaworld
from hf_ptr.errors import InputError
from hf_ptr.utils.process_pool import map_in_order


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of each of two tasks, recorded in this process."""
    return record_metaworld(["reach", "push"], 2, tmp_path_factory.mktemp("recorded") / "one", workers=1)


def test_a_recording_is_a_dataset(recorded: Path) -> None:
    table = read_dataset(recorded)
    assert table.fps == 80
    assert table.robot_type == "sawyer"
    assert table.tasks == (INSTRUCTIONS["reach-v3"], INSTRUCTIONS["push-v3"])
    assert table.num_episodes == 4
    np.testing.assert_array_equal(table.task_index[table.starts], [0, 0, 1, 1])
    assert table.columns["action"].shape == (table.num_frames, 4)
    assert np.abs(table.columns["action"]).max() <= 1
    np.testing.assert_array_equal(table.columns[STATE], table.columns[ENVIRONMENT_STATE][:, :4])
    assert not (recorded / "videos").exists()


def test_a_recording_can_be_replayed(recorded: Path) -> None:
    """Recorded actions, executed from the recorded seed, reproduce the recorded states bit for bit."""
    table = read_dataset(recorded)
    provenance = json.loads((recorded / "meta" / "recording.json").read_text())
    for start, length, source in zip(table.starts, table.lengths, provenance["episodes"], strict=True):
        env = MetaWorldEnv(source["task"])
        observed = env.reset(source["seed"])[ENVIRONMENT_STATE]
        solved = []
        for row in range(start, start + length):
            np.testing.assert_array_equal(observed, table.columns[ENVIRONMENT_STATE][row])
            observed = env.step(table.columns["action"][row])[ENVIRONMENT_STATE]
            solved.append(env.success)
        assert solved.index(True) == length - 1 - FRAMES_AFTER_SUCCESS
        assert length <= MAX_STEPS + FRAMES_AFTER_SUCCESS


def test_recordings_use_recording_seeds(recorded: Path) -> None:
    provenance = json.loads((recorded / "meta" / "recording.json").read_text())
    for number, source in enumerate(provenance["episodes"]):
        attempt = (number % 2) * recording.MAX_TRIES + source["redrawn"]
        assert source["seed"] == recording_seed(0, source["task"], attempt)
        assert source["seed"] % 2 == 0


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter(recorded: Path, tmp_path: Path) -> None:
    out = record_metaworld(["reach", "push"], 2, tmp_path / "two", workers=2)
    assert files(out) == files(recorded)


def test_another_seed_gives_other_episodes(recorded: Path, tmp_path: Path) -> None:
    other = read_dataset(record_metaworld(["reach"], 1, tmp_path / "seed", seed=1, workers=1))
    table = read_dataset(recorded)
    assert not np.array_equal(other.columns[ENVIRONMENT_STATE][0], table.columns[ENVIRONMENT_STATE][0])


def test_a_longer_recording_starts_with_the_shorter_one(recorded: Path, tmp_path: Path) -> None:
    shorter = read_dataset(record_metaworld(["reach"], 1, tmp_path / "short", workers=1))
    np.testing.assert_array_equal(
        shorter.columns["action"], read_dataset(recorded).columns["action"][: shorter.num_frames]
    )


def test_failed_episodes_are_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first initial states of this seed's third episode are beyond the expert."""
    job = recording._Job("peg-insert-side-v3", 2, 0, None, "hand", "expert")
    seeds = [recording_seed(0, job.task, job.episode * recording.MAX_TRIES + attempt) for attempt in range(5)]
    env = MetaWorldEnv(job.task)
    solved = []
    for seed in seeds:
        for _ in recording._demonstrate(env, Operator("expert", np.random.default_rng(seed)), seed):
            pass
        solved.append(env.success)
    demonstration = recording._record(job)
    assert demonstration.redrawn == solved.index(True)
    assert demonstration.seed == seeds[demonstration.redrawn]
    # Inserting a peg takes more than five steps, so every attempt fails, and nothing is written.
    monkeypatch.setattr("hf_ptr.envs.recording.MAX_STEPS", 5)
    with pytest.raises(InputError, match="solved none of the 20 initial states of episode 0; choose another seed"):
        record_metaworld(["peg-insert-side"], 1, tmp_path / "out", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_pixels_are_recorded_as_a_video(tmp_path: Path) -> None:
    out = record_metaworld(["reach"], 2, tmp_path / "pixels", pixels=64, workers=1)
    table = read_dataset(out)
    (video,) = out.glob("videos/observation.images.corner2/chunk-000/*.mp4")
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == table.num_frames
    assert frames[0].shape == (64, 64, 3)
    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    ends = [episode["videos/observation.images.corner2/to_timestamp"] for episode in episodes]
    np.testing.assert_allclose(ends, np.cumsum(table.lengths) / 80)
    # Up to compression, the video frame at each episode start shows the recorded initial state.
    env = MetaWorldEnv("reach", pixels=64)
    for start, source in zip(
        table.starts, json.loads((out / "meta/recording.json").read_text())["episodes"], strict=True
    ):
        env.reset(source["seed"])
        assert np.abs(env.image().astype(int) - frames[start]).mean() < 6
    env.close()
    # Rendering does not affect the physics.
    plain = record_metaworld(["reach"], 2, tmp_path / "plain", workers=1)
    np.testing.assert_array_equal(read_dataset(plain).columns[ENVIRONMENT_STATE], table.columns[ENVIRONMENT_STATE])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["reech"]}, "no task 'reech'. Did you mean 'reach-v3'?"),
        ({"tasks": []}, "no task was named"),
        ({"episodes": 0}, "episodes is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"pixels": 63}, "pixels is 63"),
        ({"pixels": 4096}, "pixels is 4096"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_invalid_arguments_are_refused_and_nothing_is_written(tmp_path: Path, arguments: dict, message: str) -> None:
    settings = {"tasks": ["reach"], "episodes": 1, "workers": 1, **arguments}
    with pytest.raises(InputError) as caught:
        record_metaworld(out=tmp_path / "sub" / "out", **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_is_not_overwritten(recorded: Path) -> None:
    before = files(recorded)
    with pytest.raises(InputError, match="not an empty folder"):
        record_metaworld(["reach"], 1, recorded, workers=1)
    assert files(recorded) == before


def test_an_interrupt_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_when_writing() -> None:
        while not list(tmp_path.glob("sub/.out*/data/*/*.parquet")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        threading.Thread(target=interrupt_when_writing, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            record_metaworld(["reach"], 10_000, tmp_path / "sub" / "out", workers=1)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert list(tmp_path.iterdir()) == []


def endless_sleeps() -> Iterator[float]:
    """A short sleep, an invalid one, then sleeps too long to wait for."""
    yield from (0.01, -1.0)
    while True:
        yield 600.0


@pytest.mark.slow
def test_worker_processes_end_at_the_first_error() -> None:
    drawn = []
    results = map_in_order(time.sleep, (drawn.append(nap) or nap for nap in endless_sleeps()), workers=2)
    assert next(results) is None
    began = time.monotonic()
    with pytest.raises(ValueError, match="non-negative"):
        next(results)
    assert time.monotonic() - began < 60
    # Jobs are drawn on demand.
    assert len(drawn) <= 6


def test_command_line(tmp_path: Path) -> None:
    out = tmp_path / "two"
    arguments = f"metaworld --tasks reach,push --episodes 1 --workers 1 --out {out}"
    result = CliRunner().invoke(record.app, arguments.split())
    assert result.exit_code == 0, result.output
    frames = read_dataset(out).num_frames
    assert f"{out}: 2 episodes, {frames} frames, 2 tasks" in result.output
    refused = CliRunner().invoke(record.app, f"metaworld --tasks puhs --out {tmp_path / 'no'}".split())
    assert isinstance(refused.exception, InputError)
    assert "Did you mean 'push-v3'?" in str(refused.exception)
    assert "hf-ptr record metaworld --tasks" in CliRunner().invoke(record.app, ["metaworld", "--help"]).output
