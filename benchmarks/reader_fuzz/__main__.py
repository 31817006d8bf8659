"""
Read thousands of drawn datasets and count what a sound reader does not do: wrong content, a refusal without a reason,
silence about damage, another exception than `InputError`.

    python -m benchmarks.reader_fuzz --datasets 2000 --seed 0     # rerun to resume
    python -m benchmarks.reader_fuzz --only 17                    # one dataset, reduced to the cause of its difference
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measurement import ROOT, command_parser, machine, results_file, run, write_results
from benchmarks.reader_fuzz.checking import check, message_kind, minimised
from benchmarks.reader_fuzz.spec import DatasetSpec, draw_spec

# One line a dataset, to resume from.
LINES = ROOT / "runs" / "reader_fuzz"
SMALL_DATASETS = 20
# So many differences are listed in the results; all are counted.
LISTED = 40


def spec_of(seed: int, number: int) -> DatasetSpec:
    """The dataset of a number, of a series of datasets."""
    return draw_spec(Random(f"{seed}:{number}"))


def result_of(seed: int, number: int) -> dict[str, Any]:
    """The line of a dataset."""
    spec = spec_of(seed, number)
    outcome = check(spec)
    return {
        "number": number,
        "version": spec.version,
        "oddities": [*spec.oddities, *(camera.timing for camera in spec.cameras if camera.timing != "exact")],
        "cameras": len(spec.cameras),
        "differences": outcome.differences,
        "refusals": sorted({message_kind(message) for message in outcome.refusals}),
        "warnings": sorted({message_kind(message) for message in outcome.warnings}),
    }


def code_version() -> str:
    """A hash of the reader and of the fuzz; lines of other versions are not resumed."""
    digest = hashlib.blake2b(digest_size=8)
    files = [*(ROOT / "src" / "hf_ptr" / "data").rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def summarised(lines: list[dict[str, Any]], seed: int, version: str) -> dict[str, Any]:
    """The content of the result file."""
    differing = [line for line in lines if line["differences"]]
    kinds = Counter(kind for line in differing for kind in {kind for kind, _ in line["differences"]})
    return {
        "what": "drawn LeRobot datasets read back and compared with their right content",
        "command": f"python -m benchmarks.reader_fuzz --datasets {len(lines)} --seed {seed}",
        "code": version,
        "datasets": len(lines),
        "by_version": dict(sorted(Counter(line["version"] for line in lines).items())),
        "with_cameras": sum(line["cameras"] > 0 for line in lines),
        "oddities": dict(Counter(name for line in lines for name in line["oddities"]).most_common()),
        "differing": len(differing),
        "differences": dict(kinds.most_common()),
        "listed": [
            {"number": line["number"], "oddities": line["oddities"], "difference": line["differences"][0]}
            for line in differing[:LISTED]
        ],
        "refused": sum(bool(line["refusals"]) for line in lines),
        "refusals": dict(Counter(kind for line in lines for kind in line["refusals"]).most_common()),
        "warnings": dict(Counter(kind for line in lines for kind in line["warnings"]).most_common()),
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "machine": machine(),
    }


def resumed(file: Path, version: str) -> dict[int, dict[str, Any]]:
    """The lines of an interrupted run of the same code, by number; a torn last line is ignored."""
    done = {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["code"] == version:
            done[line["number"]] = line
    return done


def explain(seed: int, number: int) -> None:
    """Print a dataset, its differences, and the simplest dataset with the first of them."""
    spec = spec_of(seed, number)
    outcome = check(spec)
    print(spec)
    print(json.dumps(dataclasses.asdict(outcome), indent=2, ensure_ascii=False))
    if outcome.differences:
        least = minimised(spec, outcome.differences[0][0])
        print("\nreduced to", least)
        print(json.dumps(dataclasses.asdict(check(least)), indent=2, ensure_ascii=False))
        sys.exit(1)


def main() -> None:
    """Run the command."""
    parser = command_parser("reader_fuzz", __doc__ and __doc__.strip())
    parser.add_argument("--datasets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one dataset, to find the cause of its difference")
    options = parser.parse_args()
    if options.only is not None:
        explain(options.seed, options.only)
        return
    count = min(options.datasets, SMALL_DATASETS) if options.small else options.datasets
    version = code_version()
    file = LINES / f"{'small' if options.small else 'seed'}-{options.seed}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done = resumed(file, version)
    for number in range(count):
        if number in done:
            continue
        start = time.monotonic()
        line = {"code": version, **result_of(options.seed, number), "seconds": round(time.monotonic() - start, 3)}
        done[number] = line
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        for kind, details in line["differences"]:
            print(f"{number}: {kind}: {details}", flush=True)
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {count} datasets", flush=True)
    result = summarised([done[number] for number in range(count)], options.seed, version)
    write_results(result, results_file("reader_fuzz", options.small))
    print(f"{result['differing']} of {count} datasets differ; {result['refused']} have justified refusals")
    if result["differing"]:
        sys.exit(1)


if __name__ == "__main__":
    run("benchmarks.reader_fuzz", main)
