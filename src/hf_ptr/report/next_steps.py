"""What to type after scoring: look at the findings, write a recipe, train."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hf_ptr.data.episode_ids import episode_ranges


def training_steps(
    dataset: str, scores: str | Path, flagged: Sequence[int], options: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """
    The commands that train a policy, `(purpose, command)`.

    Args:
        dataset: path or repo id of the scored dataset.
        scores: the score file.
        flagged: ids of the episodes with faults.
        options: options of `hf-ptr init`, for example those that select the scored episodes.
    """
    name = Path(dataset.rstrip("/").partition("@")[0]).name or "recipe"
    init = shlex.join(["hf-ptr", "init", dataset, *options])
    steps = [
        ("write a recipe", f"{init} --out {shlex.quote(f'{name}.yaml')}"),
        (
            "train with the weights, which keep the sound parts of faulty episodes" if flagged else "train",
            shlex.join(["hf-ptr", "train", f"{name}.yaml", f"weights={scores}", "alpha=0"]),
        ),
    ]
    if flagged and "--skip-episodes" not in options:
        without = f"{init} --skip-episodes {episode_ranges(flagged)} --out {shlex.quote(f'{name}_without.yaml')}"
        steps.append(("or leave these episodes out: a recipe without them", without))
    return steps
