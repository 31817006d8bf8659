"""Parts of finished scorings are kept whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_ptr.training import kept_parts
from hf_ptr.training.kept_parts import keep_parts, recall_parts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_parts.constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hf-ptr" / "scorings"


def parts(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "part").write_text(content)
    return folder


def test_the_last_scoring_of_a_dataset_is_recalled(cache: Path, tmp_path: Path) -> None:
    for content in ("first", "second"):
        keep_parts("data", parts(tmp_path / "made", content))
    assert not (tmp_path / "made").exists() and len(list(cache.iterdir())) == 1
    # What a killed copy left is not taken for parts.
    parts(tmp_path / "mine.copy", "damaged")
    recall_parts("data", tmp_path / "mine")
    assert (tmp_path / "mine" / "part").read_text() == "second" and not (tmp_path / "mine.copy").exists()
    # An interrupted scoring keeps its own parts.
    (tmp_path / "mine" / "part").write_text("own")
    recall_parts("data", tmp_path / "mine")
    assert (tmp_path / "mine" / "part").read_text() == "own"
    recall_parts("other", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_scoring_that_is_too_large_does_not_replace_the_kept_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_parts("data", parts(tmp_path / "made", "old"))
    monkeypatch.setattr(kept_parts, "LARGEST", 2)
    keep_parts("data", parts(tmp_path / "made", "larger"))
    assert not (tmp_path / "made").exists()
    recall_parts("data", tmp_path / "mine")
    assert (tmp_path / "mine" / "part").read_text() == "old"


def test_the_scorings_that_were_used_last_are_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_parts, "MOST", 2)
    for number in range(4):
        keep_parts(f"data {number}", parts(tmp_path / "made", str(number)))
    assert len(list(cache.iterdir())) == 2
    # The older one of both is used, so the other one goes.
    for kept in cache.iterdir():
        os.utime(kept, (0, 2.0 * int((kept / "part").read_text())))
    recall_parts("data 2", tmp_path / "used")
    keep_parts("data 4", parts(tmp_path / "made", "4"))
    assert {(kept / "part").read_text() for kept in cache.iterdir()} == {"2", "4"}


def test_a_cache_that_cannot_be_read_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(path)

    monkeypatch.setattr(kept_parts.Path, "is_dir", refused)
    recall_parts("data", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
