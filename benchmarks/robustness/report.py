"""Writes the tables and figures of the results into the pages of `docs/` and the README, between their markers.

python -m benchmarks.robustness.report
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.pages import fill_page, markdown_table
from benchmarks.robustness.fault_tables import detection_and_policy_table, faults_table, harm_table, headline_table
from benchmarks.robustness.markdown import bounds, points
from benchmarks.robustness.plots import gap_figure, sensitivity_figure
from benchmarks.robustness.results import cell_of, corruption_name, read_lines
from benchmarks.robustness.running import Cell
from benchmarks.robustness.selecting import FLAGGED_DROPPED
from benchmarks.robustness.statistics import (
    Cells,
    Estimate,
    Outcomes,
    difference,
    outcomes_of,
    rate,
    recovered_gap,
    significant_seeds,
    verdict,
)
from benchmarks.robustness.suites import ALTERNATIVES, COSTLY, PLANS, RESULTS, ROOT, SUITES, UNSEEN, Block
from hf_ptr.metrics.success import SuccessRate

PAGES = (*(ROOT / "docs" / name for name in ("results.md", "tables.md", "calibrated.md")), ROOT / "README.md")
FIGURE, SWEEPS = ROOT / "docs" / "difference_to_sft.png", ROOT / "docs" / "sensitivity.png"

# Fault mixtures in the README's table: strong faults, the mixture of the paper, no faults.
HEADLINE = ("hard", "combined", "clean")
# The corruptions of the plan `small` that are faults.
FAULTY = ("hard", "foreign")
# The arm that is compared with every other arm of a plan; `calibrated` by default.
COMPARED = {"ablations": "ptr", "sensitivity": "ptr"}
# The summary table: plans, arms with a column each, and peers of which the best is shown.
SUMMARY = ("main", "goal", "pixels", "cross")
LEADING = ("sft", "ptr", "calibrated", "oracle")
PEERS = ("length", "loss", *PLANS["peers"][0].arms)
# Labels of variants of the score whose recorded names differ from the terms of the pages.
SCORE_VARIANTS = {
    "all of it": "full method",
    "chunks for themselves": "chunk scores not pooled",
    "nothing owed to novelty": "no novelty correction",
    "no action among other samples": "no action check against other samples",
    "no action among its neighbours": "no action check against neighbouring frames",
    "negatives near in state, too": "additional negatives near in state",
}


def comparable(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines that can be paired: for each suite, seed and operators, those on the demonstrations of the newest line."""

    def recording_of(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["suite"], line["seed"], Cell(*cell_of(line)).operators

    newest = {recording_of(line): line["data_hash"] for line in lines}
    return [line for line in lines if line["data_hash"] == newest[recording_of(line)]]


def outcomes_by_cell(lines: Sequence[dict[str, Any]]) -> Cells:
    """Maps `(suite, corruption, arm)` to the outcomes of its seeds, with tasks in the order of the suite."""
    cells: dict[tuple[str, str, str], dict[int, np.ndarray]] = defaultdict(dict)
    for line in lines:
        key = (line["suite"], corruption_name(line), line["arm"])
        cells[key][line["seed"]] = outcomes_of(line["outcomes"], SUITES[line["suite"]].rows)
    return dict(cells)


def summary_table(usable: Sequence[dict[str, Any]]) -> str:
    """One row per suite and corruption: the leading arms and the best peer, each with its difference to SFT."""
    rows = [("suite", "faults", "seeds", *(f"`{arm}`" for arm in LEADING), "best peer")]
    for plan in SUMMARY:
        suite, corruptions = PLANS[plan][0].suite, PLANS[plan][0].corruptions
        cells = outcomes_by_cell(_on_seeds_of(usable, PLANS[plan]))
        for name in corruptions:
            sft = cells.get((suite, name, "sft"))
            if sft is None:
                continue
            found = {arm: cells[suite, name, arm] for arm in (*LEADING, *PEERS) if (suite, name, arm) in cells}
            shown = {arm: f"{100 * rate(mine):.1f}{_difference_to(mine, sft)}" for arm, mine in found.items()}
            best = max((arm for arm in PEERS if arm in found), key=lambda arm: rate(found[arm]), default=None)
            leading = [shown.get(arm, "") for arm in LEADING]
            rows.append((f"`{suite}`", name, len(sft), *leading, f"`{best}` {shown[best]}" if best else ""))
    return markdown_table(rows)


def success_table(cells: Cells, suite: str, corruptions: Sequence[str], arms: Sequence[str]) -> str:
    """Success rates by arm and corruption with Wilson intervals, and differences to SFT with confidence intervals."""
    rows = [("arm", *corruptions)]
    for arm in arms:
        row = [f"`{arm}`"]
        for corruption in corruptions:
            mine, sft = cells.get((suite, corruption, arm)), cells.get((suite, corruption, "sft"))
            if mine is None:
                row.append("")
                continue
            solved = np.concatenate([seed.ravel() for seed in mine.values()])
            low, high = SuccessRate(int(solved.sum()), len(solved)).interval
            text = f"{100 * solved.mean():.1f} [{100 * low:.0f}, {100 * high:.0f}] ({len(mine)})"
            row.append(text if sft is None else text + _difference_to(mine, sft))
        rows.append(tuple(row))
    return markdown_table(rows)


def comparison_table(cells: Cells, suite: str, corruptions: Sequence[str], arms: Sequence[str]) -> str:
    """Recovered gap where it is defined, verdict against SFT, and numbers of seeds with a significant McNemar test."""
    rows = [("faults", "arm", "recovered gap", "against SFT", "seeds significantly better / worse / all")]
    for corruption in corruptions:
        sft, oracle = (cells.get((suite, corruption, name)) for name in ("sft", "oracle"))
        if sft is None:
            continue
        for arm in arms:
            mine = cells.get((suite, corruption, arm))
            if mine is None or arm == "sft":
                continue
            gap = Estimate(None) if oracle is None else recovered_gap(mine, sft, oracle)
            shown = "-" if gap.value is None else f"{100 * gap.value:.0f} % {bounds(gap, '%.0f')}"
            seeds = " / ".join(str(number) for number in significant_seeds(mine, sft))
            rows.append((corruption, f"`{arm}`", shown, verdict(difference(mine, sft)), seeds))
    return markdown_table(rows)


def pairwise_table(cells: Cells, suite: str, corruptions: Sequence[str], mine: str, arms: Sequence[str]) -> str:
    """Paired differences in points between one arm and each of the others, with verdicts."""
    shown = [name for name in corruptions if (suite, name, mine) in cells]
    rows = [(f"`{mine}` against", *shown)]
    for arm in arms:
        if arm == mine or not any((suite, name, arm) in cells for name in shown):
            continue
        row = [f"`{arm}`"]
        for name in shown:
            found = difference(cells[suite, name, mine], cells.get((suite, name, arm), {}))
            row.append("" if found.value is None else f"{points(found)}<br>{verdict(found)}")
        rows.append(tuple(row))
    return markdown_table(rows)


def auroc_table(lines: Sequence[dict[str, Any]], suite: str, corruptions: Sequence[str]) -> str:
    """Mean AUROC per episode (per chunk) over the seeds, by corruption, arm and fault."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    faults: list[str] = []
    for line in lines:
        name = corruption_name(line)
        if line["suite"] != suite or name not in corruptions or line["arm"].startswith(("oracle", "random")):
            continue
        for fault, value in line["auroc_episode"].items():
            if value is not None:
                found[name, line["arm"]][fault].append((value, line["auroc_sample"][fault]))
                faults += [fault] if fault not in faults else []
    rows = [("faults", "score of", *faults)]
    for (name, arm), by_fault in sorted(found.items(), key=lambda item: (corruptions.index(item[0][0]), item[0][1])):
        cells = [_pair(by_fault.get(fault)) for fault in faults]
        rows.append((name, f"`{arm}`", *cells))
    return markdown_table(rows)


def weights_table(lines: Sequence[dict[str, Any]], suite: str, corruptions: Sequence[str], arms: Sequence[str]) -> str:
    """Distribution of the chunk weights: with a scorer, at the end of training; otherwise as used in training."""
    rows = [("faults", "arm", "mean weight", "5 % / 50 % / 95 %", "effective sample size / n", "seeds")]
    for corruption in corruptions:
        for arm in arms:
            mine = [
                line
                for line in lines
                if (line["suite"], corruption_name(line), line["arm"]) == (suite, corruption, arm) and line["ess"]
            ]
            if mine:
                quantiles = np.mean([line["weight_quantiles"] for line in mine], axis=0)
                rows.append(
                    (
                        corruption,
                        f"`{arm}`",
                        f"{np.mean([line['weight_mean'] for line in mine]):.2f}",
                        f"{quantiles[1]:.2f} / {quantiles[3]:.2f} / {quantiles[5]:.2f}",
                        f"{np.mean([line['ess'] for line in mine]):.3f}",
                        len(mine),
                    )
                )
    return markdown_table(rows)


def detection_table(lines: Sequence[dict[str, Any]]) -> str:
    """Detection by the calibrated score on each corruption: mean, minimum and maximum over the seeds."""
    rows = [("faults", "fault", "AUROC per episode", "per chunk", "effective sample size / n", "mean weight", "seeds")]

    for corruption in dict.fromkeys(line["corruption"] for line in lines):
        mine = [line for line in lines if line["corruption"] == corruption]
        for fault, known in mine[0]["auroc_episode"].items():
            if known is None and corruption != "clean":
                continue
            if fault == "any" and len(mine[0]["auroc_episode"]) == 2:
                continue
            of = [
                "" if known is None else _spread([line[key][fault] for line in mine], 3)
                for key in ("auroc_episode", "auroc_sample")
            ]
            weights = [_spread([line[key] for line in mine], 2) for key in ("ess", "weight_mean")]
            rows.append((corruption, "none" if known is None else fault, *of, *weights, len(mine)))
    return markdown_table(rows)


def score_ablations_table(lines: Sequence[dict[str, Any]]) -> str:
    """AUROC per episode and weights of the calibrated score without one part, means over the seeds of all variants."""
    rows = [
        (
            "",
            "hard: swapped actions / noise / instruction",
            "misaligned",
            "hard: weight of good / faulty",
            "clean: ESS / n",
            "seeds",
        )
    ]
    found = {(line["variant"], line["seed"], line["corruption"]): line for line in lines}
    variants, seeds = (dict.fromkeys(line[key] for line in lines) for key in ("variant", "seed"))
    needed = ("hard", "misaligned", "clean")
    shared = [seed for seed in seeds if all((one, seed, name) in found for one in variants for name in needed)]
    for variant in variants if shared else ():
        whole = [{name: found[variant, seed, name] for name in needed} for seed in shared]

        def mean(corruption: str, *keys: str, whole: list[dict[str, dict[str, Any]]] = whole) -> float:
            values = [of_seed[corruption] for of_seed in whole]
            for key in keys:
                values = [value[key] for value in values]
            return float(np.mean(values))

        faults = [mean("hard", "auroc_episode", fault) for fault in ("foreign_actions", "noise", "instruction")]
        rows.append(
            (
                SCORE_VARIANTS.get(variant, variant),
                " / ".join(f"{value:.3f}" for value in faults),
                f"{mean('misaligned', 'auroc_episode', 'misalignment'):.3f}",
                f"{mean('hard', 'weight_good'):.2f} / {mean('hard', 'weight_faulty'):.2f}",
                f"{mean('clean', 'ess'):.3f}",
                len(whole),
            )
        )
    return markdown_table(rows)


def negative_controls_table(sets: dict[str, list[dict[str, Any]]]) -> str:
    """
    Mean weight of each part of uneven recordings without a fault, by the newest version of the score that measured
    them: mean, minimum and maximum over the seeds.
    """
    rows = [("recordings", "frames", "mean weight", "share below 1", "effective sample size / n", "seeds")]
    for name, recorded in sets.items():
        newest = max(run["version"] for run in recorded)
        runs = [run for run in recorded if run["version"] == newest]
        for part in runs[0]["mean weight"]:
            figures = [[run["mean weight"][part] for run in runs], [run["share below 1"][part] for run in runs]]
            figures.append([run["ess"] for run in runs])
            shown = [_spread(values, 2) for values in figures]
            rows.append((name, part, *shown[:2], shown[2] if part == "all" else "", len(runs)))
    return markdown_table(rows)


def harmless_operators_table(lines: Sequence[dict[str, Any]]) -> str:
    """Mean weight of harmless episodes, and the share of them below 2, by version of the calibrated score."""
    recorded = sorted({line["version"] for line in lines})
    heads = [f"{name}, version {version}" for version in recorded for name in ("mean weight", "below 2")]
    rows: list[tuple[Any, ...]] = [("data", "control", "episodes", *heads)]
    for data, control in dict.fromkeys((line["data"], line["control"]) for line in lines):
        found = {line["version"]: line for line in lines if (line["data"], line["control"]) == (data, control)}
        figures = []
        for version in recorded:
            line = found.get(version)
            figures += ["", ""] if line is None else [f"{line['mean weight']:.2f}", f"{line['share below 2']:.0%}"]
        rows.append((data, control, next(iter(found.values()))["episodes"], *figures))
    return markdown_table(rows)


def tables_of(plan: str, usable: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The tables of a plan, by the names of their markers, over the seeds of the plan."""
    blocks = PLANS[plan]
    suite = blocks[0].suite
    corruptions = list(dict.fromkeys(name for block in blocks for name in block.corruptions))
    arms = list(dict.fromkeys(arm for block in blocks for arm in block.arms))
    arms = arms if "sft" in arms else ["sft", "ptr", "oracle", *arms]
    lines = _on_seeds_of(usable, blocks)
    cells = outcomes_by_cell(lines)
    faults = _fault_tables(lines, cells, suite, arms) if plan == "atlas" else {}
    return {
        **faults,
        plan: success_table(cells, suite, corruptions, arms),
        f"{plan}-comparison": comparison_table(cells, suite, corruptions, arms),
        f"{plan}-pairwise": pairwise_table(cells, suite, corruptions, COMPARED.get(plan, "calibrated"), arms),
        f"{plan}-auroc": auroc_table(lines, suite, corruptions),
        f"{plan}-weights": weights_table(lines, suite, corruptions, arms),
        f"{plan}-state": _state(lines, blocks),
    }


def costly_groups() -> dict[str, Sequence[str]]:
    """The kinds of fault that cost success, and those of them that no check plants, by label."""
    unseen = [kind for kind in COSTLY if kind in UNSEEN]
    return {f"mean of {len(COSTLY)} kinds": COSTLY, f"mean of {len(unseen)} that no check plants": unseen}


def _fault_tables(lines: Sequence[dict[str, Any]], cells: Cells, suite: str, arms: Sequence[str]) -> dict[str, str]:
    """Success by kind of fault, and detection and policy side by side."""
    groups = costly_groups()
    run = {arm for of_suite, kind, arm in cells if of_suite == suite and kind in COSTLY}
    others = [arm for arm in arms if arm != "sft" and arm in run]
    weighing = [arm for arm in others if arm != "oracle"]
    return {
        "atlas-faults": faults_table(cells, suite, groups, (*COSTLY, "hard"), others),
        "atlas-detection": detection_and_policy_table(lines, cells, suite, COSTLY, weighing),
    }


def headline_of(usable: Sequence[dict[str, Any]]) -> str:
    """Means over kinds of fault in four rows, over the seeds of the plans `atlas` and, for clean data, `harmless`."""
    suite = PLANS["atlas"][0].suite
    cells = outcomes_by_cell(_on_seeds_of(usable, PLANS["atlas"]))
    groups = {**costly_groups(), "`hard`": ("hard",), "clean": ("clean",)}
    return headline_table(cells, suite, groups, [arm for arm in ALTERNATIVES if arm != FLAGGED_DROPPED])


def harm_of_arms(usable: Sequence[dict[str, Any]]) -> str:
    """Differences to SFT on recordings without a fault, of the plans `harmless` and `small`."""
    blocks = (*PLANS["harmless"], *PLANS["small"])
    rows = [(block.suite, name) for block in blocks for name in block.corruptions if name not in FAULTY]
    arms = [arm for arm in PLANS["harmless"][0].arms if arm != "sft"]
    return harm_table(outcomes_by_cell(_on_seeds_of(usable, blocks)), rows, arms)


def without_table(lines: Sequence[dict[str, Any]], pages: str) -> list[str]:
    """The runs that no table of the pages contains."""
    shown = [plan for plan in PLANS if re.search(rf"<!-- begin: {plan}(-\w+)? -->", pages)]
    wanted = {key for plan in shown for block in PLANS[plan] for key in block.cells()}
    return sorted({" ".join(cell_of(line)[:3]) for line in lines if cell_of(line) not in wanted})


def main() -> None:
    recorded = read_lines()
    usable = comparable(recorded)
    parts = {name: table for plan in PLANS for name, table in tables_of(plan, usable).items()}
    parts["summary"] = summary_table(usable)
    block = PLANS["main"][0]
    cells = outcomes_by_cell(_on_seeds_of(usable, [block]))
    parts["headline"] = success_table(cells, block.suite, HEADLINE, LEADING)
    parts["atlas-headline"] = headline_of(usable)
    parts["harm"] = harm_of_arms(usable)
    gap_figure(cells, block.suite, block.corruptions, block.arms[1:], FIGURE)
    swept = PLANS["sensitivity"]
    sensitivity_figure(outcomes_by_cell(_on_seeds_of(usable, swept)), swept[0].suite, swept[0].corruptions[0], SWEEPS)
    separate = {
        "detection": detection_table,
        "negative_controls": negative_controls_table,
        "score_ablations": score_ablations_table,
    }
    for name, table in separate.items():
        file = RESULTS.parent / f"{name}.json"
        content = json.loads(file.read_text()) if file.exists() else None
        if content:
            parts[name] = table(content["sets"] if name == "negative_controls" else content)
            if name == "negative_controls":
                parts["harmless_operators"] = harmless_operators_table(content["harmless"])
    for page in PAGES:
        fill_page(page, parts)
    if missing := without_table(usable, "".join(page.read_text(encoding="utf-8") for page in PAGES)):
        print(f"runs without a table: {', '.join(missing)}", file=sys.stderr)
    outdated = len(recorded) - len(usable)
    excluded = f", {outdated} on other demonstrations excluded" if outdated else ""
    print(f"{len(usable)} runs{excluded}; written: {', '.join(str(page.relative_to(ROOT)) for page in PAGES)}")


def _on_seeds_of(lines: Sequence[dict[str, Any]], blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Lines of the seeds that belong to a plan. Seeds added after seeing the first ones are evaluated separately."""
    seeds = {seed for block in blocks for seed in block.seeds}
    return [line for line in lines if line["seed"] in seeds]


def _state(lines: Sequence[dict[str, Any]], blocks: Sequence[Block]) -> str:
    """The number of completed runs of a plan, and their commits."""
    wanted = {key for block in blocks for key in block.cells()}
    completed = [line for line in lines if cell_of(line) in wanted]
    commits = ", ".join(sorted({line["commit"] for line in completed})) or "none"
    return f"{len(completed)} of {len(wanted)} runs completed. Commits: {commits}."


def _difference_to(mine: Outcomes, sft: Outcomes) -> str:
    """The second line of a cell: its difference to SFT."""
    return "" if mine is sft else f"<br>{points(difference(mine, sft))}"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _pair(values: list[tuple[float, float]] | None) -> str:
    if not values:
        return ""
    episode, sample = np.mean(values, axis=0)
    return f"{episode:.2f} ({sample:.2f})"


if __name__ == "__main__":
    main()
