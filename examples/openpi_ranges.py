"""
Train on the ranges of frames that hf-ptr keeps, in the format of openpi.

    hf-ptr export scores.parquet --to keep-ranges
    python examples/openpi_ranges.py DATASET scores.keep-ranges.json

openpi's loader of DROID reads the file by itself (`filter_dict_path` of its data config). Its loader of
LeRobotDatasets has no filter: there, wrap the dataset that it creates in the `Subset` below.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Subset

from hf_ptr import ChunkDataset, load_dataset


def kept_frames(ranges: dict[str, list[list[int]]], starts: dict[int, int]) -> list[int]:
    """
    Positions in a dataset of the frames in some ranges.

    Args:
        ranges: `[first, end)` frames of each episode, by its id.
        starts: position of the first frame of each episode, by its id.
    """
    spans = [np.arange(first, end) + starts[int(episode)] for episode, found in ranges.items() for first, end in found]
    return np.concatenate(spans).tolist() if spans else []


def main(folder: str, file: str) -> Subset:
    table = load_dataset(folder)
    # Any dataset with one item per frame, such as LeRobotDataset.
    dataset: Dataset = ChunkDataset(table)
    ranges = json.loads(Path(file).read_text())["keep_ranges"]
    starts = dict(zip(table.episode_index.tolist(), table.starts.tolist(), strict=True))
    kept = Subset(dataset, kept_frames(ranges, starts))
    print(f"{len(kept)} of {table.num_frames} frames are kept")
    return kept


if __name__ == "__main__":
    main(*sys.argv[1:])
