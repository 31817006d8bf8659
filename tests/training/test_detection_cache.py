"""A finished detection is read again for the same inputs only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from leading_table import leading_table

from hf_ptr.data import corruption
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot import reader
from hf_ptr.detection import detector
from hf_ptr.detection.detect import Detection, detect
from hf_ptr.scoring import fit
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.training import detection_cache
from hf_ptr.training.detection_cache import cached_detection


def never() -> Detection:
    raise AssertionError("the detection is not read from the folder")


def test_an_interrupted_scoring_does_not_detect_again(tmp_path: Path) -> None:
    table = leading_table(12, frames=60)
    made = cached_detection(tmp_path, table, (), {"seed": 0}, lambda: detect(table))
    read = cached_detection(tmp_path, table, (), {"seed": 0}, never)
    assert made.power is not None and len(made.power.powers) > 3
    assert (read.findings, read.power, read.unavailable) == (made.findings, made.power, dict(made.unavailable))
    assert np.array_equal(read.episode_evidence, made.episode_evidence)
    assert all(map(np.array_equal, read.frame_evidence, made.frame_evidence))


def test_other_data_settings_or_code_are_detected_anew(tmp_path: Path, monkeypatch) -> None:
    table = leading_table(12, frames=60)
    made: list[Detection] = []

    def make() -> Detection:
        made.append(detect(table, power=False))
        return made[-1]

    cached_detection(tmp_path, table, (), {"seed": 0}, make)
    columns = {name: column.copy() for name, column in table.columns.items()}
    columns["action"][5] += 0.25
    cached_detection(tmp_path, dataclasses.replace(table, columns=columns), (), {"seed": 0}, make)
    cached_detection(tmp_path, table, (), {"seed": 1}, make)
    # Time stamps and names of dimensions that were corrected in place.
    table = dataclasses.replace(table, seconds=table.seconds * 1.25)
    cached_detection(tmp_path, table, (), {"seed": 1}, make)
    table = dataclasses.replace(table, features={**table.features, "action": {"names": ["lift"]}})
    cached_detection(tmp_path, table, (), {"seed": 1}, make)
    # Columns of images without clips, as before their download.
    empty = dataclasses.replace(table, videos={"top": {}, "wrist": {}})
    for cameras in (("top",), ("wrist",)):
        cached_detection(tmp_path, empty, cameras, {"seed": 1}, make)
    monkeypatch.setattr(detection_cache, "version", lambda package: "0.0.1")
    cached_detection(tmp_path, table, (), {"seed": 1}, make)
    monkeypatch.setattr(detection_cache, "code_digest", lambda folder: "changed")
    cached_detection(tmp_path, table, (), {"seed": 1}, make)
    assert len(made) == 9
    cached_detection(tmp_path, table, (), {"seed": 1}, never)


def test_the_code_is_that_of_all_modules_that_read_and_detect(tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "library"
    (source / "data" / "lerobot").mkdir(parents=True)
    module = source / "data" / "lerobot" / "reader.py"
    digests = []
    for text in ("first = 0", "first = 1"):
        module.write_text(text)
        digests.append(detection_cache.code_digest(source))
    assert digests[0] != digests[1]
    folders: list[Path] = []

    def spied(folder: Path) -> str:
        folders.append(folder)
        return ""

    for part in (detection_cache, fit):
        monkeypatch.setattr(part, "code_digest", spied)
    table = leading_table(12, frames=60)
    cached_detection(tmp_path / "kept", table, (), {}, lambda: detect(table, power=False))
    fit._cache_key(ChunkDataset(table), ScoreConfig(), "cpu")
    assert len(folders) == 2
    for folder in folders:
        assert all(Path(str(used.__file__)).is_relative_to(folder) for used in (reader, corruption, detector, fit))


def test_nothing_is_kept_without_a_folder() -> None:
    table = leading_table(12, frames=60)
    found = detect(table, power=False)
    assert cached_detection(None, table, (), {}, lambda: found) is found
