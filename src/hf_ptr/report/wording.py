"""Explanations of scores and training logs in plain sentences. Nothing here draws or knows HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hf_ptr.data.score_file import ELEMENT_PREFIX
from hf_ptr.report.accepted_words import accepted_line
from hf_ptr.report.inputs import ReportInput
from hf_ptr.report.note_words import notes_line
from hf_ptr.report.power_rows import power_summary
from hf_ptr.report.statistics import ShareShift, ess_ratio, logged_series, measure_known_faults
from hf_ptr.report.verdict import verdict
from hf_ptr.scoring.config import ScoreConfig

# The fault of an episode in which an element of the transition fails.
ELEMENT_FAILS = {
    "action": "the actions do not fit the observations before and after them (late, noisy, or from another motion)",
    "next_observation": "the next observation does not follow from the observation and the actions",
    "instruction": "the instruction does not match the recorded motion",
}
# The likely cause of an episode in which a check fails.
CHECK_CAUSES = {
    "action/pool": "the actions look like the actions of other episodes",
    "action/noise": "the actions jump from frame to frame, as if noise had been added",
    "next_observation/pool": "the next observations look like those of other episodes",
    "instruction/pool": "the recorded motion fits another instruction better",
}
# Weights have no effect if the effective sample size is above this share of n and as large a share of the weights is
# at the upper bound.
NO_EFFECT = 0.99
# The relative decrease of a task's share that is reported.
REPORTED_DECREASE = 0.15
# The controller's bounds of the temperature.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.03, 0.2


def explain_scores(report: ReportInput, episodes: pd.DataFrame, by_task: Sequence[ShareShift]) -> list[str]:
    """The findings from the scores, one sentence or two each, the most important first."""
    scores = report.scores
    assert scores is not None
    sentences = _found(report, episodes)
    sentences += _effect_of_weights(report, scores, len(episodes))
    if report.scored is not None:
        which = "of the run's training" if report.settings else "selected for it"
        sentences.append(
            f"The score file has {report.scored} episodes; this report is about the {len(episodes)} {which}."
        )
    low, high = report.bounds
    others = "the mean score of their episode" if report.held_out else "weight 1"
    scale = f"{low:.3g} (as with a fault) to {high:.3g} (as without one)"
    scale = scale if report.held_out else f"{low:.3g} to {high:.3g}"
    sentences.append(
        f"Weights can be {scale}; training uses their ratios only, so equal weights of any size change "
        f"nothing. {scores.valid.mean():.0%} of the frames start a chunk that is followed "
        f"by an observation; the others have {others}."
    )
    if len(by_task) > 1 and by_task[0].ratio < 1 - REPORTED_DECREASE:
        shift = by_task[0]
        sentences.append(
            f"The share of “{shift.name}” falls from {shift.share:.1%} of the frames to {shift.weighted:.1%} of the "
            f"weight ({shift.episodes} episodes)."
        )
    for fault in measure_known_faults(episodes):
        if fault.auroc is not None:
            sentences.append(
                f"Known fault “{fault.name}” in {fault.episodes} episodes: in {fault.auroc:.0%} of the pairs, the "
                f"episode without a fault has a higher score than the episode with this fault (AUROC "
                f"{fault.auroc:.2f}; 0.5 is chance)."
            )
    return sentences


def _found(report: ReportInput, episodes: pd.DataFrame) -> list[str]:
    """The verdict, the notes and the self-test; without findings, the reason."""
    if report.findings is not None:
        lengths = {int(number): int(frames) for number, frames in episodes.frames.items()}
        found = [
            verdict(report.findings, lengths, report.harm),
            notes_line(report.findings, len(lengths), report.harm),
            accepted_line(report.findings),
            power_summary(report.power),
        ]
        return [sentence for sentence in found if sentence]
    if report.held_out:
        return ["There are no findings with these scores: hf-ptr score DATASET finds faults and writes both."]
    return ["The PTR score ranks episodes and finds no faults: hf-ptr score DATASET does."]


def _effect_of_weights(report: ReportInput, scores: pd.DataFrame, episodes: int) -> list[str]:
    """A warning where the weights cannot have an effect, or have none."""
    if report.held_out and episodes < ScoreConfig.min_group_episodes:
        return [
            f"{episodes} episodes are too few to calibrate the score (at least "
            f"{ScoreConfig.min_group_episodes} are necessary): all "
            "weights are at their upper bound and contain no information."
        ]
    high = report.bounds[1]
    valid = scores[scores.valid] if scores.valid.any() else scores
    at_bound = float((valid.weight >= high - 1e-3 * max(high, 1.0)).mean())
    ess = ess_ratio(scores.weight.to_numpy())
    if ess <= NO_EFFECT or not (at_bound > NO_EFFECT or not report.flagged):
        return []
    sentence = (
        f"The weights have almost no effect: the effective sample size is {ess:.1%} of the chunks, so training with "
        "these weights is nearly the same as training without weights."
    )
    if at_bound > 0.5:
        sentence += f" {at_bound:.0%} of the scored chunks are at the upper bound."
    return [sentence]


def explain_log(report: ReportInput) -> list[str]:
    """The findings from the training log of a run, one sentence each."""
    sentences = []
    loss = logged_series(report.log, "loss_action")
    if len(loss) > 1:
        sentences.append(
            f"The action loss changed from {loss[0][1]:.3g} to {loss[-1][1]:.3g} over {loss[-1][0]:,} steps."
        )
    accuracy, score = (logged_series(report.log, metric) for metric in ("nce_acc", "ptr_score"))
    if accuracy:
        sentences.append(
            f"At the end of training, the scorer identifies the next observation in {accuracy[-1][1]:.0%} of the "
            f"cases; the mean score is {score[-1][1]:.2f} nats above chance."
        )
    clipped = logged_series(report.log, "weight_clip_high")
    if clipped and clipped[-1][1] > 0.9:
        sentences.append(
            f"At the end of training, {clipped[-1][1]:.0%} of the weights are at the upper bound, which has "
            "nearly the same effect as training without weights."
        )
    temperature = logged_series(report.log, "scorer_temperature")
    if temperature and not MIN_TEMPERATURE + 1e-6 < temperature[-1][1] < MAX_TEMPERATURE - 1e-6:
        sentences.append(f"The controller has moved the temperature to its bound, {temperature[-1][1]:.2f}.")
    if not report.log or report.scores is not None:
        return sentences
    given = report.recipe.get("weights")
    if given:
        sentences.append(
            f"The run was trained with the weights of the score file {given}, which was not found. There are no "
            "weights to report."
        )
    elif report.settings.get("alpha") == 0:
        sentences.append("α is 0: all chunks have the same weight. There are no weights to report.")
    return sentences


def explain_columns(report: ReportInput) -> str:
    """The meaning of the figures of an episode in the table of all."""
    low, high = report.bounds
    weight = f"Weight: the mean influence of the frames on training, {low:.3g} to {high:.3g}."
    if report.held_out:
        return (
            f"{weight} Score: the input of the weight, about 1 in a good episode and 0 or less where frames have a "
            "fault or a note that lowers weights. Only faults flag an episode."
        )
    return f"{weight} Score: the PTR score in nats; 0 is chance, and more is better."


def explain_limits(report: ReportInput) -> list[str]:
    """The limits of the scores."""
    if report.scores is None:
        return []
    meaning = (
        "Each episode was scored by models that were fitted on other episodes only. A score of 0 is typical of "
        f"episodes with a planted fault, a score of 1 is typical of good episodes. An element fails below "
        f"{ScoreConfig.threshold:g}."
        if report.held_out
        else "The scorer may have been trained on the episodes that it scores. It can then have learned their faults."
    )
    return [
        meaning,
        "A low weight means that observation, action and next observation do not fit together as they do in the other "
        "episodes. A rare but good way to do the task can also have a low weight. Inspect episodes before you delete "
        "them.",
        "A well executed demonstration of the wrong goal fits together, and is not found.",
    ]


def explain_episode(row: pd.Series, frames: pd.DataFrame, edges: np.ndarray | None) -> list[str]:
    """
    The reasons for the weight of one episode.

    Args:
        row: its row of `summarise_episodes`.
        frames: its rows of the score file.
        edges: `(T + 1,)` seconds of `frame_edges`; None for times in frames.
    """
    sentences = []
    if row.failed:
        share = float((frames.failed_element != "").mean())
        wrong = ELEMENT_FAILS.get(row.failed, "it does not fit the other episodes")
        sentences.append(f"Score: the element “{row.failed}” fails in {share:.0%} of the chunks: {wrong}.")
        cause = likely_cause(row.check, int(row.estimated_lag))
        if cause:
            sentences.append(f"Likely cause by the score: {cause}.")
    elements = [name for name in frames if name.startswith(ELEMENT_PREFIX) and np.isfinite(row[name])]
    if elements:
        values = ", ".join(f"{name.removeprefix(ELEMENT_PREFIX)} {row[name]:.2f}" for name in elements)
        sentences.append(f"Mean scores: {values} (0 as with a planted fault, 1 as a good episode).")
    if frames.weight.max() - frames.weight.min() > 0.05:
        lowest = frames.loc[frames.weight.idxmin()]
        when = f"frame {lowest.frame_index}" if edges is None else f"{edges[lowest.frame_index]:.1f} s"
        sentences.append(f"The chunk with the lowest weight ({lowest.weight:.2f}) starts at {when}.")
    return sentences


def likely_cause(check: str, estimated_lag: int) -> str:
    """
    The likely cause of an episode in which a check fails, in words; "" if the scores do not suggest one.

    Args:
        check: the check that fails most often.
        estimated_lag: the frames by which the actions are late, or early if negative.
    """
    if check == "action/shift" and estimated_lag:
        frames, late = abs(estimated_lag), estimated_lag > 0
        return (
            f"the actions recorded {frames} frames {'later' if late else 'earlier'} fit better, as if the actions "
            f"were {frames} frames {'late' if late else 'early'}"
        )
    return CHECK_CAUSES.get(check, "")
