"""Tables of the suite of recorded faults: success by kind of fault, and detection and policy side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.pages import markdown_table
from benchmarks.robustness.markdown import bounds, points
from benchmarks.robustness.results import corruption_name
from benchmarks.robustness.statistics import (
    Cells,
    Estimate,
    Outcomes,
    difference,
    mean_difference,
    rate,
    recovered_gap,
)


def mean_over(cells: Cells, suite: str, kinds: Sequence[str], arm: str) -> Outcomes:
    """
    The outcomes of an arm on several kinds as those of one, over the seeds that all kinds have.

    Returns:
        By seed, `(kinds * tasks, rollouts)` bool. The rate over it is the mean of the rates on the kinds.
    """
    each = [cells.get((suite, kind, arm), {}) for kind in kinds]
    seeds = set.intersection(*map(set, each)) if each else set()
    return {seed: np.concatenate([outcomes[seed] for outcomes in each]) for seed in sorted(seeds)}


def faults_table(
    cells: Cells, suite: str, groups: dict[str, Sequence[str]], kinds: Sequence[str], arms: Sequence[str]
) -> str:
    """
    One row per kind of fault and per group of kinds: success of each arm, its difference to SFT and recovered gap.

    Args:
        cells: the outcomes.
        suite: the suite.
        groups: rows that are means over several kinds, by their labels.
        kinds: the kinds with a row of their own.
        arms: the arms other than SFT, with a column each.
    """
    rows: list[tuple[Any, ...]] = [("faults", "`sft`", *(f"`{arm}`" for arm in arms))]
    for label, members in {**groups, **{kind: (kind,) for kind in kinds}}.items():
        sft, oracle = (mean_over(cells, suite, members, arm) for arm in ("sft", "oracle"))
        if not sft:
            continue
        row = [label, f"{100 * rate(sft):.1f} ({len(sft)})"]
        for arm in arms:
            mine = mean_over(cells, suite, members, arm)
            if not mine:
                row.append("")
                continue
            text = f"{100 * rate(mine):.1f} ({len(mine)})<br>{points(difference(mine, sft))}"
            if arm != "oracle":
                text += f"<br>{_recovered(recovered_gap(mine, sft, oracle))}"
            row.append(text)
        rows.append(tuple(row))
    return markdown_table(rows)


def headline_table(cells: Cells, suite: str, groups: dict[str, Sequence[str]], peers: Sequence[str]) -> str:
    """
    Four rows: SFT, the peer with the highest mean over the first group, calibrated weights, and the oracle.

    Args:
        cells: the outcomes.
        suite: the suite.
        groups: the columns, kinds of fault by label.
        peers: the arms of which the best is shown.
    """
    first = next(iter(groups.values()))
    best = max(
        (arm for arm in peers if mean_over(cells, suite, first, arm)),
        key=lambda arm: rate(mean_over(cells, suite, first, arm)),
        default=None,
    )
    rows: list[tuple[Any, ...]] = [("weights", *groups)]
    for arm in ("sft", best, "calibrated", "oracle"):
        if arm is None:
            continue
        row = [f"`{arm}`" if arm != best else f"best peer (`{arm}`)"]
        for kinds in groups.values():
            mine, sft = (mean_over(cells, suite, kinds, name) for name in (arm, "sft"))
            text = f"{100 * rate(mine):.1f} ({len(mine)})" if mine else ""
            row.append(text if arm == "sft" or not text else f"{text}<br>{points(difference(mine, sft))}")
        rows.append(tuple(row))
    return markdown_table(rows)


def harm_table(cells: Cells, rows: Sequence[tuple[str, str]], arms: Sequence[str]) -> str:
    """
    Success on data without a fault of SFT, and the difference of each arm to it; last, the mean over the rows.

    Args:
        cells: the outcomes.
        rows: suites and corruptions.
        arms: the arms other than SFT, with a column each.
    """
    table: list[tuple[Any, ...]] = [("suite", "recordings", "`sft`", *(f"`{arm}`" for arm in arms))]
    compared: dict[str, list[tuple[Outcomes, Outcomes]]] = {arm: [] for arm in arms}
    for suite, name in rows:
        sft = cells.get((suite, name, "sft"))
        if sft is None:
            continue
        row = [f"`{suite}`", name, f"{100 * rate(sft):.1f} ({len(sft)})"]
        for arm in arms:
            mine = cells.get((suite, name, arm), {})
            if mine:
                compared[arm].append((mine, sft))
            row.append(points(difference(mine, sft)))
        table.append(tuple(row))
    means = [f"{points(mean_difference(pairs))} ({len(pairs)} rows)" if pairs else "" for pairs in compared.values()]
    table.append(("", "mean over the rows", "", *means))
    return markdown_table(table)


def detection_and_policy_table(
    lines: Sequence[dict[str, Any]], cells: Cells, suite: str, kinds: Sequence[str], arms: Sequence[str]
) -> str:
    """
    One row per kind of fault: gain of the oracle, and of each arm the AUROC of its weights per episode, its mean
    weights of faulty and of other chunks, and its recovered gap.
    """
    rows: list[tuple[Any, ...]] = [
        ("faults", "oracle, points", *(f"`{arm}`: AUROC, weight faulty / sound, recovered" for arm in arms))
    ]
    for kind in kinds:
        sft, oracle = (cells.get((suite, kind, arm), {}) for arm in ("sft", "oracle"))
        if not sft or not oracle:
            continue
        row = [kind, points(difference(oracle, sft))]
        for arm in arms:
            mine = [
                line for line in lines if (line["suite"], corruption_name(line), line["arm"]) == (suite, kind, arm)
            ]
            if not mine:
                row.append("")
                continue
            figures = [_figures(line) for line in mine]
            known = [found for found in figures if found is not None]
            shown = "-" if not known else "{:.2f}, {:.2f} / {:.2f}".format(*np.mean(known, axis=0))
            row.append(f"{shown}, {_recovered(recovered_gap(cells[suite, kind, arm], sft, oracle))}")
        rows.append(tuple(row))
    return markdown_table(rows)


def _figures(line: dict[str, Any]) -> tuple[float, float, float] | None:
    """AUROC per episode, mean weights of faulty and of sound chunks; None where a run has no such figures."""
    found = (line["auroc_episode"].get("any"), line.get("weight_faulty"), line.get("weight_sound"))
    return None if None in found else found


def _recovered(gap: Estimate) -> str:
    return "-" if gap.value is None else f"{100 * gap.value:.0f} % {bounds(gap, '%.0f')}"
