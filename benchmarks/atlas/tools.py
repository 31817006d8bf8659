"""The tools that the atlas compares, and the version that a recorded cell belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.atlas import baselines, ours
from benchmarks.atlas.metrics import Judgement
from benchmarks.atlas.planted import Planted
from hf_ptr import detection

OURS = "hf-ptr"
# A tool may decline a dataset with an `InputError`.
Judge = Callable[[Planted], Judgement]

TOOLS: dict[str, Judge] = {OURS: ours.judge} | {name: partial(baselines.judge, name) for name in baselines.BASELINES}


def version_of(tool: str) -> str:
    """A hash of the code that a cell's figures depend on: the planted faults, and the tool."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("material", "faults", "planted", "metrics")]
    if tool == OURS:
        files += [here / "ours.py", *sorted(Path(detection.__file__).parent.rglob("*.py"))]
    elif tool in baselines.BASELINES:
        files.append(here / "baselines.py")
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
