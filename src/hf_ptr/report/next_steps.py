"""What to type after scoring: look at the findings, write a recipe, train, here or elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ptr.data.episode_ids import episode_ranges, parse_episodes
from hf_ptr.detection.findings_file import FindingsFiles

# Options of `hf-ptr init` that belong to the scores too, by their name in the metadata of a score file.
SHARED = ("episodes", "skip_episodes", "state", "action")


def training_steps(
    dataset: str, scores: str | Path, flagged: Sequence[int], lowered: Sequence[int], options: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """
    The commands that train a policy, `(purpose, command)`.

    Args:
        dataset: path or repo id of the scored dataset.
        scores: the score file.
        flagged: ids of the episodes with faults.
        lowered: ids of further episodes, whose notes lower weights.
        options: texts by a name of `SHARED`, those that the dataset was scored with; others are ignored.
    """
    steps = [
        ("write a recipe", recipe_command(dataset, options)),
        (
            "train with the weights, which keep the sound parts" if flagged or lowered else "train",
            shlex.join(["hf-ptr", "train", _recipe(dataset), f"weights={scores}"]),
        ),
        (
            "or train with them in LeRobot; --help lists further formats",
            shlex.join(["hf-ptr", "export", str(scores), "--to", "lerobot-static"]),
        ),
    ]

    if flagged or lowered:
        findings = FindingsFiles.beside(Path(scores)).findings
        copy = ["hf-ptr", "apply", dataset, "--findings", str(findings), "--out", f"{_name(dataset)}_edited"]
        steps.append(("or write a copy without these frames; --dry-run shows the edits", shlex.join(copy)))
        accept = ["hf-ptr", "export", str(scores), "--to", "expected", "--reason", "WHY"]
        steps.append(("or list findings to accept, then delete those that you have not watched", shlex.join(accept)))

    def without(episodes: Sequence[int], ending: str) -> str:
        left_out = {*(parse_episodes(options.get("skip_episodes")) or ()), *episodes}
        return recipe_command(dataset, {**options, "skip_episodes": episode_ranges(left_out)}, ending)

    if flagged:
        faults = f"{len(flagged)} episode{'s' if len(flagged) > 1 else ''} with a fault"
        steps.append((f"or leave out instead: {faults}", without(flagged, "_without")))
    if lowered:
        also = f"{'also ' if flagged else ''}{len(lowered)} with frames that count less"
        steps.append((f"or leave out instead: {also}", without([*flagged, *lowered], "_sound")))
    return steps


def recipe_command(dataset: str, options: Mapping[str, Any], ending: str = "", *, state_only: bool = False) -> str:
    """
    The command that writes a recipe into a file of the dataset's name.

    Args:
        dataset: path or repo id.
        options: as in `training_steps`.
        ending: after the name of the dataset.
        state_only: without cameras.
    """
    given = [(f"--{name.replace('_', '-')}", options[name]) for name in SHARED if isinstance(options.get(name), str)]
    words = [word for option in given for word in option] + (["--state-only"] if state_only else [])
    return shlex.join(["hf-ptr", "init", dataset, *words, "--out", _recipe(dataset, ending)])


def _recipe(dataset: str, ending: str = "") -> str:
    return f"{_name(dataset)}{ending}.yaml"


def _name(dataset: str) -> str:
    return Path(dataset.rstrip("/").partition("@")[0]).name or "recipe"
