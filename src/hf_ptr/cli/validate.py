"""`hf-ptr validate`: check a dataset for errors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.cli.episode_options import Episodes, SkipEpisodes, selected


class FailOn(StrEnum):
    """The least problem after which the exit code is not 0."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"


def validate(
    dataset: Annotated[Path, typer.Argument(help="Path or repo id of a LeRobotDataset, v2.1 or v3.0.")],
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Decode all frames, not only the first and last of each episode.")
    ] = False,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            help="error: exit with code 2 if the dataset cannot be used. warning: also with 1 after a warning. never: "
            "exit with 0."
        ),
    ] = FailOn.ERROR,
) -> None:
    """Check a dataset: its problems, errors first, one line a kind with its episodes; its features; the verdict.

    Checks for missing and damaged files, inconsistent lengths, NaN, timestamps that are out of order or do not match
    the frame rate, videos shorter than the table, unknown tasks, and rows that LeRobot refuses because of their times
    (a warning, with the command that writes a copy for LeRobot). A note needs no action. --json lists
    every single problem with episode and frame. The exit code is 2 if the dataset cannot be used for training. If only
    some episodes are unusable, the last lines say how to leave them out. Nothing is written.

    Examples:

        hf-ptr validate data/g1_bottle

        hf-ptr validate data/g1_bottle --json > problems.json

        hf-ptr validate data/g1_bottle --every-frame --episodes 0:16
    """
    import json

    from hf_ptr.data.lerobot.validation import validate_dataset
    from hf_ptr.data.lerobot.validation_summary import feature_lines, problem_lines, verdict_lines
    from hf_ptr.hub.repos import dataset_folder
    from hf_ptr.utils.progress import progress_bar

    chosen = selected(episodes, skip_episodes)
    home = dataset_folder(dataset, cameras=None)
    with progress_bar() as progress:
        found = validate_dataset(
            home,
            **chosen,
            every_frame=every_frame,
            progress=lambda what, jobs: progress.track(jobs, description=what),
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        for line in [*problem_lines(found.problems), *feature_lines(found.features)]:
            typer.echo(line)
        for line in verdict_lines(found, str(dataset), episodes, chosen["skip"]):
            typer.echo(line)
    if fail_on.value == FailOn.NEVER:
        return
    if not found.usable:
        raise typer.Exit(2)
    if fail_on.value == FailOn.WARNING and any(one.severity == "warning" for one in found.problems):
        raise typer.Exit(1)
