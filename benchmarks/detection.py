"""Which faults the calibrated score finds: AUROC on every corruption, no policy trained.

    python -m benchmarks.detection [--seeds 5]

The demonstrations are those of `benchmarks.robustness` (`mt10-state`). What is there already of the same code and data
is not fitted again. Results in `benchmarks/results/detection.json`, shown in `docs/results.md` by
`python -m benchmarks.robustness.report`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.progress import track

from benchmarks.robustness.figures import score_figures
from benchmarks.robustness.running import CALIBRATED, FIGURES, checkout, code_hash, data_hash
from benchmarks.robustness.suites import ROOT, SUITES
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import corrupt
from hf_ptr.data.lerobot_reader import read_dataset
from hf_ptr.data.recording import record_metaworld
from hf_ptr.files import write_json
from hf_ptr.scoring.fitting import fit_scores

RESULTS = ROOT / "benchmarks" / "results" / "detection.json"
SUITE = SUITES["mt10-state"]
CORRUPTIONS = (
    "hard",
    "misaligned",
    "ani",
    "ln",
    "foreign",
    "ani-severe",
    "misaligned-mild",
    "misaligned-severe",
    "tt",
    "wrong-goal",
    "clean",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    code, commit = code_hash(FIGURES + CALIBRATED), checkout()
    lines: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for seed in range(options.seeds):
        folder = SUITE.demonstrations_of(seed)
        if not folder.exists():
            record_metaworld(SUITE.tasks, SUITE.demonstrations, folder, seed=seed)
        data = data_hash(folder)
        for corruption in track(CORRUPTIONS, f"seed {seed}"):
            key = {"corruption": corruption, "seed": seed, "data_hash": data, "code_hash": code}
            if any(key.items() <= line.items() for line in lines):
                continue
            start = time.monotonic()
            table, truth = corrupt(read_dataset(folder), corruption, seed)
            chunks = ChunkDataset(table, observation_features=["observation.environment_state"])
            figures = score_figures(fit_scores(chunks, seed=seed, progress=False), table, truth)
            lines = [line for line in lines if (line["corruption"], line["seed"]) != (corruption, seed)]
            lines.append({**key, **figures, "seconds": round(time.monotonic() - start, 1), "commit": commit})
            write_json(lines, RESULTS)


if __name__ == "__main__":
    main()
