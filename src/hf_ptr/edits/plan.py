"""The plan: what becomes of each episode, from the findings."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hf_ptr.data.lerobot.rewriting import Part
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.lag_words import frames_late
from hf_ptr.edits.choices import Choices

Done = Literal["drop", "trim", "cut", "split", "shift", "relabel"]
# Frames by which two checks may measure one lag differently.
SAME_LAG = 1


@dataclass(frozen=True)
class Step:
    """
    An edit of an episode.

    Attributes:
        episode: id of the episode in the source.
        first, last: the frames concerned, both included, in the source.
        edit: what is done: `drop` the episode, `trim` an end, `cut` frames out of the middle, `split` before the last
            of the frames, `shift` the actions, or `relabel`.
        check: name of the check; "" for the user's own choice, or for a rest that is too short.
        reason: why, in words.
    """

    episode: int
    first: int
    last: int
    edit: Done
    check: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """
    What becomes of the episodes of a dataset.

    Attributes:
        parts: the new episodes in order.
        steps: the edits, by episode.
        lengths: frames by id of the selected source episodes.
    """

    parts: Sequence[Part]
    steps: Sequence[Step]
    lengths: Mapping[int, int]

    @property
    def dropped(self) -> list[int]:
        """Ids of the source episodes of which nothing is kept."""
        kept = {part.episode for part in self.parts}
        return [episode for episode in self.lengths if episode not in kept]

    @property
    def edited(self) -> list[int]:
        """Ids of the source episodes that are kept with edits."""
        changed = {step.episode for step in self.steps}
        return sorted(changed.difference(self.dropped))

    @property
    def frames(self) -> int:
        """Number of frames of the new dataset."""
        return sum(part.stop - part.first for part in self.parts)

    def reasons(self, episode: int) -> list[Step]:
        """The edits of an episode."""
        return [step for step in self.steps if step.episode == episode]


def plan_edits(
    findings: Iterable[Finding], lengths: Mapping[int, int], fps: float, tasks: Collection[str], choices: Choices
) -> Plan:
    """
    Plan the edits of a dataset. A fault whose edit needs what the finding does not say is cut.

    Args:
        findings: the findings; those of other episodes are ignored.
        lengths: frames by id of the episodes to keep, in order.
        fps: frames per second.
        tasks: the instructions of the dataset: a finding's suggestion counts only if it is one of these.
        choices: the user's choices.
    """
    by_episode: dict[int, list[Finding]] = {}
    for finding in findings:
        if choices.edit_of(finding) != "keep":
            by_episode.setdefault(finding.episode_index, []).append(finding)
    least = choices.least_seconds * fps
    parts: list[Part] = []
    steps: list[Step] = []
    for episode, length in lengths.items():
        new, done = _planned(episode, length, by_episode.get(episode, []), tasks, choices, least)
        parts += new
        steps += done
    return Plan(parts, steps, lengths)


def _planned(
    episode: int, length: int, findings: Sequence[Finding], tasks: Collection[str], choices: Choices, least: float
) -> tuple[list[Part], list[Step]]:
    """The parts of an episode that are kept, and its edits."""
    task = choices.instructions.get(episode)
    shift = 0
    removed: list[tuple[int, int]] = []
    edges = {0, length}
    steps = [Step(episode, 0, length - 1, "relabel", "", f"the given instruction {task!r}")] if task else []
    for finding in findings:
        first, stop = finding.first_frame, finding.last_frame + 1
        whole = first == 0 and stop >= length
        edit = choices.edit_of(finding)
        if edit == "relabel":
            suggested = _suggested_instruction(finding, tasks)
            if task is None and suggested is not None:
                task = suggested
                steps.append(_step(finding, "relabel", f"{finding.cause}"))
            if task is not None or finding.severity != "fault":
                continue
        if edit == "shift" and whole:
            frames = round(frames_late(finding.cause, finding.amount))
            if shift and abs(frames - shift) <= SAME_LAG:
                continue  # Two checks that find one lag.
            if not shift and 0 < abs(frames) < length:
                shift = frames
                steps.append(
                    _step(finding, "shift", f"{finding.cause}; each frame gets the actions of {shift:+d} frames")
                )
                continue
        if edit == "split" and stop - first == 2:
            edges.add(min(first + 1, length))
            steps.append(_step(finding, "split", finding.cause))
            continue
        if whole or edit == "drop":
            removed.append((0, length))
            steps.append(_step(finding, "drop", finding.cause))
            continue
        removed.append((first, stop))
        edges |= {first, stop}
        steps.append(_step(finding, "cut" if first and stop < length else "trim", finding.cause))
    # A new instruction alone shortens nothing.
    shortest = max(least, 1) if removed or shift or len(edges) > 2 else 0
    if (0, length) in removed:
        return [], [step for step in steps if step.edit == "drop"]
    parts: list[Part] = []
    for first, stop in itertools.pairwise(sorted(edges)):
        if any(begin <= first and stop <= end for begin, end in removed):
            continue
        # The actions of the frames at one end are those of frames that are not in the part.
        kept = (first, stop - shift) if shift > 0 else (first - shift, stop)
        if kept[1] - kept[0] < shortest:
            steps.append(Step(episode, first, stop - 1, "trim", "", "less than --least-seconds is left here"))
        else:
            parts.append(Part(episode, *kept, shift, task))
    return parts, steps


def _step(finding: Finding, edit: Done, reason: str) -> Step:
    return Step(finding.episode_index, finding.first_frame, finding.last_frame, edit, finding.check, reason)


def _suggested_instruction(finding: Finding, tasks: Collection[str]) -> str | None:
    """The instruction of the dataset that the cause of a finding names at its end, in quotes."""
    quoted = min((place for sign in "'\"" if (place := finding.cause.find(sign)) >= 0), default=len(finding.cause))
    try:
        text = ast.literal_eval(finding.cause[quoted:])
    except (ValueError, SyntaxError):
        return None
    return text if isinstance(text, str) and text in tasks else None
