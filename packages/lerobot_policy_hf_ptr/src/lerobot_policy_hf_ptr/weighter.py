"""The sample weighter of LeRobot that reads weights per frame from a file, and its settings."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.utils.sample_weighting import SampleWeighter, SampleWeightingConfig

from lerobot_policy_hf_ptr.weight_file import WeightFileError, read_weight_file

ON_THE_HUB = "hf://datasets/"


@dataclass
class WeightingConfig(SampleWeightingConfig):
    """
    LeRobot's settings of sample weighting, and those of `hf_ptr`.

    Attributes:
        type: `hf_ptr`, or a type of LeRobot; by default `hf_ptr` with a `path` and LeRobot's default without.
        path: parquet file with the columns `index` and `weight`, on this machine or as `hf://datasets/OWNER/NAME/FILE`.
        fallback_weight: weight of frames that have no row in the file.
    """

    type: str = ""
    path: str | None = None
    fallback_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.type:
            self.type = "rabc" if self.path is None else "hf_ptr"
        if (self.type == "hf_ptr") != (self.path is not None):
            raise SystemExit("--sample_weighting.path=FILE.parquet and --sample_weighting.type=hf_ptr go together")
        if not (math.isfinite(self.fallback_weight) and self.fallback_weight >= 0):
            raise SystemExit(f"--sample_weighting.fallback_weight is at least 0, not {self.fallback_weight}")
        if self.path is not None and not self.path.startswith(ON_THE_HUB):
            # A checkpoint keeps the path, and is resumed from any folder.
            self.path = str(Path(self.path).absolute())


class FrameWeights(SampleWeighter):
    """
    Weighs the samples of a batch by the weights of their first frames.

    Args:
        weights: weight of each frame of the dataset, `(F,)`.
        known: whether the weight is from the file, `(F,)`; else it is the fallback.
        device: device of the batch weights.
    """

    def __init__(self, weights: np.ndarray, known: np.ndarray, device: torch.device) -> None:
        self.weights = torch.from_numpy(weights)
        self.known = torch.from_numpy(known)
        self.device = device

    def compute_batch_weights(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
        """
        Weights of a batch of B samples.

        Args:
            batch: with `index`, `(B,)`: global frame indices.

        Returns:
            Weights `(B,)` that sum to B, or zeros where all B weights are 0; and what is logged.

        Raises:
            WeightFileError: the batch has no `index`, or one outside the dataset.
        """
        if "index" not in batch:
            raise WeightFileError("the batch has no 'index', so its samples cannot be weighed")
        index = batch["index"].flatten().cpu().long()
        if bool((index < 0).any()) or int(index.max()) >= len(self.weights):
            raise WeightFileError(f"the batch has frames {index.tolist()}, the dataset has {len(self.weights)}")
        raw = self.weights[index]
        logged = {
            "mean_weight": float(raw.mean()),
            "num_zero_weight": int((raw == 0).sum()),
            "num_fallback_weight": int((~self.known[index]).sum()),
        }
        total = raw.sum()
        weights = raw * (len(raw) / total) if total > 0 else raw
        return weights.to(self.device, torch.float32), logged

    def get_stats(self) -> dict[str, Any]:
        """The type, the number of frames, how many have a row in the file, and their mean weight."""
        return {
            "type": "hf_ptr",
            "num_frames": len(self.weights),
            "num_weighted_frames": int(self.known.sum()),
            "mean_weight": float(self.weights[self.known].mean()),
        }


def make_frame_weighter(
    config: WeightingConfig, device: torch.device, dataset_root: str | None, dataset_repo_id: str | None
) -> FrameWeights:
    """
    The weighter of `config.path`.

    Args:
        config: settings of type `hf_ptr`.
        device: device of the batch weights.
        dataset_root: folder of the dataset, or None for LeRobot's own.
        dataset_repo_id: its repo id.

    Raises:
        WeightFileError: the file is unfit for this dataset.
    """
    file = read_weight_file(_local(str(config.path)))
    meta = LeRobotDatasetMetadata(dataset_repo_id, root=dataset_root)
    starts, lengths = (np.asarray(meta.episodes[name], np.int64) for name in ("dataset_from_index", "length"))
    file.require_fits(str(dataset_root or dataset_repo_id), starts, lengths)
    weights, known = file.by_frame(int(lengths.sum()), config.fallback_weight)
    logging.info(
        f"{file.path} weighs {known.sum()} of {len(known)} frames, "
        f"with {file.weight.min():.3g} to {file.weight.max():.3g}"
        + ("" if known.all() else f", the others with {config.fallback_weight:.3g}")
    )
    return FrameWeights(weights, known, device)


def _local(path: str) -> Path:
    """The file, downloaded if it is on the Hub."""
    if not path.startswith(ON_THE_HUB):
        return Path(path)
    owner, name, *parts = path.removeprefix(ON_THE_HUB).split("/")
    if not parts:
        raise WeightFileError(f"{path} names no file; write {ON_THE_HUB}OWNER/NAME/FILE.parquet")
    return Path(hf_hub_download(f"{owner}/{name}", "/".join(parts), repo_type="dataset"))
