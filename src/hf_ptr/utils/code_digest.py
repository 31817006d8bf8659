"""A hash of source files, by which kept results are bound to the code that made them."""

from __future__ import annotations

import hashlib
from pathlib import Path


def code_digest(folder: Path) -> str:
    """
    A hash of the source of a package and its subpackages, because a change of the code between releases does not
    change the version; that of a file alone.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
