"""Interrupted fits resume to the bit, and do not use the parts of another fit; transitions are not stored."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from types import FunctionType
from typing import Any

import pandas as pd
import pytest
import torch
from data_helpers import LENGTH, drifting_table, with_camera
from safetensors.torch import load_file, save_file

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.video.decoding import VideoClip
from hf_ptr.scoring import cross_fitting
from hf_ptr.scoring import fit as fitting
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.scoring.transitions import lazy_transitions, plant_faults
from hf_ptr.utils.safetensors_io import PartCache

FOLDS = 5


def fit(keep: Path | None, wrong: tuple[int, ...] = (), **changes: Any) -> pd.DataFrame:
    chunks = ChunkDataset(drifting_table([LENGTH] * 10, wrong=wrong), chunk_size=8, target_offset=8)
    return fit_scores(chunks, ScoreConfig(steps=2, **changes), keep=keep, progress=False).frame()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each trained fold."""
    found: list[int] = []
    train = cross_fitting.train_heads

    def counted(*args: Any) -> Any:
        found.append(1)
        return train(*args)

    monkeypatch.setattr(cross_fitting, "train_heads", counted)
    return found


@pytest.fixture
def one_thread() -> Any:
    """A forked process must not wait for threads of its parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killed_at(fold: int, keep: Path) -> int:
    """Fits in a process that kills itself when that fold begins; returns the signal that ended it."""
    child = os.fork()
    if child == 0:
        train, begun = cross_fitting.train_heads, []

        def deadly(*args: Any) -> Any:
            begun.append(1)
            if len(begun) > fold:
                os.kill(os.getpid(), signal.SIGKILL)
            return train(*args)

        cross_fitting.train_heads = deadly  # type: ignore[assignment]
        fit(keep)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_a_killed_fit_resumes_fold_by_fold(tmp_path: Path, one_thread: Any, trained: list[int]) -> None:
    keep, fold = tmp_path / ".parts", 7
    assert killed_at(fold, keep) == signal.SIGKILL
    assert len(list(keep.iterdir())) == fold
    resumed = fit(keep)
    assert len(trained) == 2 * FOLDS - fold
    pd.testing.assert_frame_equal(resumed, fit(None), check_exact=True)


def test_parts_of_another_fit_are_not_used(tmp_path: Path, trained: list[int]) -> None:
    fit(tmp_path, rounds=1)
    for changes in ({}, {"seed": 1}, {"wrong": (2,)}, {"planted_noise": 0.2}):
        trained.clear()
        fit(tmp_path, rounds=1, **changes)
        assert len(trained) == (FOLDS if changes else 0)


def test_parts_of_other_images_are_not_used(tmp_path: Path) -> None:
    video, camera = tmp_path / "video.mp4", "observation.images.top"
    table = with_camera(drifting_table([LENGTH] * 4), camera)

    def key(start: float = 0.0) -> dict[str, Any]:
        clips = {episode: VideoClip(video, start + 10.0 * n, LENGTH) for n, episode in enumerate(range(7, 11))}
        chunks = ChunkDataset(
            dataclasses.replace(table, videos={camera: clips}),
            chunk_size=8,
            target_offset=8,
            observation_features=[camera],
            image_size=(16, 16),
        )
        return fitting._cache_key(chunks, ScoreConfig(), "cpu")

    video.write_bytes(b"0" * 100)
    os.utime(video, ns=(0, 10**9))
    first = key()
    assert key() == first and key(start=0.5) != first
    os.utime(video, ns=(0, 2 * 10**9))
    assert key() != first
    video.write_bytes(b"0" * 99)
    os.utime(video, ns=(0, 10**9))
    assert key() != first


def test_parts_of_other_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[int]) -> None:
    source = tmp_path / "source"
    shutil.copytree(Path(fitting.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__"))
    digest = fitting.code_digest
    monkeypatch.setattr(fitting, "code_digest", lambda _: digest(source))
    for change, folds in (("", FOLDS), ("", 0), ("# Another.\n", FOLDS)):
        (source / "identification_heads.py").write_text((source / "identification_heads.py").read_text() + change)
        trained.clear()
        fit(tmp_path / "parts", rounds=1)
        assert len(trained) == folds


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    parts = PartCache(tmp_path / "parts", {"seed": 0})
    parts.save("one", {"x": torch.arange(3)})
    assert torch.equal(parts.load("one")["x"], torch.arange(3))  # type: ignore[index]
    assert PartCache(tmp_path / "parts", {"seed": 1}).load("one") is None
    file = tmp_path / "parts" / "one.safetensors"
    save_file(load_file(file), file)
    assert parts.load("one") is None
    file.write_bytes(b"{")
    assert parts.load("one") is None and PartCache(None, {}).load("one") is None


def bytes_of(value: Any, seen: dict[int, int]) -> int:
    """The memory behind all tensors in an object, each storage once."""
    if isinstance(value, torch.Tensor):
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, tuple | list):
        for item in value:
            bytes_of(item, seen)
    elif isinstance(value, FunctionType):
        bytes_of([cell.cell_contents for cell in value.__closure__ or ()], seen)
    elif hasattr(value, "__dict__"):
        bytes_of(list(vars(value).values()), seen)
    return sum(seen.values())


@pytest.mark.parametrize("chunk_size", [8, 32])
def test_neither_chunks_nor_planted_faults_are_stored(chunk_size: int) -> None:
    table = drifting_table([200] * 10)
    transitions = lazy_transitions(ChunkDataset(table, chunk_size=chunk_size, target_offset=8), ScoreConfig())
    columns = sum(column.nbytes for column in table.columns.values())
    # The episode of each transition, and the instruction of each frame.
    assert bytes_of(transitions, {}) <= columns + 16 * table.num_frames + 64 * table.num_episodes
    faults = plant_faults(
        transitions, torch.arange(10), torch.tensor([True, True]), (4, 8), torch.Generator().manual_seed(0)
    )
    # The donor of each episode.
    assert bytes_of(list(faults.values()), {}) <= columns + 16 * table.num_frames + 256 * table.num_episodes


def test_transitions_are_the_values_of_their_frames() -> None:
    table = drifting_table([30, 9, 25])
    chunks = ChunkDataset(table, chunk_size=6, target_offset=8)
    transitions = lazy_transitions(chunks, ScoreConfig())
    whole = transitions.take(torch.arange(len(transitions)))
    assert len(whole) == 22 + 1 + 17 and whole.action.shape == (40, 12)
    some = torch.tensor([39, 0, 22])
    for name, values in vars(transitions.take(some)).items():
        assert torch.equal(values, getattr(whole, name)[some]), name
    batch = chunks.batch(transitions.frames(torch.arange(len(transitions))).tolist())
    assert torch.equal(batch["episode_index"] - 7, whole.episode)
    # The last chunk of an episode is cut at its end and padded with zeros.
    assert not batch["action_mask"].all() or bool(whole.action.isfinite().all())
    observed = transitions.observations[0].scale_(batch["next_observation"])
    assert torch.equal(observed, whole.next_observation)


def test_the_command_resumes_and_leaves_only_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[int]
) -> None:
    from command_line import hf_ptr

    data = write_table(drifting_table([LENGTH] * 8), tmp_path / "data")
    command = ["score", data, "steps=2", "--chunk-size", 8, "--target-offset", 8, "--out", tmp_path / "s.parquet"]
    train = cross_fitting.train_heads

    def interrupted(*args: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(cross_fitting, "train_heads", interrupted)
    stopped = hf_ptr(*command)
    assert stopped.returncode == 130 and "score" in stopped.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".s.parts"}
    monkeypatch.setattr(cross_fitting, "train_heads", train)
    assert hf_ptr(*command).returncode == 0
    # Eight episodes make four folds.
    assert len(trained) == 8
    companions = {"s.findings.parquet", "s.findings.json", "s.power.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "s.parquet", *companions}
