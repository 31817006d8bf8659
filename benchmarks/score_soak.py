"""`hf-ptr score` in two processes, killed by SIGKILL again and again, against one process left alone.

    python -m benchmarks.score_soak [--kills 30] [--seed 0]

Synthetic demonstrations in several groups. Each attempt is `accelerate launch` with two processes, all of which are
killed at a random moment; the next one resumes from the finished parts. After half of the kills, one finished part is
removed and another one is cut in the middle, as by a damaged disk. At the end, scores, weights and findings must equal
those of one process that was left alone, and no part may be left. Last, a scoring may not write files of more than a
few kilobytes (RLIMIT_FSIZE fails as a full disk does): it must end with one line and leave the score file as it was.
"""

from __future__ import annotations

import contextlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from benchmarks.measurement import command_parser, results_file, run, write_results
from benchmarks.scored_walks import start, walks

MOST, BLOCK = 60, 2000
SETTINGS = ("steps=20",)
FINDINGS = "findings.parquet"
# Files larger than this cannot be written in the last attempt; all parts and tables are larger.
SMALLEST_FILE = 4096


def attempt(dataset: Path, out: Path, processes: int, most: int, seconds: float | None = None) -> float | None:
    """Scores the dataset, and kills all processes after some seconds; the seconds that it took, None if killed."""
    begun = time.monotonic()
    process = start(dataset, out, processes, most, BLOCK, SETTINGS)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # The launcher first, so that it starts nothing more. Its processes have sessions of their own.
        launcher = psutil.Process(process.pid)
        for each in (launcher, *launcher.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.communicate()
        return None
    if process.returncode:
        sys.exit(f"an attempt ended with {process.returncode}:\n{errors[-3000:]}")
    return time.monotonic() - begun


def damage(folder: Path, chance: random.Random) -> int:
    """Removes one finished part and cuts another; the number of damaged parts."""
    parts = sorted(folder.glob("*.safetensors"))
    chosen = chance.sample(parts, min(2, len(parts)))
    for number, part in enumerate(chosen):
        if number:
            part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
        else:
            part.unlink()
    return len(chosen)


def differing(one: Path, other: Path) -> float:
    """The largest difference of scores and weights; infinite if findings differ."""
    if not pd.read_parquet(one.with_name(FINDINGS)).equals(pd.read_parquet(other.with_name(FINDINGS))):
        return float("inf")
    values = [pd.read_parquet(file, columns=["score", "weight"]).to_numpy(np.float64) for file in (one, other)]
    return float(np.abs(values[0] - values[1]).max())


def full_disk(dataset: Path, out: Path, most: int) -> tuple[int, str]:
    """Exit code and last line of a scoring that cannot write its parts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALLEST_FILE, before[1]))
    try:
        # Other settings: nothing that was kept can be used.
        process = start(dataset, out, 1, most, BLOCK, (*SETTINGS, "rounds=1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    _, errors = process.communicate()
    return process.returncode, errors.strip().splitlines()[-1] if errors.strip() else ""


def main() -> None:
    parser = command_parser("score_soak", __doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    episodes, most = 240, MOST
    if options.small:
        episodes, most, options.kills = 40, 20, 1
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = walks(episodes, Path(scratch) / "data")
        alone, broken = (Path(scratch) / name / "scores.parquet" for name in ("alone", "broken"))
        longest = attempt(dataset, alone, 1, most)
        assert longest is not None
        parts = broken.with_name(f".{broken.stem}.parts")
        kills = finished = damaged = 0
        while kills < options.kills:
            if attempt(dataset, broken, 2, most, chance.uniform(0.2, 1.0) * longest) is None:
                kills += 1
                print(f"kill {kills}: {len(list(parts.glob('*.safetensors')))} finished parts", flush=True)
                if kills == max(1, options.kills // 2):
                    damaged = damage(parts, chance)
            else:
                finished += 1
                # From the beginning: what was scored once is kept for the next time.
                for file in sorted(broken.parent.rglob("*"), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
        attempt(dataset, broken, 2, most)
        difference = differing(alone, broken)
        before = broken.read_bytes()
        code, line = full_disk(dataset, broken, most)
        result = {
            "what": "hf-ptr score in two processes killed by SIGKILL at random moments, against one left alone",
            "command": f"python -m benchmarks.score_soak --kills {options.kills} --seed {options.seed}",
            "kills": kills,
            "finished_before_a_kill": finished,
            "damaged_parts": damaged,
            "difference": difference,
            "parts_left": parts.exists(),
            "full_disk": {"exit": code, "line": line, "scores_unchanged": broken.read_bytes() == before},
        }
    print(result)
    write_results(result, results_file("score_soak", options.small))
    if difference > 1e-6 or result["parts_left"] or code != 2 or not result["full_disk"]["scores_unchanged"]:
        sys.exit(1)


if __name__ == "__main__":
    run("benchmarks.score_soak", main)
