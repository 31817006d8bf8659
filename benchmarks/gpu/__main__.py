"""Time, memory and waits of a training step of PTR and SFT for a PI0 of full size in bfloat16 with LoRA, on one GPU.

    python -m benchmarks.gpu [--minutes 12] [--batch 8 32] [--out runs/gpu]

Needs no data and no network: weights and batches are random. No measurement begins after `--minutes`, and the results
are written after each. `--small` measures a PI0 of some ten thousand weights, also without a GPU.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.pi0 import ARMS, Place, stepper, trainer_of
from benchmarks.host_waits import SyncCounter
from benchmarks.measurement import ROOT, command_parser, machine, run, summary, write_results
from hf_ptr.errors import InputError

WARM_UP = 3
# Steps measured and steps in which the waits are counted.
STEPS, COUNTED = 20, 5
GIB = 2**30


def measured(step: Callable[[], None], device: torch.device, steps: int) -> dict[str, Any]:
    """
    Figures of a step: `seconds` until the device is done, `host_seconds` until the host is free for the next one, peak
    memory in GiB, and on a GPU `waits` of the host for the device per step, by caller.
    """
    gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if gpu else (lambda: None)
    for _ in range(WARM_UP):
        step()
    wait()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, host = [], []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
        wait()
        seconds.append(time.perf_counter() - start)
    found: dict[str, Any] = {"seconds": summary(seconds), "host_seconds": summary(host)}
    if not gpu:
        return {**found, "peak_gib": None, "waits": None}
    found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    counter = SyncCounter()
    with counter.counting():
        for _ in range(COUNTED):
            step()
    found["waits"] = {site: count / COUNTED for site, count in counter.found.most_common()}
    return found


def arm_figures(arm: str, batch: int, place: Place, steps: int) -> dict[str, Any]:
    """The figures of an arm with a batch; `{"failed": …}` where the memory does not suffice."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = trainer_of(arm, place, Path(folder))
            parameters = list(trainer.model.parameters())
            counts = {
                "parameters": sum(each.numel() for each in parameters),
                "trained": sum(each.numel() for each in parameters if each.requires_grad),
            }
            return {**counts, **measured(stepper(trainer, batch, place), place.device, steps)}
        except torch.OutOfMemoryError:
            return {"failed": "out of memory"}


def main() -> None:
    parser = command_parser("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=12.0, help="begin no measurement after this time")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="chunks in a step")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of the results")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not options.small:
        raise InputError("no NVIDIA GPU found; --small runs on the CPU, with tiny sizes")
    place = Place(torch.device("cuda" if gpu else "cpu"), full=not options.small)
    batches, steps = ([2], 2) if options.small else (options.batch, STEPS)
    started = time.monotonic()
    result: dict[str, Any] = {
        "what": "a training step of PI0 with a LoRA adapter, random weights and batches",
        "command": "python -m benchmarks.gpu" + (" --small" if options.small else ""),
        "machine": {**machine(), "device": torch.cuda.get_device_name() if gpu else "cpu", "torch": torch.__version__},
        "steps": {},
    }
    for batch in batches:
        for arm in ARMS:
            late = time.monotonic() - started > 60 * options.minutes
            found = {"failed": "no time left"} if late else arm_figures(arm, batch, place, steps)
            # The next one has the whole memory.
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()
            result["steps"][f"{arm}, {batch} chunks"] = found
            print(f"{arm}, {batch} chunks: {_words(found)}", flush=True)
            write_results(result, options.out / "gpu.json")


def _words(found: dict[str, Any]) -> str:
    if "failed" in found:
        return str(found["failed"])
    text = f"{1e3 * found['seconds']['median']:.0f} ms a step, the host {1e3 * found['host_seconds']['median']:.0f} ms"
    if found["peak_gib"] is not None:
        text += f", {found['peak_gib']:.1f} GiB, {sum(found['waits'].values()):.1f} waits"
    return text


if __name__ == "__main__":
    run("benchmarks.gpu", main)
