"""What scores and log say, in figures and in plain words. Nothing here draws or knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hf_ptr.metrics.statistics import auroc
from hf_ptr.report.inputs import SCORE_PREFIX, ReportInput
from hf_ptr.scoring.config import FAILED, MIN_GROUP

# What a view that fails says of an episode.
ELEMENT_FAILS = {
    "action": "the actions do not go with what was observed before and after them: late, noisy, or of another motion",
    "next_observation": "what was observed afterwards does not follow from what was done",
    "instruction": "the instruction is not that of what was done",
}
# What a component of a view that fails takes the episode for.
CHECK_CAUSES = {
    "action/pool": "its actions are taken for those of other episodes",
    "action/noise": "its actions tremble from frame to frame, as with noise on them",
    "next_observation/pool": "what followed is taken for what followed in other episodes",
    "instruction/pool": "what was done is taken for what another instruction asks for",
}
# An effective sample size above this share, and all weights at a bound in more than this share, are as if there were
# no weights.
NO_EFFECT = 0.99
# Points of a share that are worth a sentence.
MOVED = 0.15


@dataclass(frozen=True)
class Shift:
    """
    How the weights change the share of one source or task.

    Attributes:
        name: of the source or task.
        episodes: with a frame of it.
        share: π, its part of the frames.
        weighted: q, its part of the weight.
        ratio: q/π, PTR Eq. (29).
    """

    name: str
    episodes: int
    share: float
    weighted: float
    ratio: float


@dataclass(frozen=True)
class FoundFault:
    """
    How well the score finds a fault that is known to be in the data.

    Attributes:
        name: of the fault.
        episodes: that carry it.
        auroc: the probability that an episode without any fault has a higher mean score than one with this; None
            where there is none of either.
        named: of those among them that are flagged, by the view that fails.
    """

    name: str
    episodes: int
    auroc: float | None
    named: dict[str, int]


def flag_threshold(evidence: ReportInput) -> float:
    """
    The mean weight below which an episode is flagged: half-way between the bounds where the score is calibrated (its
    distance is then below one half), below the weight of plain training, 1, elsewhere.
    """
    low, high = evidence.bounds
    return (low + high) / 2 if evidence.held_out else 1.0


def summarise_episodes(evidence: ReportInput) -> pd.DataFrame:
    """
    One row an episode, by id: `frames weight score least task_index source failed check estimated_lag fault
    flagged`, and the mean of each `score_*`.

    `least` is the least weight of its chunks. `failed` is the view that fails most often in it, of a flagged episode
    the view of least mean where no chunk says so; "" where none fails.
    """
    scores = evidence.scores
    assert scores is not None
    views = [name for name in scores if name.startswith(SCORE_PREFIX)]
    groups = scores.groupby("episode_index", sort=True)
    table = groups.agg(
        frames=("weight", "size"),
        weight=("weight", "mean"),
        score=("score", "mean"),
        least=("weight", "min"),
        **{view: (view, "mean") for view in views},
    )
    for name, default in (("task_index", 0), ("source", ""), ("fault", ""), ("estimated_lag", 0)):
        table[name] = groups[name].first() if name in scores else default
    table["flagged"] = table.weight < flag_threshold(evidence)
    table["failed"] = ""
    table["check"] = ""
    for column, into in (("failed_element", "failed"), ("failed_check", "check")):
        if column in scores:
            named = scores[scores[column] != ""].groupby("episode_index")[column]
            said = named.agg(lambda names: names.mode()[0])
            table.loc[said.index, into] = said
    if views:
        silent = table.flagged & (table.failed == "")
        lowest = table.loc[silent, views].dropna(axis=1, how="all")
        if len(lowest) and lowest.shape[1]:
            table.loc[silent, "failed"] = [name.removeprefix(SCORE_PREFIX) for name in lowest.idxmin(axis=1)]
    return table


def likely_cause(check: str, shift: int) -> str:
    """What a flagged episode is confused with, in words; "" where the scores do not say."""
    if check == "action/shift" and shift:
        where, when = ("later", "late") if shift > 0 else ("earlier", "early")
        return f"the actions of {abs(shift)} frames {where} fit better, as if they had been recorded too {when}"
    return CHECK_CAUSES.get(check, "")


def shifts(scores: pd.DataFrame, names: Sequence[str]) -> list[Shift]:
    """
    The shift of each name's share, most lowered first.

    Args:
        scores: a row a frame.
        names: of each row, its source or task.
    """
    weight = scores.weight.to_numpy(dtype=np.float64)
    groups = pd.DataFrame({"weight": weight, "episode": scores.episode_index.to_numpy()}).groupby(list(names))
    share = groups.weight.size() / len(weight)
    weighted = groups.weight.sum() / weight.sum()
    episodes = groups.episode.nunique()
    found = [
        Shift(str(name), int(episodes[name]), part, weighted[name], weighted[name] / part)
        for name, part in share.items()
    ]
    return sorted(found, key=lambda shift: shift.ratio)


def measure_known_faults(episodes: pd.DataFrame) -> list[FoundFault]:
    """How well known faults are found; empty where none is known. An episode may carry several, joined by `+`."""
    carried = episodes.fault.map(lambda text: set(filter(None, text.split("+"))))
    names = sorted(set().union(*carried))
    clean = episodes.score[carried.map(len) == 0].to_numpy()
    found = []
    for name in [*names, *(["any"] if len(names) > 1 else [])]:
        mine = carried.map(len) > 0 if name == "any" else carried.map(lambda held, name=name: name in held)
        named = episodes.failed[mine & episodes.flagged].value_counts().to_dict()
        found.append(FoundFault(name, int(mine.sum()), auroc(clean, episodes.score[mine].to_numpy()), named))
    return found


def sample_share(weight: np.ndarray) -> float:
    """Effective sample size over n, `(Σw)² / (n Σw²)`."""
    weight = np.asarray(weight, dtype=np.float64)
    return float(weight.sum() ** 2 / (len(weight) * np.square(weight).sum()))


def say_scores(evidence: ReportInput, episodes: pd.DataFrame, by_task: Sequence[Shift]) -> list[str]:
    """What the weights say, a sentence each, the most important first."""
    scores = evidence.scores
    assert scores is not None
    low, high = evidence.bounds
    valid = scores[scores.valid] if scores.valid.any() else scores
    share = sample_share(scores.weight.to_numpy())
    flagged = episodes[episodes.flagged].sort_values("weight")
    said = []
    top = float((valid.weight >= high - 1e-3 * max(high, 1.0)).mean())
    if evidence.held_out and len(episodes) < MIN_GROUP:
        said.append(
            f"{len(episodes)} episodes are too few for a scale (at least {MIN_GROUP}): every weight stands at its "
            "upper bound, whatever the episodes are like."
        )
    elif share > NO_EFFECT and (top > NO_EFFECT or not len(flagged)):
        said.append(
            f"The weights change next to nothing: the effective sample size is {share:.1%} of the chunks, so training "
            "with them is plain training."
            + (f" {top:.0%} of the scored chunks stand at the upper bound." if top > 0.5 else "")
        )
    if len(flagged):
        said.append(
            f"{len(flagged)} of {len(episodes)} episodes are flagged (mean weight below "
            f"{flag_threshold(evidence):.2f}): {_listed(flagged.index)}."
        )
        kinds = flagged.failed[flagged.failed != ""].value_counts()
        for view, count in kinds.items():
            which = "all" if count == len(flagged) > 1 else str(count)
            said.append(f"In {which} of them {ELEMENT_FAILS.get(str(view), f'the view {view} does not fit')}.")
    elif evidence.held_out and len(episodes) >= MIN_GROUP:
        said.append(
            f"No episode is flagged: none of {len(episodes)} has a mean weight below {flag_threshold(evidence):.2f}."
        )
    others = "take the evidence of their episode" if evidence.held_out else "keep weight 1"
    said.append(
        f"Mean weight {scores.weight.mean():.2f}, of a possible {low:g} to {high:g}; the weighted data are worth "
        f"{share:.0%} of as many equal chunks (effective sample size). {scores.valid.mean():.0%} of the frames have "
        f"an observation after their chunk; the others {others}."
    )
    for shift in by_task if len(by_task) > 1 else ():
        if shift.ratio < 1 - MOVED:
            said.append(
                f"The share of “{shift.name}” falls from {shift.share:.1%} to {shift.weighted:.1%} of the data "
                f"({shift.episodes} episodes)."
            )
            break
    for fault in measure_known_faults(episodes):
        if fault.auroc is not None:
            said.append(
                f"Known fault “{fault.name}” in {fault.episodes} episodes: an episode without a fault scores higher "
                f"than one with it in {fault.auroc:.0%} of the pairs (AUROC {fault.auroc:.2f}; 0.5 is blind)."
            )
    return said


def say_log(evidence: ReportInput) -> list[str]:
    """What the log of a run says."""
    said = []
    loss = series(evidence.log, "loss_action")
    if len(loss) > 1:
        said.append(f"Over {loss[-1][0]:,} steps the action loss went from {loss[0][1]:.3g} to {loss[-1][1]:.3g}.")
    accuracy, clip = series(evidence.log, "nce_acc"), series(evidence.log, "weight_clip_high")
    if accuracy:
        score = series(evidence.log, "ptr_score")
        said.append(
            f"The scorer picks the observation that followed in {accuracy[-1][1]:.0%} of the cases at the end; its "
            f"mean score is {score[-1][1]:.2f} nats over chance."
        )
    if clip and clip[-1][1] > 0.9:
        said.append(
            f"At the end {clip[-1][1]:.0%} of the weights stand at the upper bound: they weigh the chunks alike, and "
            "the run is plain training with a scorer beside it."
        )
    temperature = series(evidence.log, "scorer_temperature")
    if temperature and (temperature[-1][1] <= 0.03 + 1e-6 or temperature[-1][1] >= 0.2 - 1e-6):
        said.append(f"The controller has driven the temperature to its bound, {temperature[-1][1]:.2f}.")
    if not evidence.log:
        return said
    given = evidence.recipe.get("weights")
    if given and evidence.scores is None:
        said.append(
            f"Each chunk counted as much as the score file {given} says, which cannot be found from here: there are "
            "no weights to report on."
        )
    elif evidence.settings.get("alpha") == 0 and evidence.scores is None:
        said.append("α is 0: every chunk counts alike, and there are no weights to report on.")
    return said


def caveats(evidence: ReportInput) -> list[str]:
    """What these figures cannot show."""
    if evidence.scores is None:
        return []
    how = (
        "Each episode was scored by heads that have not seen it. "
        f"A distance of 0 is where episodes with a fault made on purpose lie, 1 where good ones lie; below {FAILED:g} "
        "a view counts as failed."
        if evidence.held_out
        else "The scorer has trained on what it scores, if the run did: it may know a fault by heart."
    )
    return [
        how,
        "Low weight means unlike the other episodes in how context, action and consequence go together. Look before "
        "you delete: a rare but good way of doing the task is unlike the others, too.",
        "A cleanly executed demonstration of a wrong goal fits together, and is not found.",
    ]


def series(log: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """`(step, value)` of a logged metric; entries that are no finite numbers are passed over."""
    points = []
    for entry in log:
        step, value = entry.get("step"), entry.get(metric)
        if isinstance(step, int) and isinstance(value, int | float) and np.isfinite(value):
            points.append((step, float(value)))
    return points


def _listed(ids: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(str(number) for number in list(ids)[:most])
    return shown if len(ids) <= most else f"{shown} and {len(ids) - most} more"
