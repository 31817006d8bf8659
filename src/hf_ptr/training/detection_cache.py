"""A finished detection on disk, from which an interrupted scoring resumes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

import hf_ptr
from hf_ptr._version import __version__
from hf_ptr.data.episodes import EpisodeTable, data_digest
from hf_ptr.detection.detect import Detection
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.power import Power, PowerCard
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.unseen import Unseen
from hf_ptr.scoring.fit import image_stamps
from hf_ptr.utils.code_digest import code_digest
from hf_ptr.utils.safetensors_io import PartCache

# They decode the images.
DECODERS = ("av", "torchcodec")


def cached_detection(
    keep: Path | None,
    table: EpisodeTable,
    cameras: Sequence[str],
    settings: dict[str, Any],
    make: Callable[[], Detection],
    name: str = "detection",
) -> Detection:
    """
    The detection that is kept in a folder if it has the same inputs and code; otherwise a new one, which is kept.

    Args:
        keep: the folder; None to keep nothing.
        table: the episodes.
        cameras: the cameras whose images are checked.
        settings: further inputs, JSON values.
        make: detects.
        name: name of its file in the folder.
    """
    if keep is None:
        return make()
    parts = PartCache(keep, {**_inputs(table, cameras), **settings})
    part = parts.load(name)
    if part is not None:
        return _unpacked(part)
    found = make()
    parts.save(name, _packed(found))
    return found


def _inputs(table: EpisodeTable, cameras: Sequence[str]) -> dict[str, Any]:
    # Checks of other packages, whose versions need not change with their code.
    files = sorted({str(sys.modules[check.__module__].__file__) for check in all_checks()})
    return {
        "data": data_digest(table),
        # The recorded clock is not in the digest of the data, whose values recorded results contain.
        "seconds": hashlib.sha256(np.ascontiguousarray(table.seconds).data).hexdigest(),
        # Findings name the dimensions.
        "features": table.features,
        "cut_ends": {str(episode): list(ends) for episode, ends in table.cut_ends.items()},
        "cameras": list(cameras),
        "images": image_stamps(table, cameras),
        "versions": [__version__, np.__version__, scipy.__version__, *map(_installed, DECODERS)],
        "code": code_digest(Path(hf_ptr.__path__[0])),
        "checks": {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files},
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _packed(found: Detection) -> dict[str, Tensor]:
    texts = {
        "findings": [asdict(one) for one in found.findings],
        "power": None if found.power is None else found.power.as_json(),
        "unavailable": dict(found.unavailable),
        "groups": found.groups,
    }
    return {
        "texts": torch.frombuffer(bytearray(json.dumps(texts).encode()), dtype=torch.uint8),
        "episode_evidence": torch.from_numpy(found.episode_evidence),
        **{f"frames.{number}": torch.from_numpy(rows) for number, rows in enumerate(found.frame_evidence)},
    }


def _unpacked(part: dict[str, Tensor]) -> Detection:
    texts = json.loads(part["texts"].numpy().tobytes())
    power = texts["power"]
    episode_evidence = part["episode_evidence"].numpy()
    return Detection(
        findings=tuple(Finding(**one) for one in texts["findings"]),
        power=None
        if power is None
        else PowerCard(
            tuple(Power(**one) for one in power["powers"]),
            tuple(Unseen(one["fault"], one["reason"], tuple(one["dimensions"])) for one in power["unseen"]),
        ),
        unavailable=texts["unavailable"],
        episode_evidence=episode_evidence,
        frame_evidence=tuple(part[f"frames.{number}"].numpy() for number in range(len(episode_evidence))),
        groups=tuple(texts["groups"]),
    )
