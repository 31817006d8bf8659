"""The findings in twenty human demonstrations of which five carry a planted fault.

    python -m benchmarks.five_faults DATASET

DATASET is `YifanTian07/G1-policy-train` (20 episodes, 26 joints, 30 frames a second). Two episodes are recorded six
frames late, two have noise of 0.5 rad on their commands, one has the commands of another episode. Results in
`benchmarks/results/five_faults.json`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

import numpy as np

from benchmarks.robustness.suites import ROOT
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.detection import detect
from hf_ptr.metrics.statistics import auroc
from hf_ptr.report.verdict import by_check, verdict
from hf_ptr.utils.atomic_files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "five_faults.json"
LATE, NOISY, SWAPPED = (3, 14), (7, 18), {11: 12}
FRAMES_LATE, NOISE = 6, 0.5


def with_faults(table: EpisodeTable) -> tuple[EpisodeTable, dict[int, str]]:
    """The demonstrations with the five faults, and the fault of each faulty episode."""
    random = np.random.default_rng(0)
    recorded = table.columns["action"]
    action = recorded.copy()

    def rows(episode: int) -> np.ndarray:
        position = int(np.flatnonzero(table.episode_index == episode)[0])
        return table.starts[position] + np.arange(table.lengths[position])

    for episode in LATE:
        mine = rows(episode)
        action[mine] = recorded[np.maximum(mine - FRAMES_LATE, mine[0])]
    for episode in NOISY:
        action[rows(episode)] += random.normal(0.0, NOISE, recorded[rows(episode)].shape).astype(np.float32)
    for episode, donor in SWAPPED.items():
        mine, other = rows(episode), rows(donor)
        action[mine] = recorded[other[np.minimum(np.arange(len(mine)), len(other) - 1)]]
    faults = {**dict.fromkeys(LATE, "late"), **dict.fromkeys(NOISY, "noise"), **dict.fromkeys(SWAPPED, "swapped")}
    return replace(table, columns={**table.columns, "action": action}), faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    options = parser.parse_args()
    table, faults = with_faults(read_dataset(options.dataset))
    detection = detect(table, power=False)
    bad = np.isin(table.episode_index, list(faults))
    probability = detection.episode_evidence
    found = {
        "faults": {str(episode): fault for episode, fault in sorted(faults.items())},
        "flagged": detection.flagged,
        "auroc": auroc(1 - probability[~bad], 1 - probability[bad]),
        "findings": [asdict(found) for found, _ in by_check(detection.findings)],
    }
    write_json(found, RESULTS)
    lengths = dict(zip(table.episode_index.tolist(), table.lengths.tolist(), strict=True))
    print(verdict(detection.findings, lengths))


if __name__ == "__main__":
    main()
