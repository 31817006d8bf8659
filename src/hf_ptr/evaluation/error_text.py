"""Action errors for the terminal: the verdict against the best baseline first, then tables, then the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hf_ptr.evaluation.offline import HOLD, MEAN, SAMPLES, ZERO, Errors, ErrorTable, error_interval

# Episodes in the table of episodes.
MOST_EPISODES = 20
# The meaning of each baseline.
BASELINES = {
    HOLD: "hold position repeats the state",
    MEAN: "mean action repeats that of the training episodes",
    ZERO: "zero is 0",
}


def verdict(name: str, found: ErrorTable) -> str:
    """
    The error of a policy, that of the best baseline, and a comparison of the two, in sentences.

    Args:
        name: name of the policy.
        found: its errors.
    """
    error, baseline = error_interval(found.policy), found.baselines[found.best]
    count = len(found.episodes)
    over = f"{_between(error['interval'])}{count} episode{'s' if count > 1 else ''}"
    text = (
        f"{name}: predicted actions are {_number(error['mean'])} away from the recorded ones ({over}); the best guess "
        f"without a policy ({found.best}) is {_number(float(baseline.mae.mean()))} away. "
    )
    ratio = found.estimate.relative_to(baseline)
    if np.isnan(ratio["mean"]):
        return text + f"There is no ratio of the errors, because that of {found.best} is 0."
    relative = f"{_ratio(ratio['mean'])} times the error{_bracket(ratio['interval'])}"
    if ratio["interval"] is None:
        return text + f"The policy has {relative}."
    low, high = ratio["interval"]
    if high < 1:
        return text + f"The policy is better: {relative}."
    if low > 1:
        return text + f"The policy is worse: {relative}. Train it longer or on more before it moves a robot."
    return text + f"The policy is not significantly different: {relative}. Train it longer or on more."


def summary_table(name: str, found: ErrorTable) -> Group:
    """The mean absolute errors of a policy and of the baselines, smallest baseline first."""
    shown = _table("predictor")
    for column in ("error", "95 % CI", f"relative to {found.best}"):
        shown.add_column(column, justify="right")
    rows: dict[str, Errors] = {name: found.estimate, f"{name}, one sample": found.sample}
    rows |= dict(sorted(found.baselines.items(), key=lambda item: float(item[1].mae.mean())))
    for label, errors in rows.items():
        interval, ratio = error_interval(errors.mae), errors.relative_to(found.baselines[found.best])
        relative = f"{_ratio(ratio['mean'])}{_bracket(ratio['interval'])}"
        shown.add_row(escape(label), _number(interval["mean"]), _range(interval["interval"]), escape(relative))
    mean = f", the mean of {len(found.dimensions)} dimensions" if len(found.dimensions) > 1 else ""
    return _titled(f"{name}: mean absolute error of the actions in the units of the dataset{mean}", shown)


def legend(tables: Mapping[str, ErrorTable]) -> str:
    """The meaning of the rows of the summaries of all policies, by name."""
    used = {name for found in tables.values() for name in found.baselines}
    known = "; ".join(text for name, text in BASELINES.items() if name in used)
    missing: dict[str, list[str]] = {}
    for policy, found in tables.items():
        for name, reason in found.undefined.items():
            missing.setdefault(f"is no {name}: {reason}", []).append(policy)
    undefined = "".join(
        f" There {text}." if len(policies) == len(tables) else f" For {', '.join(policies)} there {text}."
        for text, policies in missing.items()
    )
    return (
        f"A smaller error is better. The policy is the mean of {SAMPLES} sampled chunks; one sample is what a robot "
        f"executes. Baselines need no policy: {known}.{undefined} The error ranks policies on recorded states; it is "
        "not a success rate."
    )


def dimensions_table(name: str, found: ErrorTable) -> Group:
    """Mean absolute errors by dimension of the action, in its units."""
    shown = _table("dimension")
    columns = {name: found.estimate} | found.baselines
    for label in columns:
        shown.add_column(escape(label), justify="right")
    for number, dimension in enumerate(found.dimensions):
        cells = (_number(float(errors.absolute[:, number].mean())) for errors in columns.values())
        shown.add_row(escape(dimension), *cells)
    return _titled(f"{name}: by dimension of the action", shown)


def episodes_table(name: str, found: ErrorTable) -> Group:
    """Mean absolute errors by episode, those with the largest errors of the policy first, `MOST_EPISODES` at most."""
    order = np.argsort(-found.policy, kind="stable")
    more = f", {MOST_EPISODES} of {len(order)}" if len(order) > MOST_EPISODES else ""
    shown = _table("episode")
    for label in (name, found.best, "relative"):
        shown.add_column(escape(label), justify="right")
    ratio, best = found.ratio(found.best), found.baselines[found.best].mae
    for row in order[:MOST_EPISODES].tolist():
        cells = (_number(float(column[row])) for column in (found.policy, best))
        shown.add_row(str(found.episodes[row]), *cells, _ratio(float(ratio[row])))
    return _titled(f"{name}: by episode, the largest error first{more}", shown)


def differences(tables: Mapping[str, ErrorTable]) -> dict[str, dict[str, Any]]:
    """
    The other policies compared with the first one, paired by episode, by name.

    Returns:
        `difference` of the mean absolute errors, negative where the policy is better than the first; `ratio` and
        `interval`, the ratio of these errors and its 95 % interval over episodes, both None where the first has no
        error; and `comparable`, whether both predict the same number of steps of the same action. Chunks of other
        lengths end at other steps.
    """
    first = next(iter(tables.values()))
    found = {}
    for name, table in list(tables.items())[1:]:
        ratio = table.estimate.relative_to(first.estimate)
        found[name] = {
            "difference": float(table.policy.mean() - first.policy.mean()),
            "ratio": None if np.isnan(ratio["mean"]) else ratio["mean"],
            "interval": ratio["interval"],
            "comparable": _not_comparable(table, first) is None,
        }
    return found


def comparison_table(tables: Mapping[str, ErrorTable]) -> Group:
    """The errors of several policies on the same episodes, and their ratios to that of the first one."""
    first = next(iter(tables))
    shown = _table("policy")
    for column in ("error", "relative", "95 % CI"):
        shown.add_column(column, justify="right")
    shown.add_column("verdict")
    shown.add_row(escape(first), _number(float(tables[first].policy.mean())), "", "", "")
    for name, one in differences(tables).items():
        reason = _not_comparable(tables[name], tables[first])
        shown.add_row(
            escape(name),
            _number(float(tables[name].policy.mean())),
            "-" if one["ratio"] is None else _ratio(one["ratio"]),
            "-" if one["interval"] is None else f"{one['interval'][0]:.2f} to {one['interval'][1]:.2f}",
            _compared(one["interval"]) if reason is None else f"not comparable: {reason}",
        )
    return _titled(f"Compared with {first}, episode by episode; a ratio below 1 is better", shown)


def _not_comparable(one: ErrorTable, other: ErrorTable) -> str | None:
    """The reason why the errors of two policies cannot be compared; None if they can."""
    if one.action_feature != other.action_feature:
        return f"the policies predict {one.action_feature} and {other.action_feature}"
    return None if one.steps == other.steps else "the policies predict other numbers of steps"


def _compared(interval: list[float] | None) -> str:
    if interval is None:
        return "no interval"
    low, high = interval
    return "better" if high < 1 else "worse" if low > 1 else "not significantly different"


def _table(first: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    return table


def _titled(title: str, table: Table) -> Group:
    """A table below its title, which may be wider."""
    return Group(Text(title, style="bold"), table)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def _ratio(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _range(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f"95 % CI {_range(interval)}, "


def _bracket(interval: list[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
