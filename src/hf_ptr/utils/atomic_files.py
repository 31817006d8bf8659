"""Atomic writes: a file or folder appears complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_ptr.errors import InputError

# A full disk, a full quota and a file-size limit need the same fix.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Random bytes in the name of a hidden folder.
TOKEN_BYTES = 4


def is_out_of_space(error: BaseException) -> bool:
    """Whether a write failed for lack of space, in any library."""
    # safetensors reports the error of the operating system as text; torch.save reports that its writer failed.
    text = str(error)
    numbered = any(f"os error {number}" in text for number in NO_SPACE)
    by_torch = isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "inline_container" in text)
    return numbered or by_torch or (isinstance(error, OSError) and error.errno in NO_SPACE)


def make_folder(folder: Path) -> None:
    """
    Creates a folder and the missing ones above it.

    Raises:
        InputError: it cannot be created, for example because a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_out_of_space(error):
            raise
        file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        if file is not None:
            raise InputError(f"{file} is a file, and cannot hold files; choose another path") from error
        raise InputError(f"the folder {folder} cannot be created ({error.strerror}); choose another path") from error


def require_folder_of(path: Path) -> None:
    """
    Check, before long work, that the folder of a file exists or can be created. No new folder stays.

    Raises:
        InputError: as `make_folder`.
    """
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    make_folder(path.absolute().parent)
    for folder in missing:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """
    Yields a temporary path in the folder of `path`, which replaces `path` when the block succeeds.

    After an error or an interrupt nothing has changed. Missing parent folders are created.

    Raises:
        InputError: the folder of `path` cannot be created.
    """
    path = Path(path)
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(text: str, path: str | os.PathLike) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(content: Any, path: str | os.PathLike) -> None:
    """Writes indented JSON atomically. NaN raises `ValueError`, since JSON has no NaN."""
    write_text(json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n", path)


class StagedFolder:
    """
    A new folder that appears complete or not at all: it is written under a hidden name and renamed at the end.

    A lock on the hidden folder ends with its process, however it ends. The next run that writes the same folder
    removes the hidden folders of killed processes. It removes only those of its own host, since the locks of some
    network file systems hold on one host only, and none where the file system has no locks.

    Args:
        out: final path; must not exist, or must be an empty folder.

    Raises:
        InputError: `out` is a file or a folder that is not empty.
    """

    def __init__(self, out: str | os.PathLike) -> None:
        self.out = Path(out).resolve()
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise InputError(f"{out} exists and is not an empty folder; choose another path or remove it")
        self._root: Path | None = None
        self._lock = -1
        self._made_parents: list[Path] = []

    def path(self) -> Path:
        """
        The hidden folder, created on first use.

        Raises:
            InputError: it cannot be created there.
        """
        if self._root is None:
            self._made_parents = [parent for parent in self.out.parents if not parent.exists()]
            try:
                self._remove_abandoned()
                root, self._lock = self._new_root()
            except OSError as error:
                if is_out_of_space(error):
                    raise
                raise InputError(f"{self.out} cannot be created ({error.strerror}); choose another path") from error
            self._root = root
        return self._root

    def _new_root(self) -> tuple[Path, int]:
        while True:
            root = self.out.parent / f"{self._prefix}{secrets.token_hex(TOKEN_BYTES)}"
            root.mkdir(parents=True)
            try:
                lock = os.open(root, os.O_RDONLY)
            except FileNotFoundError:
                # Another run took it for abandoned before it was opened.
                continue
            # Some network file systems have no locks; nothing is removed there.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if root.exists():
                return root, lock
            # Another run took it for abandoned before it was locked.
            os.close(lock)

    def _remove_abandoned(self) -> None:
        """Removes the hidden folders of this path and host whose process has ended."""
        for root in self.out.parent.glob(f"{glob.escape(self._prefix)}{'[0-9a-f]' * 2 * TOKEN_BYTES}"):
            if root.is_symlink() or not root.is_dir():
                continue
            with contextlib.suppress(OSError):
                lock = os.open(root, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(root, ignore_errors=True)
                finally:
                    os.close(lock)

    @property
    def _prefix(self) -> str:
        # A checksum of the host's name, because file names are limited in length.
        host = zlib.crc32(socket.gethostname().encode())
        return f".{self.out.name}.partial-{host:08x}-"

    def publish(self) -> None:
        """Renames the folder to its final path."""
        root = self.path()
        if self.out.exists():
            self.out.rmdir()
        os.rename(root, self.out)
        self._root = None
        os.close(self._lock)

    def discard(self) -> None:
        """Removes the hidden folder and the parent folders created for it; does nothing after `publish`."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
            os.close(self._lock)
            for parent in self._made_parents:
                with contextlib.suppress(OSError):
                    parent.rmdir()
