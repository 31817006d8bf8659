"""
Writes the tables of `docs/distributed_costs.md` from the results of `benchmarks.communication`,
`benchmarks.policy_sizes` and `benchmarks.step_memory`.

    python -m benchmarks.training_costs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks import measurement
from benchmarks.pages import fill_page, markdown_table

PAGE = measurement.ROOT / "docs" / "distributed_costs.md"
NAMES = {"native": "policy of the demo", "pi0": "PI0, tiny", "pi0_lora": "PI0, tiny, LoRA"}
ENGINES = {"ddp": "DDP", "fsdp2": "FSDP2"}
# Columns of the table: purposes of collectives.
PURPOSES = {
    "gradients": ("gradients", "used parameters", "gradient norm"),
    "weights": ("parameters",),
    "targets": ("targets",),
    "sums": ("sums",),
    "stop signal": ("stop signal",),
    "buffers": ("buffers",),
}


def amount(size: float) -> str:
    """Bytes in words."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def fill_costs() -> None:
    """Writes the tables of the page."""
    parts = {}
    for name, tables in TABLES.items():
        file = measurement.RESULTS / f"{name}.json"
        if file.is_file():
            parts |= tables(json.loads(file.read_text(encoding="utf-8")))
    fill_page(PAGE, parts)


def communication_tables(result: dict[str, Any]) -> dict[str, str]:
    """Collectives of a step, what each sends, and what each process holds."""
    runs = result["runs"]
    head = ["policy, by", "arm", "micro-batches", "all", *PURPOSES]
    rows: list[Sequence[Any]] = [head, *([*_case(found), *_cells(found["step"])] for found in runs)]
    logs = [sum(calls for calls, _ in found["log"].values()) for found in runs]
    most = max(sum(size for _, size in found["log"].values()) for found in runs)
    ratios = [sent / computed for found in runs for sent, computed in _against_computed(found)]
    checked = [found["calls"] for found in runs if found["calls"]["recorded"] is not None]
    agree = sum(each["counted"] == each["recorded"] for each in checked)
    held: list[Sequence[Any]] = [["policy, by", "arm", "parameters", "optimiser", "computed"]]
    for found in runs:
        if found["accumulation"] == 1:
            share = result["processes"] if found["engine"] == "fsdp2" else 1
            computed = " and ".join(amount(each / share) for each in found["kept"].values())
            held.append([*_case(found)[:2], *(amount(each) for each in found["held"].values()), computed])
    return {
        "communication": markdown_table(rows),
        "communication-log": f"A logged step adds {min(logs)} to {max(logs)} collectives of {amount(most)} together, "
        "at most.",
        "communication-computed": "The bytes of gradients, weights, targets, sums and stop signal are "
        f"{min(ratios):.4f} to {max(ratios):.4f} times those computed from the sizes of the model. PyTorch's profiler "
        f"recorded as many collectives as were counted in {agree} of the {len(checked)} runs that it watched.",
        "held": markdown_table(held),
    }


def _case(found: dict[str, Any]) -> list[Any]:
    return [f"{NAMES[found['policy']]}, {ENGINES[found['engine']]}", f"`{found['arm']}`", found["accumulation"]]


def _cells(step: dict[str, list[int]]) -> list[str]:
    cells = []
    for purposes in (None, *PURPOSES.values()):
        chosen = [each for key, each in step.items() if purposes is None or key.partition(":")[0] in purposes]
        calls, size = (sum(each[place] for each in chosen) for place in range(2))
        cells.append(f"{calls}: {amount(size)}" if calls else "")
    return cells


def _against_computed(found: dict[str, Any]) -> list[tuple[int, int]]:
    """Bytes sent and computed by purpose."""
    sent: dict[str, int] = {}
    for key, (_, size) in found["step"].items():
        purpose = key.partition(":")[0]
        sent[purpose] = sent.get(purpose, 0) + size
    return [(sent[purpose], size) for purpose, size in found["computed"].items()]


def dry_run_table(result: dict[str, Any]) -> dict[str, str]:
    """The estimate against runs."""
    runs: list[Sequence[Any]] = [["policy", "arm", "chunks", "measured", "estimated", "estimated / measured"]]
    for found in result["runs"]:
        chunks = f"{found['micro_batches']} × {found['chunks']}"
        sizes = (amount(found[name]) for name in ("measured", "estimated"))
        runs.append([NAMES[found["policy"]], f"`{found['arm']}`", chunks, *sizes, f"{found['ratio']:.2f}"])
    return {"dry-run": markdown_table(runs)}


def size_tables(result: dict[str, Any]) -> dict[str, str]:
    """What policies of three sizes need, on one process and on several."""
    columns = ("weights", "of them EMA target", "gradients", "AdamW")
    kept: list[Sequence[Any]] = [["policy", "parameters", "trained", *columns, "together", "step of 8 chunks"]]
    head: list[str] = []
    each: list[Sequence[Any]] = []
    for name, found in result["policies"].items():
        sizes = [found["kept"][part] for part in ("weights", "target", "gradients", "moments")]
        total = sum(sizes) - found["kept"]["target"]
        millions = [f"{found[count] / 1e6:,.1f} M" for count in ("parameters", "trained")]
        step = amount(found["kept"]["weights"] + found["kept"]["moments"] + found["step"]) if "step" in found else ""
        kept.append([name, *millions, *map(amount, sizes), amount(total), step])
        head, row = ["policy", "1 process"], [name, amount(total)]
        for ranks, ways in found["on_each"].items():
            for way, (between, most) in ways.items():
                head.append(f"{ranks}, {way}")
                row.append(amount(between) if between == most else f"{amount(between)}, {amount(most)} in a step")
        each.append(row)
    return {"sizes": markdown_table(kept), "shared": markdown_table([head, *each])}


TABLES = {"communication": communication_tables, "policy_sizes": size_tables, "step_memory": dry_run_table}


if __name__ == "__main__":
    fill_costs()
