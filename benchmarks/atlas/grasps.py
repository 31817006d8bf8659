"""
Compare the retries that the detector names with the known failed grasps of a dataset.

    python -m benchmarks.atlas.grasps PATH --truth PATH/failed_grasps.csv

The truth has the columns `episode_index`, `first_frame` and `last_frame`, one failed attempt a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import measurement
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.detection.detect import detect
from hf_ptr.detection.findings import Finding
from hf_ptr.report.expectation import RETRY

OVERLAP = 0.3


def overlap(finding: Finding, first: int, last: int) -> float:
    """Intersection over union of a finding's frames and `first` to `last`."""
    both = min(finding.last_frame, last) - max(finding.first_frame, first) + 1
    either = max(finding.last_frame, last) - min(finding.first_frame, first) + 1
    return max(0, both) / either


def compared(findings: Sequence[Finding], truth: pd.DataFrame, episodes: int) -> dict[str, Any]:
    """Episodes with failed grasps of which one attempt is named at its place, and others with a named retry."""
    retries = [finding for finding in findings if finding.check == RETRY]
    named = {
        int(row.episode_index)
        for row in truth.itertuples()
        if any(
            finding.episode_index == row.episode_index
            and overlap(finding, int(row.first_frame), int(row.last_frame)) >= OVERLAP
            for finding in retries
        )
    }
    faulty = set(truth.episode_index.tolist())
    return {
        "episodes": len(faulty),
        "found": len(named),
        "iou": OVERLAP,
        "others": episodes - len(faulty),
        "false": len({finding.episode_index for finding in retries} - faulty),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = measurement.command_parser("atlas.grasps", (__doc__ or "").strip(), small=False)
    parser.add_argument("dataset", type=Path, help="folder of the dataset")
    parser.add_argument("--truth", type=Path, required=True, help="CSV of the failed attempts")
    options = parser.parse_args(arguments)
    table = read_dataset(options.dataset)
    found = detect(table, power=False).findings
    result = {"dataset": options.dataset.name, **compared(found, pd.read_csv(options.truth), table.num_episodes)}
    measurement.write_results(result, measurement.results_file("failed_grasps", small=False))
    print(result)


if __name__ == "__main__":
    measurement.run("benchmarks.atlas.grasps", main)
