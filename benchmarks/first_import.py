"""What the first import costs: `import hf_ptr` against `import transformers`, and `hf-ptr --help`.

    python -m benchmarks.first_import [--rounds 7]

CPU seconds of a new interpreter each, the cases in turn within a round. Results in
`benchmarks/results/first_import.json`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

from benchmarks.robustness.suites import ROOT
from hf_ptr.utils.atomic_files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "first_import.json"
CASES = {
    "import transformers": "import transformers",
    "import hf_ptr": "import hf_ptr",
    "hf-ptr --help": "from hf_ptr.cli import main; main(['--help'])",
}


def cost(script: str) -> tuple[float, float]:
    """CPU and wall seconds of a new interpreter that runs it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for script in CASES.values():
        cost(script)
    taken = [{name: cost(script) for name, script in CASES.items()} for _ in range(rounds)]
    ratios = [line["import hf_ptr"][0] / line["import transformers"][0] for line in taken]
    figures = {
        name: {
            "cpu_seconds": _spread([line[name][0] for line in taken]),
            "wall_seconds": _spread([line[name][1] for line in taken]),
        }
        for name in CASES
    }
    write_json({"rounds": rounds, "hf_ptr_over_transformers": _spread(ratios), **figures}, RESULTS)
    print(RESULTS.read_text())


def _spread(values: list[float]) -> dict[str, float]:
    return {name: round(of(values), 3) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


if __name__ == "__main__":
    main()
