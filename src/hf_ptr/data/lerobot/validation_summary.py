"""Text of a validation: errors before warnings, one line per kind with its episodes, the verdict last."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping

from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.data.features import FeatureKind
from hf_ptr.data.lerobot.validation import Problem, Validation
from hf_ptr.data.lerobot.versions import conversion_command
from hf_ptr.utils.listing import counted

SEVERITIES = ("error", "warning", "note")
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """
    One line for each kind of problem, errors first, notes last: its episodes, and the worst of its problems.

    Problems are of one kind if they have the same `kind`; without one, if their messages differ in numbers only.
    """
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity)):
        kinds.setdefault((problem.severity, problem.kind or NUMBER.sub("#", problem.message)), []).append(problem)
    return [_line(group) for group in kinds.values()]


def _line(problems: list[Problem]) -> str:
    worst = max(problems, key=lambda problem: problem.amount or 0.0)
    episodes = {problem.episode for problem in problems if problem.episode is not None}
    if len(problems) == 1 or len(episodes) < 2:
        more = f" (and {len(problems) - 1} more of this kind)" if len(problems) > 1 else ""
        return f"{worst}{more}"
    if worst.kind == "timestamp_gaps":
        return f"{worst.severity}: {len(episodes)} episodes ({episode_ranges(episodes)}): {_gaps(problems, worst)}"
    where = f"episode {worst.episode}" + ("" if worst.frame is None else f", frame {worst.frame}")
    which = "worst" if worst.amount is not None else "first"
    return (
        f"{worst.severity}: {len(episodes)} episodes ({episode_ranges(episodes)}): {worst.message} ({which}: {where})"
    )


def _gaps(problems: list[Problem], worst: Problem) -> str:
    """The gaps of all episodes in words, from the message of each, which starts with its number."""
    counts = [int(problem.message.partition(" ")[0]) for problem in problems]
    most = counts.index(max(counts))
    return (
        f"{sum(counts)} {worst.message.partition(' ')[2].replace('gap in', 'gaps in', 1)} of episode {worst.episode}; "
        f"the most in episode {problems[most].episode} ({counts[most]})"
    )


def feature_lines(features: Mapping[str, FeatureKind]) -> list[str]:
    """The use of each feature, one a line: vector, camera, or left out and why. Index columns are not listed."""
    listed = {name: kind for name, kind in features.items() if kind.kind != "index"}
    width = max(map(len, listed), default=0)
    lines = [f"  {name:{width}}  {kind}" for name, kind in listed.items()]
    return ["features:", *lines] if lines else []


def verdict_lines(found: Validation, dataset: str, episodes: str | None = None, skip: Iterable[int] = ()) -> list[str]:
    """
    The verdict, and what to type next.

    Args:
        found: the validation.
        dataset: the dataset as the user named it.
        episodes: the value of `--episodes`, for the commands that follow.
        skip: episodes that were left out already.
    """
    number_of = Counter(problem.severity for problem in found.problems)
    words = ", ".join(counted(number_of[severity], severity) for severity in ("error", "warning"))
    words += f", {counted(number_of['note'], 'note')}" if number_of["note"] else ""
    if found.episodes:
        words = (
            f"{counted(found.episodes, 'episode')}, {counted(found.frames, 'frame')}, "
            f"{counted(len(found.cameras), 'camera')}; {words}"
        )
    left_out = sorted({*skip, *(found.skippable or ())})
    options = "" if episodes is None else f" --episodes {episodes}"
    options += f" --skip-episodes {','.join(map(str, left_out))}" if left_out else ""
    following = f"hf-ptr score {dataset}{options}, or hf-ptr init {dataset}{options} for a recipe to train"
    if found.usable:
        lines = [f"{dataset} is usable: {words}", f"Next: {following}"]
        if found.refused_by_lerobot:
            command = shlex.join(conversion_command(found.dataset, "_v30", "--even-times"))
            lines.append(f"For LeRobot, a copy with the time stamps frame / fps: {command}{options}")
        return lines
    if found.skippable is None:
        return [f"{dataset} is not usable: {words}", "Fix the errors, then validate again."]
    number = counted(len(found.skippable), "episode")
    return [
        f"{dataset} is usable only without {number}: {words}",
        f"Next: fix {'it' if len(found.skippable) == 1 else 'them'}, or {following}",
        f'In a recipe of your own: skip_episodes: "{",".join(map(str, left_out))}"',
    ]
