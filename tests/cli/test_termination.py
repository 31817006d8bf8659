"""SIGTERM in the command line, and folders that cannot be made."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hf_ptr import InputError, cli
from hf_ptr.utils.atomic_files import StagedFolder


def test_sigterm_leaves_no_partial_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*_: object, **__: object) -> None:
        staged = StagedFolder(tmp_path / "new" / "copy")
        try:
            staged.path()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            staged.discard()

    monkeypatch.setattr(cli, "app", command)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.startswith("hf-ptr: terminated; rerun")


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"copy cannot be created .*; choose another path"):
        StagedFolder(tmp_path / "file" / "copy").path()
