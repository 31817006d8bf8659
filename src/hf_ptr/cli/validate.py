"""`hf-ptr validate`: check a dataset for errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.cli.episode_options import Episodes, SkipEpisodes, selected


def validate(
    dataset: Annotated[Path, typer.Argument(help="Path or repo id of a LeRobotDataset, v2.1 or v3.0.")],
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Decode all frames, not only the first and last of each episode.")
    ] = False,
) -> None:
    """List all errors of a dataset with their episode and frame. Writes nothing.

    Checks for missing and damaged files, inconsistent lengths, NaN, timestamps that are out of order or do not match
    the frame rate, videos shorter than the table, unknown tasks, and constant dimensions (a warning). The exit code is
    2 if the dataset cannot be used for training. If only some episodes are unusable, the output lists them.

    Examples:

        hf-ptr validate data/g1_bottle

        hf-ptr validate data/g1_bottle --json > problems.json

        hf-ptr validate data/g1_bottle --every-frame
    """
    import json

    from hf_ptr.data.lerobot.validation import validate_dataset
    from hf_ptr.hub.repos import dataset_folder
    from hf_ptr.utils.progress import progress_bar

    home = dataset_folder(dataset, cameras=None)
    with progress_bar() as progress:
        found = validate_dataset(
            home,
            **selected(episodes, skip_episodes),
            every_frame=every_frame,
            progress=lambda what, jobs: progress.track(jobs, description=what),
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        for problem in found.problems:
            typer.echo(str(problem))
        errors = len(found.errors)
        typer.echo(
            f"{dataset}: {found.episodes} episodes, {found.frames} frames, {len(found.cameras)} cameras; "
            f"{errors} errors, {len(found.problems) - errors} warnings"
        )
        if not found.usable and found.skippable is not None:
            episodes = ",".join(map(str, found.skippable))
            typer.echo(f'To train on the other episodes, set skip_episodes: "{episodes}" in the recipe.')
    if not found.usable:
        raise typer.Exit(2)
