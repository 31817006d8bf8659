"""Cost of the first import: `import hf_ptr` against the transformers classes it derives from, and `hf-ptr --help`.

    python -m benchmarks.first_import [--rounds 7]

Each case runs in a new interpreter; the cases alternate within a round. Reports CPU and wall seconds, and the ratio
of CPU seconds, which is less noisy on a loaded machine. Writes `benchmarks/results/first_import.json`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measurement import command_parser, results_file, run, write_results

BASELINE = "from transformers import PreTrainedModel, PreTrainedConfig, ProcessorMixin, Trainer, TrainingArguments"
# The script that pip writes for the entry point; its file must be called hf-ptr.
COMMAND = "from hf_ptr.cli import main\nmain()\n"


def cost(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a new interpreter with these arguments."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = command_parser("first_import", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rounds = 1 if options.small else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "hf-ptr"
        script.write_text(COMMAND)
        cases = {
            "import torch": ["-c", "import torch"],
            "transformers classes": ["-c", BASELINE],
            "import hf_ptr": ["-c", "import hf_ptr"],
            "hf-ptr --help": [str(script), "--help"],
        }
        for arguments in cases.values():
            cost(arguments)
        taken = [{name: cost(arguments) for name, arguments in cases.items()} for _ in range(rounds)]
    ratios = [line["import hf_ptr"][0] / line["transformers classes"][0] for line in taken]
    figures = {
        name: {
            "cpu_seconds": _spread([line[name][0] for line in taken]),
            "wall_seconds": _spread([line[name][1] for line in taken]),
        }
        for name in cases
    }
    result = {"rounds": rounds, "baseline": BASELINE, "hf_ptr_over_baseline": _spread(ratios), **figures}
    print(json.dumps(result, indent=2))
    write_results(result, results_file("first_import", options.small))


def _spread(values: list[float]) -> dict[str, float]:
    return {name: round(of(values), 3) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


if __name__ == "__main__":
    run("benchmarks.first_import", main)
